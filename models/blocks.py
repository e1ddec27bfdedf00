"""Convolutional building blocks shared by the U-Net and the autoencoder, and the embedding of time.

ResBlock is that of DDPM (arXiv:2006.11239, appendix B) as used by latent diffusion (arXiv:2112.10752): group norm, SiLU
and a 3x3 convolution, twice, around a shortcut.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.hooks import NO_HOOK, Hook

Zeroed = TypeVar("Zeroed", nn.Linear, nn.Conv2d)


def timestep_embedding(t: Tensor, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Embed timesteps in sines and cosines of geometrically spaced frequencies, 1 down to 1/10000.

    t: (b,). Returns (b channels), cosines before sines: DDPM has them the other way round, but the published weights
    were trained with latent diffusion's order. Computed in float32 or wider, since angles reach 999.
    """
    wide = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(channels // 2, device=t.device, dtype=wide) / (channels // 2)
    angles = t.to(wide)[:, None] * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)


class TimeEmbedding(nn.Module):
    """Timesteps (b,) to (b 4c): sinusoids of c channels through an MLP."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.linear2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, t: Tensor) -> Tensor:
        embedded = timestep_embedding(t, self.channels, self.linear1.weight.dtype)
        return self.linear2(F.silu(self.linear1(embedded)))


class ResBlock(nn.Module):
    """(b c_in h w) to (b c_out h w), moved by the time embedding where there is one.

    time_channels: width of the time embedding; None in the autoencoder, which knows no time. norm_eps: of the group
    norms, 1e-5 in the U-Net and 1e-6 in the autoencoder, as the official weights were trained. zero: start as the
    shortcut alone, which steadies the training of deep U-Nets.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        time_channels: int | None = None,
        norm_eps: float = 1e-6,
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=norm_eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_channels, out_channels) if time_channels is not None else None
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=norm_eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.body: Callable[..., Tensor] = ResBlock.moved  # or a compiled form of it (models/fast.py)
        if zero:
            zeroed(self.conv2)

    def forward(self, x: Tensor, time: Tensor | None = None, hook: Hook = NO_HOOK) -> Tensor:
        """x: (b c_in h w). time: (b time_channels), if and only if the block was built with time_channels.

        hook: its `output` slot is given the residual, (b c_out h w), before the shortcut is added. Raises ValueError
        for a time embedding that is missing, or that nothing here would use.
        """
        return self.body(self, x, time, hook)

    def moved(self, x: Tensor, time: Tensor | None, hook: Hook) -> Tensor:
        """What `forward` does."""
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time is not None and time is not None:
            h = h + self.time(F.silu(time))[:, :, None, None]
        elif self.time is not None or time is not None:
            raise ValueError(
                "this ResBlock was built with time_channels and got no time embedding: pass one, (b time_channels)"
                if time is None
                else f"time is {tuple(time.shape)}; this ResBlock was built without time_channels: leave time out"
            )
        h = hook.output(self.conv2(F.silu(self.norm2(h))))
        return h + (x if self.shortcut is None else self.shortcut(x))


class Downsample(nn.Module):
    """Halve both sides with a strided 3x3 convolution.

    The U-Net pads one pixel all around; the autoencoder (symmetric=False) pads right and bottom only: its weights were
    trained so, and padding all around would shift the picture by one pixel.
    """

    def __init__(self, channels: int, symmetric: bool = True) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))  # left, right, top, bottom


class Upsample(nn.Module):
    """Double both sides by repeating pixels, then smooth with a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def zeroed(layer: Zeroed) -> Zeroed:
    """Set a layer's weight and bias to zero, so that at first it adds nothing; returns the layer."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
