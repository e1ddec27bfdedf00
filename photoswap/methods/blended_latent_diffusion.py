"""Blended Latent Diffusion (Avrahami et al., SIGGRAPH 2023, arXiv:2206.02779), Algorithm 1: repaint inside a mask.

Settings bear the names of omriav/blended-latent-diffusion, whose rules these are: the first steps are skipped though
the target starts from pure noise, and the background put after a step bears the noise from before it. What follows
there, a decoder fitted to the background, is left to pasting the source's pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from photoswap.blend import keep_source
from photoswap.method import Follower, Latents, Method, Run, check_shares
from samplers import Step


@dataclass(frozen=True, kw_only=True)
class BlendedLatentDiffusion(Method):
    """blending_start_percentage: the share of the steps that are skipped, the first ones."""

    draws: ClassVar = True
    inverts: ClassVar = False
    keeps_outside: ClassVar = True
    wants: ClassVar = ("mask",)
    blending_start_percentage: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "blending_start_percentage")

    @property
    def first(self) -> int:
        return min(int(self.steps * self.blending_start_percentage), self.steps - 1)

    def start(self, run: Run, target: str) -> Latents:
        return {target: run.draw(run.pictures[target].noise.shape)}

    def followers(self, run: Run, target: str) -> Sequence[Follower]:
        return [_Background(run, target)]


class _Background(Follower):
    """Puts the source, noised anew, outside the mask."""

    def __init__(self, run: Run, target: str) -> None:
        self.run, self.target, self.mask = run, target, run.mask(target)

    def after(self, latents: Latents, step: Step) -> Latents:
        return {self.target: keep_source(self.run.noised(step.alpha_from), latents[self.target], self.mask)}
