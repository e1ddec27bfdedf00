"""Paint inside a mask: what a reference shows, or a prompt says, without learning and without inverting anything.

How it is painted is a method's to say (`photoswap/paint_methods/`): by default a network that was trained to, Paint by
Example (arXiv:2211.13227) for a reference and the inpainting checkpoints of Stable Diffusion for a prompt. They were
trained on masks that cover 2 to 80 % of what they see, so a small one is worked on in an enlarged crop.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from models.images import as_mask, to_image, to_tensor, upright
from models.inpainting import left_of, to_mask
from models.stable_diffusion import LatentDiffusion
from models.threads import in_suited_threads

from .crop import put_back
from .masks import box_of
from .paint_method import Canvas, PaintMethod, Told
from .paint_methods.network import PaintSettings
from .sizes import SMALLEST, Box, check_mask, check_size, cut, place, take, working_size

LEAST_SHARE = 0.02  # of what it sees, that a box covered in Paint by Example's training (its read_bbox.py)
CROP_SHARE = 0.25  # of a crop, that the mask's box covers there: half of each side


@dataclass(frozen=True, eq=False)
class PaintResult:
    """What painting leaves.

    result: the picture at its own resolution. painted: what the method made, at the size worked on. seen: what is left
    of the picture there, the mask grey: all that a network sees of it. box: of the picture that was worked on. latents:
    (1 4 h w), None of methods without any.
    """

    result: Image.Image
    painted: Image.Image
    seen: Image.Image
    box: Box
    latents: Tensor | None
    seed: int
    timings: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@in_suited_threads
def paint(
    model: LatentDiffusion | None,
    picture: Image.Image,
    mask: Image.Image,
    told: Told | Image.Image | str,
    method: PaintMethod | None = None,
    *,
    negative_prompt: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> PaintResult:
    """Paint a subject into a picture, where the mask is white.

    model: what the method runs on, by default one whose U-Net has channels for a mask; None for methods without
    networks. mask: of the picture's size; from mid-grey up is repainted. told: a picture of the subject, which Paint by
    Example squeezes to a square as in its script, or a prompt, or both in a `Told`. negative_prompt: what guidance
    leads away from, of prompts alone. seed: of the noise, drawn on the CPU; of a network first that of what is left of
    the picture, whose latents are a draw as in training, then the noise to start from.
    Raises ValueError for a model or a `told` that the method cannot use, masks of other sizes and empty ones.
    """
    method, told = method or PaintSettings(), as_told(told, negative_prompt)
    picture, mask, start = upright(picture), as_mask(mask), time.perf_counter()
    check_told(model, told, method)
    box, size = where_to_work(model, picture, mask, method)
    part, part_mask = picture.crop(box), mask.crop(box)
    image, hole = to_tensor(take(part, size))[None], _mask_at(part_mask, size)
    canvas = Canvas(image, hole, torch.Generator().manual_seed(seed), progress)
    with torch.no_grad():
        drawn, latents = method.paint(model, canvas, told)
    painted = to_image(drawn[0])
    if method.keep:
        result = picture.copy()
        result.paste(place(painted, part, part_mask), box[:2])
    else:
        result = put_back(place(painted, part, feather=0), picture, box)
    seconds, cropped = time.perf_counter() - start, box != (0, 0, *picture.size)
    settings = {**method.record(), "size": list(size), "crop": cropped}
    seen = to_image(left_of(image, hole)[0])
    return PaintResult(result, painted, seen, box, latents, seed, {"paint": seconds}, settings)


def as_told(told: Told | Image.Image | str, negative_prompt: str | None = None) -> Told:
    """What is to be painted, from a picture or a prompt alone."""
    if isinstance(told, Told):
        return told
    if isinstance(told, str):
        return Told(prompt=told, negative_prompt=negative_prompt)
    return Told(reference=upright(told), negative_prompt=negative_prompt)


def check_told(model: LatentDiffusion | None, told: Told, method: PaintMethod) -> None:
    """Raise ValueError for a model that the method cannot use, or that is told what to paint in another way."""
    method.check(model, told)


def where_to_work(
    model: LatentDiffusion | None, picture: Image.Image, mask: Image.Image, method: PaintMethod
) -> tuple[Box, tuple[int, int]]:
    """The box of the picture to work on, and the (width, height) at which: without a model all of it, as it is."""
    check_mask(mask, picture.size)
    if to_mask(mask).max() == 0:
        raise ValueError("the mask is black everywhere; paint white what is to be repainted")
    around, whole = box_of(mask.point([0] * 128 + [255] * 128)), (0, 0, *picture.size)
    if model is None:
        return (crop_for(around, picture.size) if method.crop else whole), method.size or picture.size
    native, granularity = model.config.native_size, model.config.granularity
    if method.size:
        check_size(method.size, granularity)
    size = method.size or working_size(picture.size, native, granularity)
    crop = method.crop
    if crop is None:
        visible = cut(picture.size, size)
        crop = _area(around) < LEAST_SHARE * _area(visible) or _clipped(around, visible) != around
    if not crop:
        return whole, size
    box = crop_for(around, picture.size)
    return box, method.size or working_size((box[2] - box[0], box[3] - box[1]), native, granularity)


def crop_for(around: Box, size: tuple[int, int], share: float = CROP_SHARE) -> Box:
    """A square around a box of a picture of this (width, height), of which the box covers the share, or as near as the
    picture's edges and the box's shape allow; it holds all of the box."""
    w, h = around[2] - around[0], around[3] - around[1]
    side = max(round((w * h / share) ** 0.5), round(1.2 * max(w, h)), SMALLEST)
    sides = [min(max(side, own), limit) for own, limit in zip((w, h), size, strict=True)]
    starts = [
        min(max(0, (low + high - length) // 2), limit - length)
        for low, high, length, limit in zip(around[:2], around[2:], sides, size, strict=True)
    ]
    return starts[0], starts[1], starts[0] + sides[0], starts[1] + sides[1]


def _area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def _clipped(box: Box, to: Box) -> Box:
    return max(box[0], to[0]), max(box[1], to[1]), min(box[2], to[2]), min(box[3], to[3])


def _mask_at(mask: Image.Image, size: tuple[int, int]) -> Tensor:
    """The part of a mask that is worked on, (1 1 h w), every pixel 0 or 1."""
    part = mask.crop(cut(mask.size, size)).resize(size, Image.Resampling.BILINEAR)
    hole = to_mask(part)
    if not hole.any():
        raise ValueError("the mask is black, or a speck, where the model looks; paint a larger part white, or crop")
    return hole
