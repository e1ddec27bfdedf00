"""Cutting a subject out of one picture and pasting it into another, over a hole that was filled smoothly."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .masks import box_of
from .sizes import check_mask

Pixels = NDArray[np.float64]  # (h w 3), 0..255, and other numbers of a picture
ENOUGH = 1e-4  # levels of 255 that a value is off the sum of its neighbours, at which a surface is smooth
SMALL_HOLE = 16  # pixels a side, below which a surface is not begun on a coarser grid


def paste_into(
    picture: Image.Image, hole: Tensor | Image.Image, subject: Image.Image, subject_mask: Image.Image | None = None
) -> tuple[Image.Image, Image.Image]:
    """The picture with the subject laid over the hole's box, as large as fits and standing on its lower edge.

    hole: (1 1 h w) or a grey picture of the picture's size. subject_mask: white where the subject's picture shows it;
    None for all of it. Also returns where it is now, a grey picture of the picture's size.
    """
    if subject_mask is None:
        subject_mask = Image.new("L", subject.size, 255)
    check_mask(subject_mask, subject.size)
    place, own = box_of(_grey(hole)), box_of(subject_mask)
    scale = min((place[2] - place[0]) / (own[2] - own[0]), (place[3] - place[1]) / (own[3] - own[1]))
    size = max(1, round((own[2] - own[0]) * scale)), max(1, round((own[3] - own[1]) * scale))
    left, top = (place[0] + place[2] - size[0]) // 2, place[3] - size[1]
    cut, alpha = (
        image.crop(own).resize(size, Image.Resampling.LANCZOS)
        for image in (subject.convert("RGB"), subject_mask.convert("L"))
    )
    result, where = picture.convert("RGB"), Image.new("L", picture.size, 0)
    result.paste(cut, (left, top), alpha)
    where.paste(alpha, (left, top))
    return result, where


def filled(picture: Image.Image, hole: Tensor | Image.Image) -> Image.Image:
    """The picture with its hole filled by the smoothest surface that continues what is around it."""
    pixels = np.array(picture.convert("RGB"), dtype=np.float64)
    found = membrane(pixels, np.array(_grey(hole)) > 127)
    return Image.fromarray(found.clip(0, 255).round().astype(np.uint8))


def membrane(values: Pixels, hole: NDArray[np.bool_]) -> Pixels:
    """Values (h w c) as they are outside a hole (h w); inside, each is the mean of its four neighbours.

    The picture's own edge pulls at nothing. Where the hole is everything, it is the mean of all values. Solved by
    conjugate gradients, from the solution of half the size.
    """
    if not hole.any():
        return values.copy()
    if hole.all():
        return np.broadcast_to(values.mean(axis=(0, 1)), values.shape).copy()
    found = np.where(hole[..., None], _guess(values, hole), values)
    inside = hole[..., None].astype(np.float64)
    count = _neighbours(np.ones(hole.shape)[..., None])

    def pulled(x: Pixels) -> Pixels:
        product: Pixels = inside * (count * x - _neighbours(x))
        return product

    residue = -pulled(found)
    direction, before = residue.copy(), np.square(residue).sum(axis=(0, 1))
    for _ in range(4 * max(hole.shape)):
        if np.abs(residue).max() < ENOUGH:
            break
        step = pulled(direction)
        length = before / (direction * step).sum(axis=(0, 1)).clip(1e-300)
        found = found + length * direction
        residue = residue - length * step
        after = np.square(residue).sum(axis=(0, 1))
        direction, before = residue + after / before.clip(1e-300) * direction, after
    return found


def _guess(values: Pixels, hole: NDArray[np.bool_]) -> Pixels:
    """Where to begin: the membrane of half the size, or the mean of what is known."""
    h, w = hole.shape
    if min(h, w) < 2 * SMALL_HOLE:
        return np.broadcast_to(values[~hole].mean(axis=0), values.shape)
    even = h // 2 * 2, w // 2 * 2
    known = (~hole)[: even[0], : even[1], None].reshape(h // 2, 2, w // 2, 2, 1).astype(np.float64)
    blocks = values[: even[0], : even[1]].reshape(h // 2, 2, w // 2, 2, -1)
    weight = known.sum(axis=(1, 3))
    coarse = (blocks * known).sum(axis=(1, 3)) / weight.clip(1)
    small = membrane(coarse, weight[..., 0] == 0)
    rows, columns = (np.arange(side).clip(0, half * 2 - 1) // 2 for side, half in ((h, h // 2), (w, w // 2)))
    return small[rows][:, columns]


def _neighbours(x: Pixels) -> Pixels:
    """The sum of the four neighbours of each value that lie in the picture."""
    total = np.zeros_like(x)
    total[1:] += x[:-1]
    total[:-1] += x[1:]
    total[:, 1:] += x[:, :-1]
    total[:, :-1] += x[:, 1:]
    return total


def _grey(hole: Tensor | Image.Image) -> Image.Image:
    if isinstance(hole, Image.Image):
        return hole.convert("L")
    return Image.fromarray((hole[0, 0].cpu().numpy() > 0).astype(np.uint8) * 255)
