"""O-BELM: a two-step sampler that can be solved both ways (Wang et al., NeurIPS 2024, arXiv:2410.07273).

Latents x_i stand at noise levels i = 0 (clean) to n, with alpha_i and sigma_i the shares of signal and of noise and
h_i = sigma_i / alpha_i - sigma_(i-1) / alpha_(i-1). The update joins three neighbours and one estimate,

    x_(i-1) = h_i^2 / h_(i+1)^2 (alpha_(i-1) / alpha_(i+1)) x_(i+1)
            + (1 - h_i^2 / h_(i+1)^2) (alpha_(i-1) / alpha_i) x_i
            - h_i (h_i + h_(i+1)) / h_(i+1) alpha_(i-1) eps(x_i, i),

and is linear in x_(i-1) and x_(i+1): either follows from the other two, exactly, at one call of `eps` a step. Its state
is a pair of neighbours, so a sample starts from two. The first step of an inversion, which has one, is DDIM's. The
homogeneous part grows as the levels do when inverting: an error in that first step becomes h_(i+1) / h_i times larger,
with alternating sign, at each step, while sampling shrinks it alike. The latents want float64.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .ddim import Eps, last, move
from .schedule import Step


@torch.no_grad()
def walk(eps: Eps, pair: tuple[Tensor, Tensor], steps: Sequence[Step]) -> Iterator[Tensor]:
    """The latents after each step but the first, from those before and those after the first, (b ...) each.

    steps: Schedule.sampling(n); n - 1 calls. Raises ValueError for steps that start at alpha_bar = 0, where
    sigma / alpha has no value.
    """
    older, latents = pair
    for before, step in pairwise(steps):
        older, latents = latents, advance(older, latents, eps(latents, step), before, step)
        yield latents


def sample(eps: Eps, pair: tuple[Tensor, Tensor], steps: Sequence[Step]) -> Tensor:
    """Clean latents, where `walk` ends, whose arguments these are."""
    return last(walk(eps, pair, steps), pair[1])


@torch.no_grad()
def walk_back(eps: Eps, latents: Tensor, steps: Sequence[Step]) -> Iterator[Tensor]:
    """From clean latents to noise, the latents after each step taken back; the last two are what `walk` undoes.

    latents: (b ...). steps: Schedule.sampling(n), walked backwards; n calls. Raises as `walk`.
    """
    there = Step(steps[-1].index, steps[-1].t, steps[-1].alpha_to, steps[-1].alpha_from)
    newer, latents = latents, move(latents, eps(latents, there), there.alpha_from, there.alpha_to)
    yield latents
    for step, before in pairwise(reversed(steps)):
        newer, latents = latents, retreat(newer, latents, eps(latents, step), before, step)
        yield latents


def invert(eps: Eps, latents: Tensor, steps: Sequence[Step]) -> list[Tensor]:
    """The trajectory from clean latents to noise, clean first; its last two, noise first, are what `sample` undoes."""
    return [latents, *walk_back(eps, latents, steps)]


def advance(older: Tensor, latents: Tensor, eps: Tensor, before: Step, step: Step) -> Tensor:
    """x_(i-1) of x_(i+1), x_i and eps(x_i). before, step: the steps that lead to x_i and on from it."""
    from_older, from_latents, from_eps = _weights(before, step)
    return from_older * older + from_latents * latents - from_eps * eps


def retreat(newer: Tensor, latents: Tensor, eps: Tensor, before: Step, step: Step) -> Tensor:
    """x_(i+1) of x_(i-1), x_i and eps(x_i): `advance` solved for it."""
    from_older, from_latents, from_eps = _weights(before, step)
    return (newer - from_latents * latents + from_eps * eps) / from_older


def _weights(before: Step, step: Step) -> tuple[float, float, float]:
    """The three coefficients of the update, those of x_(i+1), x_i and eps."""
    if before.alpha_from == 0:
        raise ValueError(
            "BELM has no step from pure noise, where alpha_bar is 0 (zero terminal SNR): use EDICT or DDIM instead"
        )
    up, here, down = before.alpha_from, step.alpha_from, step.alpha_to
    h = _sigma(here) - _sigma(down)
    above = _sigma(up) - _sigma(here)
    ratio = (h / above) ** 2
    return ratio * (down / up) ** 0.5, (1 - ratio) * (down / here) ** 0.5, h * (h + above) / above * down**0.5


def _sigma(alpha_bar: float) -> float:
    """sigma / alpha, the noise beside a signal of 1."""
    return ((1 - alpha_bar) / alpha_bar) ** 0.5
