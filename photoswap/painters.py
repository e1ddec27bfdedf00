"""Paint inside a mask: what a reference shows, or a prompt says, without learning and without inverting anything.

With Paint by Example (arXiv:2211.13227) the context is one token of the reference; with the inpainting checkpoints of
Stable Diffusion it is the prompt's. Both U-Nets see, beside the latents, the mask and what is left of the picture. The
networks were trained on masks that cover 2 to 80 % of what they see, so a small one is worked on in an enlarged crop.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models.images import as_mask, to_image, to_tensor, upright
from models.inpainting import left_of, painting, to_mask
from models.paint_by_example import PaintByExample, reference_tensor
from models.stable_diffusion import LatentDiffusion, StableDiffusion
from models.threads import in_suited_threads
from samplers import Eps, Step, guided_eps, last, plms, walk
from samplers.ddim import normal

from .crop import put_back
from .masks import box_of
from .sizes import SMALLEST, Box, check_mask, check_size, cut, place, take, working_size

LEAST_SHARE = 0.02  # of what it sees, that a box covered in Paint by Example's training (its read_bbox.py)
CROP_SHARE = 0.25  # of a crop, that the mask's box covers there: half of each side
Sampler = Literal["plms", "ddim"]
Crop = bool | None


@dataclass(frozen=True, kw_only=True)
class PaintSettings:
    """The numbers of one painting; the defaults are those of Paint by Example's script. Raises ValueError.

    steps: of the sampler; PLMS makes one call of the network more. guidance_scale: 5 there, 7.5 in Stable Diffusion's
    inpainting. eta: how much noise DDIM draws afresh, 1 in Stable Diffusion's inpainting; PLMS draws none.
    crop: whether to work on an enlarged crop around the mask; None where its box covers under 2 % of what is seen.
    keep: whether everything outside the mask stays the picture's own; else it is what the model made of it, as in the
    published scripts. size: (width, height) to work on, None for one near the model's native area.
    """

    steps: int = 50
    guidance_scale: float = 5.0
    sampler: Sampler = "plms"
    eta: float = 0.0
    crop: Crop = None
    keep: bool = True
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"sampler is {self.sampler!r}; want one of {', '.join(get_args(Sampler))}")
        if not 0 <= self.eta <= 1 or (self.eta and self.sampler == "plms"):
            raise ValueError(f"eta is {self.eta} with {self.sampler}; want it in [0, 1], and 0 with plms")


@dataclass(frozen=True, eq=False)
class PaintResult:
    """What painting leaves.

    result: the picture at its own resolution. painted: what the model made, at the size worked on. seen: what it was
    shown of the picture there, the mask grey. box: of the picture that was worked on. latents: (1 4 h w).
    """

    result: Image.Image
    painted: Image.Image
    seen: Image.Image
    box: Box
    latents: Tensor
    seed: int
    timings: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@in_suited_threads
def paint(
    model: LatentDiffusion,
    picture: Image.Image,
    mask: Image.Image,
    told: Image.Image | str,
    settings: PaintSettings | None = None,
    *,
    negative_prompt: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> PaintResult:
    """Paint a subject into a picture, where the mask is white.

    model: one whose U-Net has channels for a mask. mask: of the picture's size; from mid-grey up is repainted. told: a
    picture of the subject for Paint by Example, which is squeezed to a square as in its script, and a prompt for the
    others. negative_prompt: what guidance leads away from, of prompts alone. seed: of the noise, drawn on the CPU:
    first that of what is left of the picture, whose latents are a draw as in training, then the noise to start from.
    Raises ValueError for a model that does not paint, the wrong kind of `told`, masks of other sizes and empty ones.
    """
    settings = settings or PaintSettings()
    picture, mask, start = upright(picture), as_mask(mask), time.perf_counter()
    check_told(model, told, negative_prompt)
    contexts = _contexts(model, told, negative_prompt)
    box, size = where_to_work(model, picture, mask, settings)
    part, part_mask = picture.crop(box), mask.crop(box)
    image, hole = to_tensor(take(part, size))[None], _mask_at(part_mask, size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        latents = _sampled(model, image, hole, contexts, settings, generator, progress)
        sampled = time.perf_counter()
        painted = to_image(model.decode(latents)[0])
    if settings.keep:
        result = picture.copy()
        result.paste(place(painted, part, part_mask), box[:2])
    else:
        result = put_back(place(painted, part, feather=0), picture, box)
    return PaintResult(
        result,
        painted,
        to_image(left_of(image, hole)[0]),
        box,
        latents,
        seed,
        {"sample": sampled - start, "decode": time.perf_counter() - sampled},
        {**asdict(settings), "size": list(size), "crop": box != (0, 0, *picture.size)},
    )


def where_to_work(
    model: LatentDiffusion, picture: Image.Image, mask: Image.Image, settings: PaintSettings
) -> tuple[Box, tuple[int, int]]:
    """The box of the picture to work on, and the (width, height) at which."""
    check_mask(mask, picture.size)
    if to_mask(mask).max() == 0:
        raise ValueError("the mask is black everywhere; paint white what is to be repainted")
    native, granularity = model.config.native_size, model.config.granularity
    if settings.size:
        check_size(settings.size, granularity)
    around, whole = box_of(mask.point([0] * 128 + [255] * 128)), (0, 0, *picture.size)
    size = settings.size or working_size(picture.size, native, granularity)
    crop = settings.crop
    if crop is None:
        visible = cut(picture.size, size)
        crop = _area(around) < LEAST_SHARE * _area(visible) or _clipped(around, visible) != around
    if not crop:
        return whole, size
    box = crop_for(around, picture.size)
    return box, settings.size or working_size((box[2] - box[0], box[3] - box[1]), native, granularity)


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


def check_told(model: LatentDiffusion, told: Image.Image | str, negative: str | None = None) -> None:
    """Raise ValueError for a model that does not paint, or that is told what to paint in another way."""
    name = model.config.name
    if not model.config.paints:
        raise ValueError(
            f"{name} draws whole pictures; to paint inside a mask want a model with channels for one, such as "
            "paint-by-example or sd2-inpainting"
        )
    if isinstance(told, str) and not isinstance(model, StableDiffusion):
        raise ValueError(f"{name} is told by a picture; give a reference, or take sd2-inpainting for a prompt")
    if not isinstance(told, str) and not isinstance(model, PaintByExample):
        raise ValueError(f"{name} is told by a prompt; give one, or take paint-by-example for a reference")
    if not isinstance(told, str) and negative is not None:
        raise ValueError(f"{name} knows no words; leave the negative prompt out")


@torch.no_grad()
def _contexts(model: LatentDiffusion, told: Image.Image | str, negative: str | None) -> tuple[Tensor, Tensor]:
    """What both halves of guidance are told."""
    if isinstance(model, PaintByExample) and not isinstance(told, str):
        return model.unconditional(), model.encode_reference(reference_tensor(told, model.config.image.size))
    assert isinstance(model, StableDiffusion) and isinstance(told, str)  # check_told has seen to it
    return model.encode_text(negative or ""), model.encode_text(told)


def _sampled(
    model: LatentDiffusion,
    image: Tensor,
    hole: Tensor,
    contexts: tuple[Tensor, Tensor],
    settings: PaintSettings,
    generator: torch.Generator,
    progress: bool,
) -> Tensor:
    """The clean latents, (1 4 h w)."""
    device, factor = model.device, model.config.vae.factor
    beside = model.surroundings(image.to(device), hole.to(device), generator)
    noise = torch.randn((1, 4, image.shape[-2] // factor, image.shape[-1] // factor), generator=generator).to(device)
    uncond = None if settings.guidance_scale == 1 else contexts[0]
    network = painting(model.unet, beside)
    eps = guided_eps(network, model.schedule, uncond, contexts[1], settings.guidance_scale)
    walked = _walked(eps, noise, model.schedule.sampling(settings.steps), settings, generator)
    return last(tqdm(walked, "painting", settings.steps, disable=not progress), noise)


def _walked(
    eps: Eps, noise: Tensor, steps: list[Step], settings: PaintSettings, generator: torch.Generator
) -> Iterator[Tensor]:
    if settings.sampler == "plms":
        return plms.walk(eps, noise, steps)
    return walk(eps, noise, steps, settings.eta, normal(generator) if settings.eta else None)
