"""SDEdit (Meng et al., ICLR 2022, arXiv:2108.01073), Algorithm 1: noise the source, denoise it by the target's prompt.

Nothing is inverted and nothing injected; how much of the source is kept is a matter of t0 alone. Sampled by DDIM.
"""

from dataclasses import dataclass
from typing import ClassVar

from photoswap.method import Latents, Method, Run, check_shares, share_of


@dataclass(frozen=True, kw_only=True)
class SDEdit(Method):
    """t0: the share of the steps that are taken, the last ones. The paper recommends 0.3 to 0.6."""

    draws: ClassVar = True
    inverts: ClassVar = False
    t0: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "t0")

    @property
    def first(self) -> int:
        return self.steps - share_of(self.steps, self.t0)

    def start(self, run: Run, target: str) -> Latents:
        return {target: run.noised(run.steps[self.first].alpha_from)}
