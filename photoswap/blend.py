"""Keeping the source's latents where the subject is not.

Two masks can say where that is. The attention-derived one is Prompt-to-Prompt's local blend (arXiv:2208.01626, section
3.2), which the released Photoswap applies and its paper does not mention: where the cross-attention maps of the
subject's words have been strong so far, in source or target, the target keeps its own latents. A user's mask says it
outright.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from models.hooks import Hook, Site, reading
from samplers import Step

from .injections import SOURCE, TARGET, Row
from .method import Follower, Latents, Run

FLAT = 1e-5  # a deviation below this has nothing to scale


@dataclass(frozen=True)
class Blend:
    """Settings of the attention-derived blend.

    threshold: share of the strongest attention above which a place belongs to the subject, in (0, 1). start: the first
    step whose latents are blended, None for a fifth of all steps. scale: maps are read at the cross sites this many
    times smaller than the latents; 4 gives the five layers of the released code, 16 x 16 at 512 px.
    """

    threshold: float = 0.3
    start: int | None = None
    scale: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"the blend's threshold is {self.threshold}; want a share between 0 and 1")
        if self.start is not None and (not isinstance(self.start, int) or self.start < 0):
            raise ValueError(f"the blend starts at step {self.start}; want a whole number, 0 or more")
        if self.scale not in (1, 2, 4, 8):
            raise ValueError(f"the blend reads maps at scale {self.scale}; want 1, 2, 4 or 8")

    def start_at(self, steps: int) -> int:
        """The first blended step of so many."""
        return steps // 5 if self.start is None else self.start


class LocalBlend(Follower):
    """Keeps the source's latents where the target's subject is not, by the attention both paid to theirs so far."""

    def __init__(self, blend: Blend, run: Run, target: str = TARGET) -> None:
        self.blend, self.target, self.run = blend, target, run
        self.start = blend.start_at(len(run.steps))
        self.heat: Tensor | None = None  # added up over steps
        self.seen: list[Tensor] = []  # in this step, a tensor for each site
        if not all(run.pictures[row.picture].words for row in self.rows()):
            raise ValueError("a blend needs the subject's word in the source's prompt and in the target's: name both")

    def rows(self) -> tuple[Row, Row]:
        return Row("cond", SOURCE), Row("cond", self.target)

    def hooks(self, rows: Sequence[Row], sites: Sequence[Site]) -> dict[Site, Hook]:
        """Keep, for each site read, how strongly every place looks at the subject: (2 n), averaged over heads."""
        chosen = [(rows.index(row), list(self.run.pictures[row.picture].words)) for row in self.rows()]

        def look(maps: Tensor) -> None:
            self.seen.append(
                torch.stack([reduce(maps[i][..., words], "h n m -> n", "sum") / maps.shape[1] for i, words in chosen])
            )

        watched = [site for site in sites if site.kind == "cross" and site.scale == self.blend.scale]
        if not watched:
            raise ValueError(f"the blend reads cross maps at scale {self.blend.scale}; this U-Net has none there")
        return {site: Hook(map=reading(look)) for site in watched}

    def after(self, latents: Latents, step: Step) -> Latents:
        heat = torch.stack(self.seen).mean(dim=0)
        self.heat = heat if self.heat is None else self.heat + heat
        self.seen.clear()
        if step.index < self.start:
            return latents
        mask = subject_mask(self.heat, self.blend, self.run.pictures[SOURCE].size)
        return {self.target: keep_source(latents[SOURCE], latents[self.target], mask)}


@dataclass(frozen=True, eq=False)
class Inside(Follower):
    """Keeps the source's latents outside a mask, (1 1 h w) bool, or one made when first wanted, for all or `steps`."""

    mask: Tensor | Callable[[], Tensor]
    target: str = TARGET
    steps: int | None = None

    @cached_property
    def places(self) -> Tensor:
        """The mask itself."""
        return self.mask if isinstance(self.mask, Tensor) else self.mask()

    def after(self, latents: Latents, step: Step) -> Latents:
        if self.steps is not None and step.index >= self.steps:
            return latents
        return {self.target: keep_source(latents[SOURCE], latents[self.target], self.places)}


@dataclass(frozen=True, eq=False)
class MaskedAdaIN(Follower):
    """Gives the target's latents inside a mask, (1 1 h w) bool, the source's statistics there, after every step."""

    mask: Tensor
    target: str = TARGET

    def after(self, latents: Latents, step: Step) -> Latents:
        return {self.target: masked_adain(latents[SOURCE], latents[self.target], self.mask)}


def subject_mask(heat: Tensor, blend: Blend, size: tuple[int, int]) -> Tensor:
    """Where the subject is, from attention added up over layers and steps: (1 1 h w) bool.

    heat: (2 n), source and target, blend.scale times smaller than the latents a side. size: (h, w) of the latents. A
    3 x 3 maximum widens each map, each is measured against its own maximum, and the two masks are united.
    """
    maps = rearrange(heat, "b (h w) -> b 1 h w", w=size[1] // blend.scale)
    maps = F.interpolate(F.max_pool2d(maps, 3, stride=1, padding=1), size=size, mode="nearest")
    return (maps > blend.threshold * maps.amax(dim=(2, 3), keepdim=True)).any(dim=0, keepdim=True)


def keep_source(source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The target's latents inside the mask and, bitwise, the source's outside: (b 4 h w)."""
    return torch.where(mask, target, source)


def masked_adain(source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The target's latents, inside the mask shifted and scaled to the source's mean and deviation there, by channel.

    AdaIN (arXiv:1703.06868, eq. 8), as SwapAnything has it (arXiv:2404.05717). source, target: (1 4 h w).
    """
    inside = mask.expand_as(target)[0]
    own, wanted = (latents[0][inside].reshape(len(inside), -1) for latents in (target, source))
    if own.shape[1] == 0:
        return target
    (mean, deviation), (mean_wanted, deviation_wanted) = (
        (x.mean(dim=1, keepdim=True), x.std(dim=1, keepdim=True, correction=0)) for x in (own, wanted)
    )
    matched = target.clone()
    scaled = (own - mean) / deviation.clamp_min(FLAT) * deviation_wanted + mean_wanted
    matched[0][inside] = scaled.flatten()
    return matched
