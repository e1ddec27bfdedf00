"""The CLIP text transformer: token ids to the context that cross-attention reads.

CLIP (arXiv:2103.00020), section 2.4: a causal pre-norm transformer over 77 tokens. SD 2.x conditions on the penultimate
layer of OpenCLIP's ViT-H/14, so the last stored layer never runs; the final layer norm always does. SD 1.x uses every
layer of OpenAI's ViT-L/14, with a sigmoid approximation to GELU.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import Attention, attend
from models.clip import CLIPLayer, draw_normal, embedding
from models.config import TextConfig


class CausalAttention(Attention):
    """Self-attention in which a token sees itself and those before it, (b n c) in and out."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, channels, heads, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        heads = attend(*self.project(x, x), causal=True)
        return self.to_out(rearrange(heads, "b h n d -> b n (h d)"))


def text_layer(config: TextConfig) -> CLIPLayer:
    """One layer of the text transformer."""
    attn = CausalAttention(config.width, config.heads)
    return CLIPLayer(attn, config.width, config.mlp_ratio * config.width, config.activation == "quick_gelu")


class TextEncoder(nn.Module):
    """Token ids (b 77) to context (b 77 width).

    Of the checkpoint's `stored_layers` only the first `layers` exist here. gradient_checkpointing: recompute layers in
    the backward pass instead of keeping their activations.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.token_embedding = embedding(config.vocabulary, config.width)
        self.position_embedding = embedding(config.length, config.width)
        # SD 2.x was trained on what the last layer but one gives, so the last is never run and not built; its final
        # norm is applied all the same, to what the last layer but one gives
        self.layers = nn.ModuleList(text_layer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)
        draw_normal(self.token_embedding.weight, std=0.02)  # CLIP's own starting point
        draw_normal(self.position_embedding.weight, std=0.01)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode token ids (b length), as a `Tokenizer` of the same padding makes them.

        Raises ValueError for another shape or for tokens that are not integers.
        """
        length = self.config.length
        if tokens.dim() != 2 or tokens.shape[1] != length or tokens.is_floating_point():
            raise ValueError(f"tokens are {tokens.dtype} {tuple(tokens.shape)}; wanted integers of shape (b, {length})")
        x = self.token_embedding(tokens) + self.position_embedding.weight
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        return self.final_norm(x)
