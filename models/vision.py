"""Paint by Example's image encoder: one reference picture to the one token of context that the U-Net reads.

CLIP's vision transformer (arXiv:2103.00020, section 2.4) reduces the picture to its class token, which says what is in
it and not where; a mapper of five residual blocks and a projection make a context of that (arXiv:2211.13227,
section 3.2, "content bottleneck"). The unconditional context of guidance is a token of its own, learnt with the rest.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.attention import SelfAttention
from models.clip import CLIPLayer, draw_normal, embedding
from models.config import VisionConfig


class VisionTower(nn.Module):
    """Pictures (b 3 size size), normalised as CLIP's were, to what their class token has gathered, (b width)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias=False)
        self.class_embedding = nn.Parameter(config.width**-0.5 * torch.randn(config.width))  # CLIP's starting point
        self.position_embedding = embedding((config.size // config.patch) ** 2 + 1, config.width)
        self.norm_in = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(
            CLIPLayer(
                SelfAttention(config.width, config.heads, bias=True),
                config.width,
                config.mlp_ratio * config.width,
                config.activation == "quick_gelu",
            )
            for _ in range(config.layers)
        )
        self.norm_out = nn.LayerNorm(config.width)
        draw_normal(self.position_embedding.weight, std=config.width**-0.5)

    def forward(self, pictures: Tensor) -> Tensor:
        """Raises ValueError for pictures of another shape."""
        size = self.config.size
        if pictures.dim() != 4 or tuple(pictures.shape[1:]) != (3, size, size):
            raise ValueError(
                f"the references are {tuple(pictures.shape)}; the image encoder wants (b, 3, {size}, {size}): "
                "resize them first"
            )
        tokens = rearrange(self.patches(pictures), "b c h w -> b (h w) c")
        x = torch.cat([self.class_embedding.expand(len(tokens), 1, -1), tokens], dim=1)
        x = self.norm_in(x + self.position_embedding.weight)
        for layer in self.layers:
            x = layer(x)
        return self.norm_out(x[:, 0])  # what the patches hold now is never asked for


class WideLayerNorm(nn.LayerNorm):
    """A layer norm computed in float32 at least, whatever its parameters are, and returned in the dtype of x."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            normed = F.layer_norm(x.to(wide), self.normalized_shape, self.weight.to(wide), self.bias.to(wide), self.eps)
        return normed.to(x.dtype)


class ImageEncoder(nn.Module):
    """Pictures (b 3 size size), normalised as CLIP's were, to context (b 1 context_channels).

    empty: the context of no picture, (1 1 context_channels). With one token a softmax has nothing to choose from, so
    the mapper's attention is its values alone, and its queries and keys are never trained.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = VisionTower(config)
        self.mapper = nn.ModuleList(
            CLIPLayer(
                SelfAttention(config.width, config.mapper_heads, bias=True),
                config.width,
                4 * config.width,
                quick=False,
                norm=WideLayerNorm,
            )
            for _ in range(config.mapper_blocks)
        )
        self.final_norm = WideLayerNorm(config.width)
        self.proj_out = nn.Linear(config.width, config.context_channels)
        self.empty = nn.Parameter(torch.randn(1, 1, config.context_channels))

    def forward(self, pictures: Tensor) -> Tensor:
        """Raises ValueError for pictures of another shape."""
        return self.proj_out(self.map(self.tower(pictures)))

    def map(self, pooled: Tensor) -> Tensor:
        """What the tower found, (b width), as one token (b 1 width), before the projection."""
        x = pooled[:, None]
        for block in self.mapper:
            x = block(x)
        return self.final_norm(x)
