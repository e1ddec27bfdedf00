"""The layer that CLIP's two towers are made of (arXiv:2103.00020), and Paint by Example's mapper too."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Attention


class MLP(nn.Module):
    """Two linear layers with a GELU between them, exact or OpenAI's x sigmoid(1.702 x)."""

    def __init__(self, channels: int, hidden: int, quick: bool) -> None:
        super().__init__()
        self.quick = quick
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear1(x)
        return self.linear2(hidden * torch.sigmoid(1.702 * hidden) if self.quick else F.gelu(hidden))


def embedding(count: int, width: int) -> nn.Embedding:
    """nn.Embedding, on the meta device without values: to draw them there would import PyTorch's compiler for nothing,
    which takes longer than to load a small model."""
    weight = torch.empty(count, width)
    return nn.Embedding(count, width, _weight=weight if weight.is_meta else None)


def draw_normal(weight: Tensor, std: float) -> None:
    """Draw a weight from a normal distribution; on the meta device there is nothing to draw."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


class CLIPLayer(nn.Module):
    """One pre-norm layer, (b n c) in and out: self-attention, then an MLP, each added to its input.

    attn: over x alone, whatever it lets a token see. quick: OpenAI's GELU. norm: the kind of both norms.
    """

    def __init__(
        self, attn: Attention, channels: int, hidden: int, quick: bool, norm: type[nn.LayerNorm] = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.attn = attn
        self.norm2 = norm(channels)
        self.mlp = MLP(channels, hidden, quick)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
