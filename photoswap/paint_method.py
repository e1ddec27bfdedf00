"""What a way of painting inside a mask may say; each is a frozen dataclass of its settings.

`photoswap/paint_methods/__init__.py` tells how to write one; `photoswap/painters.py` runs it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models.stable_diffusion import LatentDiffusion, StableDiffusion

T = TypeVar("T")
CALLED = {
    "reference": "reference",
    "reference_mask": "mask of the reference",
    "prompt": "prompt",
    "negative_prompt": "negative prompt",
}


@dataclass(frozen=True, eq=False)
class Told:
    """What is to be painted: what a reference shows, what words say, or both.

    reference_mask: white where the reference shows the subject; None where all of it does. negative_prompt: what
    guidance leads away from.
    """

    reference: Image.Image | None = None
    prompt: str | None = None
    reference_mask: Image.Image | None = None
    negative_prompt: str | None = None

    def __post_init__(self) -> None:
        if self.reference_mask is not None and (
            self.reference is None or self.reference.size != self.reference_mask.size
        ):
            raise ValueError("the mask of the reference is of another size than the reference, or there is none")

    @property
    def said(self) -> list[str]:
        """The names of what was given."""
        return [name for name in CALLED if getattr(self, name) is not None]


@dataclass(frozen=True, eq=False)
class Canvas:
    """What is painted on, at the size worked at.

    image: (1 3 h w) in [-1, 1]. hole: (1 1 h w), 1 where it is to be repainted and 0 elsewhere. generator: of all
    noise, on the CPU, so that a seed means the same everywhere.
    """

    image: Tensor
    hole: Tensor
    generator: torch.Generator
    progress: bool = False

    def bar(self, steps: Iterable[T], total: int | None = None) -> Iterable[T]:
        """The steps, shown as they are taken. total: how many, where they do not tell."""
        return tqdm(steps, "painting", total, disable=not self.progress)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal numbers of a tensor's shape, drawn anew."""
        return torch.randn(like.shape, generator=self.generator).to(like)


@dataclass(frozen=True, kw_only=True)
class PaintMethod(ABC):
    """The settings that all ways of painting have.

    steps: of the sampler. guidance_scale: how strongly words, or a learnt token, steer. crop: whether to work on an
    enlarged crop around the mask; None where its box covers under 2 % of what is seen. keep: whether everything outside
    the mask stays the picture's own, else it is what the method made of it. size: (width, height) to work at, None for
    one near the model's native area.
    """

    wants: ClassVar[tuple[str, ...]] = ()  # of Told, without which it cannot begin
    heeds: ClassVar[tuple[str, ...]] = ()  # of Told, by which it goes where they are given
    usual_model: ClassVar[str | None] = None  # by its published name; None for a method without networks
    steps: int = 50
    guidance_scale: float = 7.5
    crop: bool | None = None
    keep: bool = True
    size: tuple[int, int] | None = None

    def check(self, model: LatentDiffusion | None, told: Told) -> None:
        """Raise ValueError for a model that it cannot use, and for what it is told too little or in vain."""
        lacking = [CALLED[name] for name in self.wants if name not in told.said]
        vain = [CALLED[name] for name in told.said if name not in (*self.wants, *self.heeds)]
        if lacking:
            raise ValueError(f"{type(self).__name__} is told by a {lacking[0]}; give one")
        if vain:
            raise ValueError(f"{type(self).__name__} has no use for a {vain[0]}; leave it out")
        if self.usual_model is not None:
            drawing(model, self.usual_model)

    @abstractmethod
    def paint(self, model: LatentDiffusion | None, canvas: Canvas, told: Told) -> tuple[Tensor, Tensor | None]:
        """The painted picture (1 3 h w) in [-1, 1], and its latents if it has any."""

    def record(self) -> dict[str, Any]:
        """The settings as JSON holds them, without what stands for networks."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.repr}


class SampledMethod(PaintMethod):
    """A way of painting whose picture is what the autoencoder makes of latents."""

    def paint(self, model: LatentDiffusion | None, canvas: Canvas, told: Told) -> tuple[Tensor, Tensor]:
        """The painted picture (1 3 h w) in [-1, 1], and its latents."""
        latents = self.sample(model, canvas, told)
        assert model is not None
        return model.decode(latents), latents

    @abstractmethod
    def sample(self, model: Any, canvas: Canvas, told: Told) -> Tensor:
        """The clean latents of what is painted, (1 4 h w)."""


def drawing(model: LatentDiffusion | None, usual: str = "sd21-base") -> StableDiffusion:
    """The model, if it draws whole pictures of what words say. Raises ValueError for any other."""
    if not isinstance(model, StableDiffusion) or model.config.paints:
        name = "there is no model" if model is None else f"{model.config.name} paints inside masks by itself"
        raise ValueError(f"{name}; this method wants one that draws whole pictures, such as {usual}")
    return model
