"""The augmentations that keep Paint by Example from copying (arXiv:2211.13227, section 3.2, "strong augmentation").

A reference cut out of the very picture that is to be painted would be answered by pasting it back. So the reference is
mirrored, turned, blurred and bent; the mask is larger than the reference's box, or no box at all; and the picture is
cut anew each time. The numbers are those of the published data loader and of the library of augmentations that it used,
at its defaults. All draw from the generator they are given.
"""

from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from models.paint_by_example import reference_tensor

PixelBox: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
Random: TypeAlias = np.random.Generator

MIRRORED, TURN, BLUR, BEND = 0.5, 0.5, 0.3, 0.3  # how often each is done
DEGREES = 20.0  # of turning, either way
BLUR_SIDES = (3, 5, 7)  # pixels of the box that blurs
CORNER = 50.0  # of 224 pixels, that each of three corners moves when bent, in either direction
PUBLISHED_SIDE = 512  # the next two are of pictures of this size or larger, and in proportion of smaller ones
AROUND = 10  # pixels around the box that the reference has as well
FREE_SPACE = 0.4  # of the space between a box's side and the picture's, that the mask may take at most
SHRINK = 0.6  # of the margin around the mask, that the cut may give up at most
OUTLINE = 0.5  # how often the mask is an outline instead of a box
JITTER = 5  # pixels by which each point of the outline is off
POINTS = np.arange(1, 19) * 0.05  # of each curve's length, 0.05 to 0.9


def reference_of(picture: Image.Image, box: PixelBox, rng: Random | None, size: int = 224) -> Tensor:
    """What a box of the picture shows, as the image encoder wants it, (3 size size); augmented if there is an `rng`.

    With the ten pixels around the box, as far as the picture has them; squeezed to a square first.
    """
    left, top, right, bottom = box
    more = in_proportion(AROUND, picture.size)
    around = (
        max(0, left - more),
        max(0, top - more),
        min(picture.width, right + more),
        min(picture.height, bottom + more),
    )
    pixels = reference_tensor(picture.crop(around), size)
    return (pixels if rng is None else augmented(pixels, rng))[0]


def in_proportion(pixels: int, size: tuple[int, int]) -> int:
    """So many pixels of a published picture, in one of this (width, height)."""
    return max(1, round(pixels * min(1.0, min(size) / PUBLISHED_SIDE)))


def augmented(pixels: Tensor, rng: Random) -> Tensor:
    """A reference (1 3 h w), mirrored, turned, blurred and bent, each or not."""
    if rng.random() < MIRRORED:
        pixels = pixels.flip(-1)
    if rng.random() < TURN:
        pixels = turned(pixels, float(rng.uniform(-DEGREES, DEGREES)))
    if rng.random() < BLUR:
        pixels = box_blurred(pixels, int(rng.choice(BLUR_SIDES)))
    if rng.random() < BEND:
        pixels = bent(pixels, rng.uniform(-CORNER / 224, CORNER / 224, (3, 2)))
    return pixels


def turned(pixels: Tensor, degrees: float) -> Tensor:
    """Pictures (b c h w), square, turned counter-clockwise about the middle; what comes in from outside is mirrored."""
    angle = np.deg2rad(degrees)
    return _warped(pixels, np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0]]))


def box_blurred(pixels: Tensor, side: int) -> Tensor:
    """Every pixel the mean of a square of `side`, which is odd; the edges mirrored."""
    padded = F.pad(pixels, (side // 2,) * 4, mode="reflect")
    return F.avg_pool2d(padded, side, stride=1)


def bent(pixels: Tensor, moves: np.ndarray) -> Tensor:
    """Sheared and stretched so that three corners of the middle third's square move.

    moves: (3 2), as shares of the side, across and down. It is the affine part of the published elastic transform; what
    that adds, a field of displacements of one pixel smoothed over fifty, moves nothing by a hundredth of a pixel.
    """
    corners = np.array([[1, 1], [1, -1], [-1, -1]]) * 2 / 3
    there = corners + 2 * moves
    # the sampling grid asks where each pixel comes from: the map from `there` to `corners`
    matrix = np.linalg.solve(np.hstack([there, np.ones((3, 1))]), corners).T
    return _warped(pixels, matrix)


def _warped(pixels: Tensor, matrix: np.ndarray) -> Tensor:
    """Every place (x, y), in [-1, 1] from corner pixel to corner pixel, shows what is at matrix @ (x, y, 1)."""
    theta = torch.from_numpy(matrix).to(pixels)[None].expand(len(pixels), -1, -1)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=True)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def enlarged(box: PixelBox, size: tuple[int, int], rng: Random) -> PixelBox:
    """The box with each side moved out by up to 0.4 of the free space there; size: (width, height) of the picture."""
    space = (box[0], box[1], size[0] - box[2], size[1] - box[3])
    left, top, right, bottom = (int(rng.integers(0, int(FREE_SPACE * free) + 1)) for free in space)
    return box[0] - left, box[1] - top, box[2] + right, box[3] + bottom


def bezier_outline(box: PixelBox, around: PixelBox, rng: Random, jitter: int = JITTER) -> list[tuple[float, float]]:
    """The points of a rounded outline: four quadratic Bezier curves from corner to corner of the box.

    Each bulges towards the middle of the side of `around`; 18 points on each, every one up to `jitter` pixels off. The
    order is top, right, bottom, left.
    """
    left, top, right, bottom = box
    middle = ((left + right) / 2, (top + bottom) / 2)
    curves = (
        ((left, top), (middle[0], around[1]), (right, top)),
        ((right, top), (around[2], middle[1]), (right, bottom)),
        ((right, bottom), (middle[0], around[3]), (left, bottom)),
        ((left, bottom), (around[0], middle[1]), (left, top)),
    )
    t = POINTS[:, None]
    found = [(1 - t) ** 2 * np.array(a) + 2 * t * (1 - t) * np.array(b) + t**2 * np.array(c) for a, b, c in curves]
    points = np.concatenate(found)
    points = points + rng.integers(-jitter, jitter + 1, points.shape)
    return [(float(x), float(y)) for x, y in points]


def draw_mask(size: tuple[int, int], box: PixelBox, around: PixelBox, rng: Random) -> Image.Image:
    """A mask ("L") of (width, height), white where it is to be repainted: an outline, or all of `around`."""
    mask = Image.new("L", size, 0)
    if rng.random() < OUTLINE:
        ImageDraw.Draw(mask).polygon(bezier_outline(box, around, rng, in_proportion(JITTER, size)), fill=255)
    else:
        mask.paste(255, around)
    return mask


def square_around(box: PixelBox, size: tuple[int, int], rng: Random) -> PixelBox:
    """The cut to train on: a square as high as the picture, or as wide, that holds the box, and a little less of it.

    Where no such square holds the box, all of the picture, which is then squeezed.
    """
    if size[0] < size[1]:
        turned_box = (box[1], box[0], box[3], box[2])
        top, left, bottom, right = square_around(turned_box, (size[1], size[0]), rng)
        return left, top, right, bottom
    width, side = size
    first, last = max(0, box[2] - side), min(width, box[0] + side) - side
    if last <= first:
        return 0, 0, width, side
    left = int(rng.integers(first, last + 1))
    margin = min(box[1], box[0] - left, left + side - box[2], side - box[3])
    less = int(rng.integers(0, int(SHRINK * margin) + 1))
    return left + less, less, left + side - less, side - less
