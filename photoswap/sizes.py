"""Pictures of any shape, worked on at a size the model knows, and put back where they came from.

A model wants sides that are multiples of its granularity and an area near the one it was trained on. The source is cut,
centred, to the shape of the size worked on, never squeezed, and resized. The result is resized to the cut's own
resolution and laid over the source there, so that the rim outside the cut, and everything outside a user's mask, is the
source's own pixels, bit for bit.
"""

import math
from itertools import product
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from models.images import as_mask

SMALLEST = 16  # pixels a side; below that nothing of a picture is left to swap
LANCZOS = Image.Resampling.LANCZOS
Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom


def working_size(source: tuple[int, int], native: int, granularity: int) -> tuple[int, int]:
    """The (width, height) at which to work on a picture of size source, (width, height) too.

    Both sides are multiples of granularity. Shape counts twice as much as area in what is near; a square picture
    yields the model's native square. Raises ValueError for a picture with a side under 16 pixels.
    """
    if min(source) < SMALLEST:
        raise ValueError(f"the picture is {source[0]} x {source[1]} pixels; want at least {SMALLEST} a side")
    shape, area = math.log(source[0] / source[1]), math.log(native**2)

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        w, h = size
        return 2 * abs(math.log(w / h) - shape) + abs(math.log(w * h) - area), w * h

    sides = range(granularity, 4 * native + 1, granularity)
    return min(product(sides, sides), key=distance)


def check_size(size: tuple[int, int], granularity: int) -> None:
    """Raise ValueError unless (width, height) are positive multiples of granularity."""
    if min(size) < granularity or any(side % granularity for side in size):
        raise ValueError(f"size {size[0]} x {size[1]}; this model wants sides that are multiples of {granularity}")


def cut(source: tuple[int, int], size: tuple[int, int]) -> Box:
    """The largest centred box (left, top, right, bottom) of a picture with the shape of size, in whole pixels."""
    scale = min(source[0] / size[0], source[1] / size[1])
    w, h = (max(1, round(side * scale)) for side in size)
    left, top = (source[0] - w) // 2, (source[1] - h) // 2
    return left, top, left + w, top + h


def take(source: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The source's cut at the size worked on, as RGB."""
    part = source.convert("RGB").crop(cut(source.size, size))
    return part if part.size == size else part.resize(size, LANCZOS)


def place(
    result: Image.Image, source: Image.Image, mask: Image.Image | None = None, feather: float = 0.004
) -> Image.Image:
    """The source, at its own resolution, with the result laid over its cut.

    mask: of the source's size, white where the picture may change; outside it not one pixel differs from the source.
    feather: how far inside the mask, or inside the cut where it leaves a rim, the result fades in, as a share of the
    cut's shorter side; 0 for a hard edge. Raises ValueError when mask and source differ in size.
    """
    box = cut(source.size, result.size)
    region = Image.new("L", source.size, 0)
    region.paste(255, box)
    if mask is not None:
        region = ImageChops.darker(region, _binary(mask, source.size))
    over = source.convert("RGB")
    extent = (box[2] - box[0], box[3] - box[1])
    over.paste(result if result.size == extent else result.resize(extent, LANCZOS), box[:2])
    return Image.composite(over, source.convert("RGB"), _faded(region, feather * min(extent)))


def touched_cells(mask: Image.Image, size: tuple[int, int], factor: int = 8) -> Tensor:
    """A user's mask on the grid of the latents, (1 1 h w) bool: true for every cell that any white pixel falls into.

    mask: of the source's size. size: (width, height) worked on. factor: pixels to a latent.
    """
    part = _binary(mask, mask.size).crop(cut(mask.size, size))
    white = torch.from_numpy(np.array(part, dtype=np.float32))[None, None]
    found = F.adaptive_max_pool2d(white, (size[1] // factor, size[0] // factor)) > 0
    if not found.any():
        raise ValueError("the mask is black where the model looks; paint white what may change")
    return found


def check_mask(mask: Image.Image, size: tuple[int, int]) -> None:
    """Raise ValueError unless the mask has the source's size."""
    if mask.size != size:
        raise ValueError(f"the mask is {mask.size[0]} x {mask.size[1]} pixels, the source {size[0]} x {size[1]}")


def _binary(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """White from mid-grey up, black below."""
    check_mask(mask, size)
    return as_mask(mask).point([0] * 128 + [255] * 128)


def _faded(region: Image.Image, radius: float) -> Image.Image:
    """The region's edge softened inwards, so that outside it stays exactly black."""
    if radius <= 0:
        return region
    soft = region.filter(ImageFilter.GaussianBlur(radius)).point([max(0, 2 * i - 255) for i in range(256)])
    return ImageChops.darker(soft, region)
