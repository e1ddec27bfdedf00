"""The autoencoder in bands: large pictures in a share of the memory, and the same pixels.

Cutting a picture into tiles and blending them, as is usual, changes it: every tile has group norms of its own, and the
attention in the middle sees one tile only. Here no layer notices. Each convolution is computed a band of rows at a time
with the rows beyond its edges read from the whole, the statistics of each group norm are those of the whole, taken band
by band, and the middle, at an eighth of the sides, stays whole but for the queries of its attention. What remains of
the untiled network's memory is what goes into a block and what its first convolution leaves; normalised copies,
activations and the convolutions' own working memory are a band high. No layer is computed twice.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.attention import attend
from models.blocks import Downsample, ResBlock, Upsample

if TYPE_CHECKING:
    from models.vae import Autoencoder, ImageAttention, Level, Middle

Read: TypeAlias = Callable[[int, int], Tensor]  # rows from the first to before the second, (b c rows w)

BAND_ROWS = 64  # of the convolution's output: at 2048 pixels a band is a thirty-second of the map
QUERIES = 4096  # of the attention at once: where no fused kernel takes heads so wide, their map is all that is built
KERNEL = 3


@torch.no_grad()
def encode_in_bands(vae: "Autoencoder", images: Tensor, rows: int = BAND_ROWS) -> Tensor:
    """What `vae.encode` gives, (b 2c h/8 w/8), but for rounding. images: (b 3 h w). Without gradients."""
    encoder = vae.encoder
    x = _convolved(encoder.conv_in, _rows_of(images), images.shape[2], rows)
    for level in encoder.down:
        x = _level(cast("Level", level), x, rows)
    x = _middle(encoder.mid, x, rows)
    return vae.quant_conv(_convolved(encoder.conv_out, _activated(encoder.norm_out, x, rows), x.shape[2], rows))


@torch.no_grad()
def decode_in_bands(vae: "Autoencoder", latents: Tensor, rows: int = BAND_ROWS) -> Tensor:
    """What `vae.decode` gives, (b 3 8h 8w), but for rounding. latents: (b c h w). Without gradients."""
    decoder = vae.decoder
    x = _middle(decoder.mid, decoder.conv_in(vae.post_quant_conv(latents)), rows)
    for level in decoder.up:
        x = _level(cast("Level", level), x, rows)
    return _convolved(decoder.conv_out, _activated(decoder.norm_out, x, rows), x.shape[2], rows)


def _level(level: "Level", x: Tensor, rows: int) -> Tensor:
    for block in level.resblocks:
        x = _resblock(cast(ResBlock, block), x, rows)
    if level.downsample is not None:
        x = _downsampled(level.downsample, x, rows)
    return x if level.upsample is None else _upsampled(level.upsample, x, rows)


def _middle(middle: "Middle", x: Tensor, rows: int) -> Tensor:
    first, second = (cast(ResBlock, block) for block in middle.resblocks)
    return _resblock(second, _attention(middle.attention, _resblock(first, x, rows)), rows)


def _resblock(block: ResBlock, x: Tensor, rows: int) -> Tensor:
    """The block's output: in the memory of its input where both are as wide, which nobody else reads any more."""
    height = x.shape[2]
    h = _convolved(block.conv1, _activated(block.norm1, x, rows), height, rows)
    residual = _activated(block.norm2, h, rows)
    out = x if block.shortcut is None else x.new_empty(len(x), block.conv2.out_channels, *x.shape[2:])
    for top, bottom in _bands(height, rows):
        part = x[:, :, top:bottom] if block.shortcut is None else block.shortcut(x[:, :, top:bottom])
        out[:, :, top:bottom] = part + _band(block.conv2, residual, top, bottom, height)
    return out


def _attention(layer: "ImageAttention", x: Tensor) -> Tensor:
    tokens = rearrange(layer.norm(x), "b c h w -> b (h w) c")
    q, k, v = layer.project(tokens, tokens)
    heads = torch.cat([attend(part, k, v) for part in q.split(QUERIES, dim=2)], dim=2)
    out = layer.to_out(rearrange(heads, "b h n d -> b n (h d)"))
    return x + rearrange(out, "b (h w) c -> b c h w", h=x.shape[2])


def _downsampled(layer: Downsample, x: Tensor, rows: int) -> Tensor:
    return _convolved(layer.conv, _rows_of(x), x.shape[2], rows)


def _upsampled(layer: Upsample, x: Tensor, rows: int) -> Tensor:
    def read(top: int, bottom: int) -> Tensor:
        first = top // 2
        doubled = F.interpolate(x[:, :, first : (bottom + 1) // 2], scale_factor=2.0, mode="nearest")
        return doubled[:, :, top - 2 * first : bottom - 2 * first]

    return _convolved(layer.conv, read, 2 * x.shape[2], rows)


def _rows_of(x: Tensor) -> Read:
    return lambda top, bottom: x[:, :, top:bottom]


def _activated(norm: nn.GroupNorm, x: Tensor, rows: int) -> Read:
    """Rows of silu(norm(x)), with the statistics of the whole: a factor and a shift for each channel."""
    wide = torch.promote_types(x.dtype, torch.float32)
    parts = [x[:, :, top:bottom] for top, bottom in _bands(x.shape[2], rows)]
    groups, count = norm.num_groups, x[0].numel() // norm.num_groups
    mean = torch.stack([_grouped(part, groups, wide).sum(2) for part in parts]).sum(0) / count
    centred = [(_grouped(part, groups, wide) - mean[:, :, None]).square().sum(2) for part in parts]
    deviation = (torch.stack(centred).sum(0) / count + norm.eps).sqrt()
    each = x.shape[1] // groups
    factor = norm.weight.to(wide) / deviation.repeat_interleave(each, dim=1)
    shift = norm.bias.to(wide) - mean.repeat_interleave(each, dim=1) * factor
    factor, shift = factor[:, :, None, None], shift[:, :, None, None]
    return lambda top, bottom: F.silu((x[:, :, top:bottom].to(wide) * factor + shift).to(x.dtype))


def _grouped(x: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    return rearrange(x, "b (g c) h w -> b g (c h w)", g=groups).to(dtype)


def _convolved(conv: nn.Conv2d, read: Read, height: int, rows: int) -> Tensor:
    """The convolution of an input of that height, a band at a time."""
    bands = _bands(height // conv.stride[0], rows)
    first = _band(conv, read, *bands[0], height)
    out = first.new_empty(*first.shape[:2], bands[-1][1], first.shape[3])
    for top, bottom in bands:
        out[:, :, top:bottom] = first if top == 0 else _band(conv, read, top, bottom, height)
    return out


def _band(conv: nn.Conv2d, read: Read, top: int, bottom: int, height: int) -> Tensor:
    """Rows top to bottom of the convolution's output; beyond the edges of the input it sees zeros, as ever.

    The autoencoder's strided convolutions are padded right and below alone (models/blocks.py, Downsample).
    """
    stride, before = conv.stride[0], int(conv.padding[0])
    first, last = top * stride - before, (bottom - 1) * stride - before + KERNEL
    part = read(max(first, 0), min(last, height))
    part = F.pad(part, (before, 1, max(-first, 0), max(last - height, 0)))  # left, right, top, bottom
    return F.conv2d(part, conv.weight, conv.bias, conv.stride)


def _bands(height: int, rows: int) -> list[tuple[int, int]]:
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]
