"""DiffEdit (Couairon et al., ICLR 2023, arXiv:2210.11427): the two prompts disagree where the edit belongs.

Settings bear the names of diffusers' pipeline. The mask (section 3.2, step 1) is where the two guided estimates of the
noised source differ most; outside it the target takes the inverted source's latents after every step (step 3). What is
noised is the encoder's mean here, not a sample of it for each map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from photoswap.blend import Inside
from photoswap.injections import SOURCE
from photoswap.method import Follower, Latents, Method, Run, check_shares, is_count, share_of


@dataclass(frozen=True, kw_only=True)
class DiffEdit(Method):
    """inpaint_strength: the share of the steps that are taken, the last ones, from the source's inverted latents.

    mask_encode_strength: the same for the level to which the source is noised for the mask, num_maps_per_mask times.
    mask_thresholding_ratio: differences are cut off at so many times their mean; the mask is all above half of that.
    """

    draws: ClassVar = True
    num_maps_per_mask: int = 10
    mask_encode_strength: float = 0.5
    mask_thresholding_ratio: float = 3.0
    inpaint_strength: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "mask_encode_strength", "inpaint_strength")
        if not is_count(self.num_maps_per_mask) or self.num_maps_per_mask < 1:
            raise ValueError(f"num_maps_per_mask is {self.num_maps_per_mask}; want a whole number, at least 1")

    @property
    def first(self) -> int:
        return self.steps - share_of(self.steps, self.inpaint_strength)

    @property
    def rows_before(self) -> int:
        return 4 * self.num_maps_per_mask

    def start(self, run: Run, target: str) -> Latents:
        return {target: run.pictures[SOURCE].before(self.first)}

    def followers(self, run: Run, target: str) -> Sequence[Follower]:
        return [Inside(lambda: self.mask(run, target), target)]

    def mask(self, run: Run, target: str) -> Tensor:
        """Where the prompts disagree, (1 1 h w) bool."""
        step = run.steps[-share_of(self.steps, self.mask_encode_strength)]
        noised = [run.noised(step.alpha_from) for _ in range(self.num_maps_per_mask)]
        apart = torch.cat([(run.eps(target)(z, step) - run.eps(SOURCE)(z, step)).abs() for z in noised])
        difference = apart.mean(dim=(0, 1))[None, None]
        return difference > 0.5 * self.mask_thresholding_ratio * difference.mean()
