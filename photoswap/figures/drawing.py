"""Attention as pictures: components in grey and in colours, heat laid over what it is of."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.images import grid

from .attention import SeenMaps

CELL = 160  # pixels of the longer side of a picture in a grid
# Dark blue to pale yellow through red: brightness grows all the way, in grey too.
HEAT_COLOURS = np.array([(0, 0, 40), (90, 15, 110), (200, 50, 60), (250, 150, 30), (255, 250, 190)], dtype=np.float64)
HEAT = 0.65  # how much of an overlay is heat


def stretched(values: Tensor) -> NDArray[np.float64]:
    """Values on a grid (h w) from 0 to 1; of equal ones all are 0."""
    low, high = values.min(), values.max()
    return ((values - low) / (high - low if high > low else 1)).double().cpu().numpy()


def grey(values: Tensor, size: tuple[int, int]) -> Image.Image:
    """A map (h w) in grey, its least value black and its largest white, enlarged to (width, height)."""
    return _enlarged(Image.fromarray(np.uint8(255 * stretched(values) + 0.5)), size).convert("RGB")


def in_colours(maps: Tensor, size: tuple[int, int]) -> Image.Image:
    """Three maps (3 h w) as red, green and blue: places of the same colour look at the same places."""
    return Image.merge("RGB", [grey(one, size).convert("L") for one in maps])


def overlay(picture: Image.Image, heat: Tensor) -> Image.Image:
    """Heat (h w), stretched to all of its range, over the picture in grey."""
    share = np.asarray(_enlarged(Image.fromarray(np.float32(stretched(heat))), picture.size), dtype=np.float64)
    places = share.clip(0, 1) * (len(HEAT_COLOURS) - 1)
    low = np.minimum(places.astype(int), len(HEAT_COLOURS) - 2)
    colours = HEAT_COLOURS[low] + (places - low)[..., None] * (HEAT_COLOURS[low + 1] - HEAT_COLOURS[low])
    under = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float64)
    return Image.fromarray(np.uint8(HEAT * colours + (1 - HEAT) * under + 0.5))


def component_row(picture: Image.Image, components: Tensor, label: str) -> tuple[list[Image.Image], list[str]]:
    """The picture, its first three components in colours where there are three, then each in grey; their labels."""
    size = picture.size
    images, labels = [picture], [label]
    if len(components) >= 3:
        images.append(in_colours(components[:3], size))
        labels.append("1, 2, 3")
    return [*images, *(grey(one, size) for one in components)], [*labels, *map(str, range(1, len(components) + 1))]


def heat_row(
    picture: Image.Image, seen: SeenMaps, words: Sequence[tuple[str, Sequence[int]]], label: str
) -> tuple[list[Image.Image], list[str]]:
    """The picture, then what each word's tokens look at over it; their labels."""
    images = [overlay(picture, seen.heat(columns)) for _, columns in words]
    return [picture, *images], [label, *(word for word, _ in words)]


def rows_grid(rows: Sequence[tuple[list[Image.Image], list[str]]]) -> Image.Image:
    """Rows of as many pictures each as one grid."""
    images = [image for images, _ in rows for image in images]
    return grid(images, [label for _, labels in rows for label in labels], columns=len(rows[0][0]))


def cell(picture: Image.Image) -> Image.Image:
    """The picture at the size that a grid shows it."""
    scale = CELL / max(picture.size)
    w, h = (max(1, round(side * scale)) for side in picture.size)
    return picture.convert("RGB").resize((w, h), Image.Resampling.LANCZOS)


def component_shares(values: Tensor, seen: SeenMaps) -> list[float]:
    """How much of M, less its mean, each component holds: its squared singular value of the sum of all."""
    if seen.M is None:
        return []
    total = torch.linalg.matrix_norm((seen.M - seen.M.mean(dim=1, keepdim=True)).double()).square()
    return [round(float(value), 4) for value in values.double().square() / total]


def _enlarged(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.BICUBIC)
