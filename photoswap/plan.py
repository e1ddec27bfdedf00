"""Which quantities are swapped, where, and for how long (Photoswap, Algorithm 1 and section 4.1).

A lambda counts denoising steps from the first, noisiest one: at 50 steps the paper swaps the self-attention output phi
for 10, the self-attention map M for 25 and the cross-attention map A for 20. The cross-attention output psi is never
swapped: it would carry the source's prompt into the target. (Algorithm 1 as printed swaps the last steps; its text and
its figures 4 and 9 say the first, and so do we.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from models.hooks import Hook, Site

from .blend import Blend
from .edits import swap_cross_map, swap_map, swap_output
from .tokens import Alignment

# The batch is uncond source, uncond target, cond source, cond target; each row names the row it borrows from.
BOTH_HALVES = (0, 0, 2, 2)
CONDITIONAL_HALF = (0, 1, 2, 2)

Align = Literal["tokens", "index"]


@dataclass(frozen=True)
class SwapPlan:
    """One run of the swap, in steps of the sampler.

    steps: of denoising. output, map, cross: how many of the first steps phi, M and A are swapped; 0 means never.
    phi is swapped in both halves of guidance, M and A in the conditional half. While phi is swapped M has no say, so
    map matters beyond output only. guidance_scale: one number, or one for each step. align: "tokens" gives the target
    the source's columns of A for the tokens both prompts share, and leaves the concept its own (Prompt-to-Prompt's
    refinement); "index" copies all of A column for column, as the paper's formula reads. map_scales: M is swapped only
    where a site is this many times smaller than the latents. blend: keep the source's latents outside the subject, or
    None. Raises ValueError for values that make no plan.
    """

    steps: int = 50
    output: int = 10
    map: int = 25
    cross: int = 20
    guidance_scale: float | tuple[float, ...] = 7.5
    align: Align = "tokens"
    map_scales: tuple[int, ...] = (1, 2, 4, 8)
    blend: Blend | None = None

    def __post_init__(self) -> None:
        if not _is_count(self.steps) or self.steps < 1:
            raise ValueError(f"steps is {self.steps}; want a whole number, at least 1")
        for name in ("output", "map", "cross"):
            count = getattr(self, name)
            if not _is_count(count) or not 0 <= count <= self.steps:
                raise ValueError(f"{name} is {count}; want a whole number of steps, 0..{self.steps}")
        if isinstance(self.guidance_scale, Sequence) and len(self.guidance_scale) != self.steps:
            raise ValueError(
                f"guidance_scale has {len(self.guidance_scale)} values for {self.steps} steps; want as many"
            )
        if self.align not in get_args(Align):
            raise ValueError(f'align is {self.align!r}; want "tokens" or "index"')
        if not set(self.map_scales) <= {1, 2, 4, 8}:
            raise ValueError(f"map_scales is {self.map_scales}; want some of 1, 2, 4 and 8")
        if self.blend is not None and self.blend.start_at(self.steps) > self.steps:
            raise ValueError(f"the blend starts at step {self.blend.start}; want 0..{self.steps}")

    @classmethod
    def scaled(cls, steps: int, **changes: Any) -> "SwapPlan":
        """The paper's proportions at another number of steps; changes are further fields, taken as they are."""
        whole = steps if _is_count(steps) and steps > 0 else 0
        lambdas = {name: round(getattr(cls, name) * whole / cls.steps) for name in ("output", "map", "cross")}
        return cls(**{"steps": steps, **lambdas, **changes})

    def guidance(self, index: int) -> float:
        """The guidance scale at a step, 0 the noisiest."""
        return self.guidance_scale[index] if isinstance(self.guidance_scale, Sequence) else self.guidance_scale

    def hooks(self, index: int, sites: Iterable[Site], alignment: Alignment | None = None) -> dict[Site, Hook]:
        """What to do at which site in step index, 0 the noisiest; nothing at all once the swaps are over.

        A pure function of its arguments. sites: of the U-Net. alignment: of the source's and the target's tokens;
        None copies A by index. The rows are uncond source, uncond target, cond source, cond target.
        """
        hooks = {}
        for site in sites:
            hook = self._cross_hook(index, alignment) if site.kind == "cross" else self._self_hook(index, site)
            if hook is not None:
                hooks[site] = hook
        return hooks

    def _cross_hook(self, index: int, alignment: Alignment | None) -> Hook | None:
        if index >= self.cross:
            return None
        return swap_cross_map(CONDITIONAL_HALF, alignment) if alignment else swap_map(CONDITIONAL_HALF)

    def _self_hook(self, index: int, site: Site) -> Hook | None:
        if index < self.output:
            return swap_output(BOTH_HALVES)  # covers M: what the source's map gathered replaces all that M would change
        if index < self.map and site.scale in self.map_scales:
            return swap_map(CONDITIONAL_HALF)
        return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
