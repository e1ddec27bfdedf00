"""The autoencoder between pictures and latents: eight times smaller sides, four channels.

Latent diffusion (arXiv:2112.10752), section 3.1 and appendix G: a KL-regularised convolutional autoencoder. The encoder
gives the mean and log-variance of a Gaussian over latents; diffusion works on scale_factor x latent, and that scaling
is left to the caller.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.attention import SelfAttention
from models.blocks import Downsample, ResBlock, Upsample
from models.config import VAEConfig
from models.hooks import NO_HOOK, Hook
from models.tiling import decode_in_bands, encode_in_bands

NORM_EPS = 1e-6
TILE_ABOVE = 1024**2  # pixels of a picture; untiled, a published decoder holds some 5 GB there in float32


class ImageAttention(SelfAttention):
    """Single-headed self-attention over all places of (b c h w), normalised before and added to its input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, heads=1, bias=True)
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)

    def forward(self, x: Tensor, hook: Hook = NO_HOOK) -> Tensor:
        tokens = super().forward(rearrange(self.norm(x), "b c h w -> b (h w) c"), hook)
        return x + rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])


class Level(nn.Module):
    """ResBlocks at one resolution, then a change of resolution, if any."""

    def __init__(self, widths: Sequence[int], groups: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResBlock(a, b, groups, norm_eps=NORM_EPS) for a, b in pairwise(widths))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        return x if self.upsample is None else self.upsample(x)


class Middle(nn.Module):
    """ResBlock, attention, ResBlock at the coarsest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResBlock(channels, channels, groups, norm_eps=NORM_EPS) for _ in range(2))
        self.attention = ImageAttention(channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks[1](self.attention(self.resblocks[0](x)))


class Encoder(nn.Module):
    """Pictures (b 3 8h 8w) to (b 2c h w), the moments before `quant_conv`."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = (config.channels, *config.widths)
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, (before, after) in enumerate(pairwise(widths)):
            level = Level([before] + [after] * config.res_blocks, config.groups)
            if i < len(config.widths) - 1:
                level.downsample = Downsample(after, symmetric=False)  # padded right and bottom, as its weights expect
            self.down.append(level)
        self.mid = Middle(widths[-1], config.groups)
        self.norm_out = nn.GroupNorm(config.groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents (b c h w), after `post_quant_conv`, to pictures (b 3 8h 8w); one ResBlock more a level than going in."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = (config.widths[-1], *reversed(config.widths))
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid = Middle(widths[0], config.groups)
        self.up = nn.ModuleList()
        for i, (before, after) in enumerate(pairwise(widths)):
            level = Level([before] + [after] * (config.res_blocks + 1), config.groups)
            if i < len(config.widths) - 1:
                level.upsample = Upsample(after)
            self.up.append(level)
        self.norm_out = nn.GroupNorm(config.groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))
        for level in self.up:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    """Encoder and decoder with the 1x1 convolutions between them; latents here are not yet scaled.

    tile: whether pictures are computed in bands (models/tiling.py), in less memory and equal but for rounding; None for
    those of more than TILE_ABOVE pixels. Where gradients are wanted nothing is tiled.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.tile: bool | None = None
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, images: Tensor) -> Tensor:
        """Pictures (b 3 h w) in [-1, 1] to moments (b 2c h/8 w/8): the mean, then the log-variance, of the latents.

        Raises ValueError unless both sides are multiples of config.factor.
        """
        factor = self.config.factor
        if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] % factor or images.shape[3] % factor:
            raise ValueError(
                f"images are {tuple(images.shape)}; the encoder wants (b, 3, h, w) with h and w multiples of {factor}: "
                "crop or resize first"
            )
        if self._tiles(images.shape[2] * images.shape[3]):
            return encode_in_bands(self, images)
        return self.quant_conv(self.encoder(images))

    def split(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the log-variance, the latter clamped to [-30, 20]; each (b c h w)."""
        mean, log_variance = moments.chunk(2, dim=1)
        # the bounds the weights were trained with; an untrained encoder's exp() would overflow without them
        return mean, log_variance.clamp(-30.0, 20.0)

    def mean(self, moments: Tensor) -> Tensor:
        """The most likely latents, (b c h w)."""
        return self.split(moments)[0]

    def sample(self, moments: Tensor, generator: torch.Generator) -> Tensor:
        """Latents (b c h w) drawn from the Gaussian; the noise is drawn where the generator lives."""
        mean, log_variance = self.split(moments)
        noise = torch.randn(mean.shape, generator=generator, device=generator.device, dtype=mean.dtype)
        return mean + (0.5 * log_variance).exp() * noise.to(mean.device)

    def latents(self, moments: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (b c h w) as the U-Net takes them, scaled: the mean, or a draw when a generator is given."""
        found = self.mean(moments) if generator is None else self.sample(moments, generator)
        return found * self.config.scale_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents (b c h w) to pictures (b 3 8h 8w), about [-1, 1] but not clipped to it.

        Raises ValueError when the latents have another number of channels.
        """
        channels = self.config.latent_channels
        if latents.dim() != 4 or latents.shape[1] != channels:
            raise ValueError(f"latents are {tuple(latents.shape)}; the decoder wants (b, {channels}, h, w)")
        if self._tiles(latents.shape[2] * latents.shape[3] * self.config.factor**2):
            return decode_in_bands(self, latents)
        return self.decoder(self.post_quant_conv(latents))

    def _tiles(self, pixels: int) -> bool:
        wanted = pixels > TILE_ABOVE if self.tile is None else self.tile
        return wanted and not torch.is_grad_enabled()
