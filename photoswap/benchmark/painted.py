"""Painters as entries of the benchmark: told by one reference or by the class word, inside the old subject's box.

The mask is the box around the old subject and a little more, as in COCOEE: the drawn subject's outline would tell a
painter the pose that it is to find, and it was trained with boxes. The reference is the newcomer's first picture, cut
to its subject as in Paint by Example's training.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from PIL import Image
from torch import nn

from models.prompts import article
from models.stable_diffusion import LatentDiffusion, StableDiffusion
from photoswap.benchmark.entries import PAINTER, Entry
from photoswap.benchmark.features import ClipFeatures, RecogniserFeatures
from photoswap.masks import box_of
from photoswap.paint_method import PaintMethod, Told
from photoswap.paint_methods import PAINT_METHODS, BlendedByImage
from photoswap.painters import paint
from photoswap.pasting import paste_into
from photoswap.sizes import Box
from weights import fingerprint

ROOM, REST = 5 / 128, 10 / 512  # of the picture's width: of a mask around the subject, of a reference around its own
BY_WORDS: dict[str, Any] = {"sampler": "ddim", "eta": 1.0, "guidance_scale": 7.5}  # Stable Diffusion's inpainting


def needs_base(entry: Entry) -> bool:
    """Whether an entry that paints does it by the model that swaps."""
    return entry.method != PAINTER and PAINT_METHODS[entry.method].usual_model is not None


@dataclass(frozen=True, eq=False)
class Easel:
    """What painting needs beside the base: networks trained to paint, and what blended-image is steered by.

    guidance: what the painter is held to; None for what holds for all.
    """

    painter: LatentDiffusion | None = None
    features: ClipFeatures | RecogniserFeatures | None = None
    guidance: float | None = None

    def method(self, entry: Entry, guidance_scale: float, steps: int | None = None) -> PaintMethod:
        """An entry's way of painting at its published settings; guidance as for `Entry.make`.

        Raises ValueError where what it needs is not there.
        """
        kind = PAINT_METHODS[entry.method if entry.method != PAINTER else "network"]
        given: dict[str, Any] = {}
        if entry.method == PAINTER:
            if self.painter is None:
                raise ValueError(f"{PAINTER} is a network trained to paint: give its file with --painter")
            given = BY_WORDS if isinstance(self.painter, StableDiffusion) else {}
            guidance_scale = guidance_scale if self.guidance is None else self.guidance
        if issubclass(kind, BlendedByImage):
            if self.features is None:
                raise ValueError(f"{entry.method} is steered by features of pictures: give them with --features")
            given = {"embed": self.features.embed}
        method = kind(**given)
        method = replace(method, guidance_scale=min(method.guidance_scale, guidance_scale))
        return method if steps is None else replace(method, steps=steps)

    def model(self, entry: Entry, base: LatentDiffusion | None) -> LatentDiffusion | None:
        """What the entry runs on."""
        if entry.method == PAINTER:
            return self.painter
        return base if needs_base(entry) else None

    def told(self, entry: Entry, reference: Image.Image, mask: Image.Image | None, word: str | None) -> Told:
        """What the entry is told, of all that is known of a newcomer. word: what it is, "cat"; None where unknown.

        Raises ValueError where it is told by nothing else.
        """
        self.check(entry, word is not None)
        words = None if word is None else f"a photo of {article(word)} {word}"
        if entry.method == PAINTER:
            return Told(prompt=words) if self._by_words(entry) else Told(reference)
        kind = PAINT_METHODS[entry.method]
        heard = (*kind.wants, *kind.heeds)
        told = Told(reference if "reference" in heard else None, words if "prompt" in heard else None)
        if issubclass(kind, BlendedByImage):
            return replace(told, prompt=None)  # told by the picture alone, as it was compared
        return replace(told, reference_mask=mask) if "reference_mask" in heard else told

    def check(self, entry: Entry, has_words: bool) -> None:
        """Raise ValueError for an entry that is told by words alone where there are none."""
        if self._by_words(entry) and not has_words:
            raise ValueError(f"{entry.method} is told by words, and nobody said what the pictures show: give --words")

    def _by_words(self, entry: Entry) -> bool:
        if entry.method == PAINTER:
            return isinstance(self.painter, StableDiffusion)
        return "prompt" in PAINT_METHODS[entry.method].wants

    @cached_property
    def painter_mark(self) -> str | None:
        """The painter's fingerprint, read once: it stays as it is."""
        return fingerprint(self.painter) if self.painter else None

    def known_by(self, entry: Entry) -> dict[str, Any]:
        """What a result of the entry follows from beside the base."""
        if entry.method == PAINTER and self.painter is not None:
            return {"painter": self.painter_mark}
        steered = issubclass(PAINT_METHODS[entry.method], BlendedByImage) if entry.method in PAINT_METHODS else False
        return {"features": self.features.known_by} if steered and self.features else {}


def room_for(mask: Image.Image) -> Image.Image:
    """The mask that a painter is given: the box around what is white and a little more, white."""
    box = _grown(box_of(mask), round(ROOM * mask.width), mask.size)
    room = Image.new("L", mask.size, 0)
    room.paste(255, box)
    return room


def shown_of(picture: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image]:
    """A reference cut to its subject and ten pixels of 512 around, and the mask so cut."""
    box = _grown(box_of(mask), round(REST * picture.width), picture.size)
    return picture.crop(box), mask.crop(box)


def paint_task(
    entry: Entry,
    easel: Easel,
    base: LatentDiffusion,
    method: PaintMethod,
    source: Image.Image,
    newcomers: list[tuple[Image.Image, Image.Image, str]],
    masks: list[Image.Image],
    seed: int,
) -> tuple[Image.Image, float, int, list[dict[str, Any]]]:
    """Newcomers painted one after another: the picture, the seconds, the network's rows, the settings of each.

    newcomers: of each a picture, where it shows the subject, and what that is.
    """
    picture, done, model, start = source, [], easel.model(entry, base), time.perf_counter()
    with counted(model) as rows:
        for (shown, where, word), mask in zip(newcomers, masks, strict=True):
            told = easel.told(entry, *shown_of(shown, where), word)
            painted = paint(model, picture, room_for(mask), told, method, seed=seed)
            picture = painted.result
            done.append(painted.settings)
    return picture, round(time.perf_counter() - start, 3), rows(), done


@contextmanager
def counted(model: LatentDiffusion | None) -> Iterator[Callable[[], int]]:
    """A count of the rows that the U-Net computes within."""
    seen: list[int] = []

    def count(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.append(len(arguments[0]))

    handle = model.unet.register_forward_pre_hook(count) if model else None
    try:
        yield lambda: sum(seen)
    finally:
        if handle:
            handle.remove()


def pasted_over(
    source: Image.Image, masks: list[Image.Image], newcomers: list[tuple[Image.Image, Image.Image, str]]
) -> Image.Image:
    """The source with each newcomer cut out of its picture and laid over the one it replaces, as large."""
    for (shown, where, _), mask in zip(newcomers, masks, strict=True):
        source, _ = paste_into(source, mask, shown, where)
    return source


def _grown(box: Box, by: int, size: tuple[int, int]) -> Box:
    return max(0, box[0] - by), max(0, box[1] - by), min(size[0], box[2] + by), min(size[1], box[3] + by)
