"""SwapAnything (Gu et al., ECCV 2024, arXiv:2404.05717): Photoswap's injections, each outside a mask of the subject.

Inside the mask the target is free from the first step on; outside it takes the source's phi, M and A, and for longest
its latents. The released code masks M alone, by rows of pixels, and never phi and A: these are the paper's rules. Its
gradient guidance towards the source's shape, its soft mask and the ramp of that over the steps are not here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from photoswap.blend import Inside, MaskedAdaIN
from photoswap.injections import Injection
from photoswap.method import Follower, Run

from .photoswap import Photoswap


@dataclass(frozen=True, kw_only=True)
class SwapAnything(Photoswap):
    """The picture needs a mask of its subject.

    phi, M, A: as in Photoswap, outside the mask. latents: for so many steps the target's latents outside the mask are
    the source's; after them the seam may settle. adain: whether the latents inside take the source's mean and spread.
    """

    counts: ClassVar = ("latents", "phi", "M", "A")
    keeps_outside: ClassVar = True
    wants: ClassVar = ("mask",)
    latents: int = 30
    adain: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blend is not None:
            raise ValueError("swap-anything goes by a mask; a blend would look for the subject again: leave it out")

    def injections(self, step: int) -> Iterator[Injection]:
        return (replace(injection, where="~subject") for injection in super().injections(step))

    def followers(self, run: Run, target: str) -> Sequence[Follower]:
        mask = run.mask(target)
        matched = [MaskedAdaIN(mask, target)] if self.adain else []
        return [*matched, Inside(mask, target, self.latents)]
