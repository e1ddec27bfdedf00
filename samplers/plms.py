"""PLMS: DDIM's step along an extrapolated noise estimate (Liu et al., ICLR 2022, arXiv:2202.09778, eq. 12).

The estimate is a linear multistep (Adams-Bashforth) formula over the last four, of lower order while there are fewer.
As in latent diffusion's code, which Paint by Example used, the first step is a predictor and corrector: it goes to the
next level, asks again there, and goes once more from where it was with the mean of the two. So n steps are n + 1 calls.
Guidance comes first: what is extrapolated is the guided estimate.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .ddim import Eps, last, move
from .schedule import Step

WEIGHTS = {  # of the estimates, newest first, by how many there are; none before there are two
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@torch.no_grad()
def walk(eps: Eps, latents: Tensor, steps: Sequence[Step]) -> Iterator[Tensor]:
    """The latents after each step; arguments as for DDIM's `walk`.

    With a single step the second call is made at the same timestep, as in the published code. Raises ValueError for
    steps that start at alpha_bar = 0, where the network speaks of another quantity than at the next.
    """
    if steps and steps[0].alpha_from == 0:
        raise ValueError(
            "PLMS has no step from pure noise, where alpha_bar is 0 (zero terminal SNR): use EDICT or DDIM instead"
        )
    estimates: list[Tensor] = []
    for step in steps:
        estimates = [eps(latents, step), *estimates[:3]]
        if len(estimates) == 1:
            there = move(latents, estimates[0], step.alpha_from, step.alpha_to)
            direction = (estimates[0] + eps(there, steps[min(1, len(steps) - 1)])) / 2
        else:
            weights = WEIGHTS[len(estimates)]
            direction = torch.stack([w * e for w, e in zip(weights, estimates, strict=True)]).sum(0)
        latents = move(latents, direction, step.alpha_from, step.alpha_to)
        yield latents


def sample(eps: Eps, latents: Tensor, steps: Sequence[Step]) -> Tensor:
    """The latents at the end of `walk`, whose arguments these are."""
    return last(walk(eps, latents, steps), latents)
