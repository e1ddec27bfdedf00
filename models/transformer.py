"""The transformer inside the U-Net: self-attention, cross-attention and a gated feed-forward layer.

Latent diffusion (arXiv:2112.10752), section 3.3 and appendix E.2.1. Each block looks the
hooks of its two attention layers up.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import CrossAttention, KeysValues, PreparedContext, SelfAttention
from models.blocks import zeroed
from models.hooks import NO_HOOK, NO_HOOKS, Hook, Hooks, Site, check_rows

Context = Tensor | PreparedContext
NORM_EPS = 1e-6


class GEGLU(nn.Module):
    """Gated feed-forward layer (arXiv:2002.05202): four times wider inside, one half gating the other by exact GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(channels, 8 * channels)
        self.proj_out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(self.gated(x))

    def gated(self, x: Tensor) -> Tensor:
        """(b n c) to (b n 4c). A call of the U-Net holds most here, and where no gradient asks for it, no more."""
        # the gate is the second half: the official weights' order
        value, gate = self.proj_in(x).chunk(2, dim=-1)
        opened = F.gelu(gate)
        return opened * value if torch.is_grad_enabled() else opened.mul_(value)


class TransformerBlock(nn.Module):
    """x (b n c) moved by self-attention, by the context (b m c') and by a feed-forward layer, each normalised first."""

    def __init__(self, channels: int, context_channels: int, heads: int, site: Site) -> None:
        super().__init__()
        self.self_site, self.cross_site = site._replace(kind="self"), site._replace(kind="cross")
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = CrossAttention(channels, context_channels, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = GEGLU(channels)
        self.body: Callable[..., Tensor] = TransformerBlock.attended  # or a compiled form of it (models/fast.py)

    def forward(self, x: Tensor, context: Context, hooks: Hooks = NO_HOOKS) -> Tensor:
        text = context.at(self.cross_site) if isinstance(context, PreparedContext) else context
        return self.body(self, x, text, *(hooks.get(site, NO_HOOK) for site in (self.self_site, self.cross_site)))

    def attended(self, x: Tensor, text: Tensor | KeysValues, self_hook: Hook, cross_hook: Hook) -> Tensor:
        """What `forward` does once it has looked its hooks up."""
        x = x + check_rows(self.self_site, x, self.attn1(self.norm1(x), self_hook))
        x = x + check_rows(self.cross_site, x, self.attn2(self.norm2(x), text, cross_hook))
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the places of a picture, (b c h w) in and out, added to their input.

    site: the address of the first block's layers; later blocks count on from it. proj_in and proj_out are Linear; the
    1x1 convolutions of SD 1.x are the same matrices.
    """

    def __init__(
        self, channels: int, context_channels: int, heads: int, groups: int, site: Site, depth: int = 1
    ) -> None:
        super().__init__()
        # 1e-6 here and 1e-5 in the ResBlocks around it: so the official weights were trained
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.proj_in = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, context_channels, heads, site._replace(layer=site.layer + k))
            for k in range(depth)
        )
        self.proj_out = zeroed(nn.Linear(channels, channels))
        layers = [site._replace(layer=site.layer + k) for k in range(depth)]
        self.sites = tuple(s for one in layers for s in (one._replace(kind="self"), one._replace(kind="cross")))

    def forward(self, x: Tensor, context: Context, hooks: Hooks = NO_HOOKS) -> Tensor:
        tokens = self.proj_in(self.norm(x).flatten(2).mT)  # (b c h w) to (b n c)
        for block in self.blocks:
            tokens = block(tokens, context, hooks)
        return x + self.proj_out(tokens).mT.unflatten(2, x.shape[2:])
