"""Where a word's subject is, without anybody painting it: three calls of the U-Net.

The recipe is that of InstantSwap's released code. The picture's latents are noised to three timesteps; at each, the
maps of five layers are averaged over heads and layers to M (places by places) and A (places by words), and

    heat = M @ A**2,  the word's column

spreads what the words look at over the places that look alike. Above half of its maximum the heat is the subject; of
that the largest connected part is kept; and the three are united. That code averages the unconditional rows in, which
know nothing of the word; here they are not computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce
from numpy.typing import NDArray
from PIL import Image, ImageChops
from torch import Tensor
from tqdm import tqdm

from models.hooks import Hook, reading
from models.images import to_tensor, upright
from models.inpainting import white_box
from models.stable_diffusion import StableDiffusion
from models.threads import in_suited_threads

from .sizes import Box, check_size, cut, take, working_size
from .tokens import subject_tokens

TIMESTEPS = (100, 300, 500)
SHARE = 0.5  # of the heat's maximum


@dataclass(frozen=True, eq=False)
class Found:
    """Where a word's subject is.

    mask: of the picture's size, "L", white where it is. box: (left, top, right, bottom) around that, in the picture's
    pixels. heat: (h w) at the size worked on, the largest of the three timesteps', each measured against its maximum.
    """

    mask: Image.Image
    box: Box
    heat: Tensor


def find_subject(
    model: StableDiffusion,
    picture: Image.Image,
    prompt: str,
    word: str,
    *,
    size: tuple[int, int] | None = None,
    scale: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Found:
    """The mask and the box of what a word of the prompt names.

    size: (width, height) to work on, None for one near the model's native area. scale: of the layers read, None as
    `UNet.outline_scale` has it. seed: of the noise. progress: whether to show a bar. Raises ValueError for a prompt
    without the word, and for a scale without layers.
    """
    (found,) = find_subjects(model, picture, prompt, [word], size=size, scale=scale, seed=seed, progress=progress)
    return found


@in_suited_threads
@torch.no_grad()
def find_subjects(
    model: StableDiffusion,
    picture: Image.Image,
    prompt: str,
    words: Sequence[str],
    *,
    size: tuple[int, int] | None = None,
    scale: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Found]:
    """The same for several words, by the same three calls; a place that two words claim goes to the hotter one.

    Of what a word is left with so, again the largest connected part is kept. A word that lost all its places has the
    mask that it would have alone.
    """
    picture = upright(picture)
    size = size or working_size(picture.size, model.config.native_size, model.config.granularity)
    check_size(size, model.config.granularity)
    latents = model.encode_image(to_tensor(take(picture, size))[None])
    columns = [subject_tokens(model.tokenizer, prompt, word) for word in words]
    heats = word_heats(model, latents, model.encode_text(prompt), columns, scale=scale, seed=seed, progress=progress)
    heats = F.interpolate(heats, (size[1], size[0]), mode="bilinear", align_corners=False).cpu()  # (words t h w)
    heats = heats / heats.amax(dim=(2, 3), keepdim=True)
    masks = [np.logical_or.reduce([largest_part(one) for one in (heat >= SHARE).numpy()]) for heat in heats]
    hottest = heats.amax(dim=1).argmax(dim=0).numpy()
    found = []
    for i, (mask, heat) in enumerate(zip(masks, heats.amax(dim=1), strict=True)):
        won = largest_part(mask & ((hottest == i) | (np.sum(masks, axis=0) == 1)))
        image = _on_picture(won if len(words) > 1 and won.any() else mask, picture.size)
        found.append(Found(image, box_of(image), heat))
    return found


@in_suited_threads
@torch.no_grad()
def word_heats(
    model: StableDiffusion,
    latents: Tensor,
    context: Tensor,
    columns: Sequence[Sequence[int]],
    *,
    scale: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """The heat of several words at the three timesteps, one call of one row each: (words 3 h w), by the layers' places.

    latents: clean, (1 4 h w). context: of the prompt, (1 77 c). columns: of each word's tokens; of several the mean.
    The noise is drawn on the CPU, the same for all three. Raises ValueError where no layer has this scale.
    """
    h, w = latents.shape[2:]
    scale = scale or model.unet.outline_scale(h, w)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    maps: dict[str, list[Tensor]] = {"self": [], "cross": []}
    sites = [site for site in model.unet.sites if site.scale == scale and site.kind in maps]
    if not sites:
        scales = sorted({site.scale for site in model.unet.sites})
        raise ValueError(f"there are no attention layers at scale {scale}; want one of {', '.join(map(str, scales))}")
    hooks = model.unet.prepare_hooks({site: _keeping(maps[site.kind]) for site in sites})
    heats = []
    for t in tqdm(TIMESTEPS, "mask", disable=not progress):
        noised = model.schedule.add_noise(latents, noise, t)
        model.unet(noised.to(model.dtype), t, context, hooks)
        M, A = (torch.stack(kept).mean(dim=0) for kept in maps.values())  # (n n), (n 77)
        heat = M @ A.square()
        heats.append(torch.stack([heat[:, list(own)].mean(dim=1) for own in columns]))
        for kept in maps.values():
            kept.clear()
    return torch.stack(heats, dim=1).reshape(len(columns), len(TIMESTEPS), h // scale, w // scale)


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a mask (h w), corners touching; of equals the first from the top.

    Runs of each row are joined to those of the row above that they touch, by union and find.
    """
    runs: list[tuple[int, int, int]] = []  # row, first column, one past the last
    parents: list[int] = []

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = i = parents[parents[i]]
        return i

    above: list[int] = []
    for y, row in enumerate(np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))))):
        here: list[int] = []
        for start, end in zip((row == 1).nonzero()[0].tolist(), (row == -1).nonzero()[0].tolist(), strict=True):
            here.append(len(runs))
            parents.append(len(runs))
            for i in above:
                if runs[i][1] <= end and start <= runs[i][2]:
                    old, new = sorted((root(i), root(len(runs))))
                    parents[new] = old
            runs.append((y, start, end))
        above = here
    sizes: dict[int, int] = {}
    for i, (_, start, end) in enumerate(runs):
        sizes[root(i)] = sizes.get(root(i), 0) + end - start
    kept = np.zeros_like(mask)
    if runs:
        best = max(sizes, key=lambda i: sizes[i])
        for i, (y, start, end) in enumerate(runs):
            kept[y, start:end] = root(i) == best
    return kept


def box_of(mask: Image.Image) -> Box:
    """The box around all that is white. Raises ValueError for a mask that is black everywhere."""
    box = white_box(mask)
    if box is None:
        raise ValueError("the mask is black everywhere; paint white what may change")
    return box


def overlaid(picture: Image.Image, mask: Image.Image, colour: tuple[int, int, int] = (255, 0, 0)) -> Image.Image:
    """The picture with the mask laid over it, half transparent, for looking at."""
    picture = upright(picture)
    half = ImageChops.multiply(mask.convert("L"), Image.new("L", mask.size, 128))
    return Image.composite(Image.new("RGB", picture.size, colour), picture, half)


def _keeping(kept: list[Tensor]) -> Hook:
    """A hook that keeps the conditional row's map, averaged over heads."""
    return Hook(map=reading(lambda maps: kept.append(reduce(maps, "1 h n m -> n m", "mean"))))


def _on_picture(mask: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """A mask of the size worked on, laid on the picture's cut; the rim outside the cut is black."""
    box = cut(size, (mask.shape[1], mask.shape[0]))
    over = Image.new("L", size, 0)
    part = Image.fromarray(mask.astype(np.uint8) * 255)
    over.paste(part.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.NEAREST), box[:2])
    return over
