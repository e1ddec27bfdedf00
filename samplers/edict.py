"""EDICT: two coupled trajectories, and a way back that is exact (Wallace et al., CVPR 2023, arXiv:2211.12446).

Each latent of a pair moves along the noise estimated at the other, one after the other, and the two are then mixed.
What a move used is thus still there when it is to be undone: inverting is solving, not approximating. Two calls of
`eps` a step. A mixing weight p keeps the two together when denoising and drives them apart by 1 / p, twice a step, when
inverting: rounding grows alike, 1400 times over 50 steps at 0.93, so the latents want float64.

As in the published code the latent that moves first changes with every step. All steps are those of Schedule.sampling,
in both directions: at a step `eps` is asked for the same timestep and level of noise there as back.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .ddim import Eps, last, move
from .schedule import Step

Pair: TypeAlias = tuple[Tensor, Tensor]

MIX = 0.93  # p of the paper: lower draws the pair together, 1 lets it diverge


@torch.no_grad()
def walk(eps: Eps, pair: Pair, steps: Sequence[Step], mix: float = MIX) -> Iterator[Pair]:
    """The pair after each step from noise to clean latents.

    pair: (b ...) each; equal ones where it starts from plain noise. steps: Schedule.sampling(n); 2 n calls.
    """
    for step in steps:
        latents = list(pair)
        for i in _order(step):
            latents[i] = move(latents[i], eps(latents[1 - i], step), step.alpha_from, step.alpha_to)
        first = mix * latents[0] + (1 - mix) * latents[1]
        pair = first, (1 - mix) * first + mix * latents[1]
        yield pair


def sample(eps: Eps, pair: Pair, steps: Sequence[Step], mix: float = MIX) -> Pair:
    """The pair carried from noise to clean latents, where `walk` ends, whose arguments these are."""
    return last(walk(eps, pair, steps, mix), pair)


@torch.no_grad()
def walk_back(eps: Eps, pair: Pair, steps: Sequence[Step], mix: float = MIX) -> Iterator[Pair]:
    """The pair after each step taken back, from clean latents to noise: `walk` undone, step by step and exactly.

    pair: (b ...) each; the clean latents twice for a picture. steps: Schedule.sampling(n), walked backwards.
    """
    for step in reversed(steps):
        latents = list(pair)
        latents[1] = (latents[1] - (1 - mix) * latents[0]) / mix
        latents[0] = (latents[0] - (1 - mix) * latents[1]) / mix
        for i in reversed(_order(step)):
            latents[i] = _unmove(latents[i], eps(latents[1 - i], step), step)
        pair = latents[0], latents[1]
        yield pair


def invert(eps: Eps, pair: Pair, steps: Sequence[Step], mix: float = MIX) -> list[Pair]:
    """The trajectory from clean latents to noise, clean first, by `walk_back`."""
    return [pair, *walk_back(eps, pair, steps, mix)]


def _order(step: Step) -> tuple[int, int]:
    return (0, 1) if step.index % 2 == 0 else (1, 0)


def _unmove(latents: Tensor, eps: Tensor, step: Step) -> Tensor:
    """What `move` made these latents of; at alpha_bar = 0 `eps` is v there, and so here."""
    if step.alpha_from == 0:
        return (latents + step.alpha_to**0.5 * eps) / (1 - step.alpha_to) ** 0.5
    return move(latents, eps, step.alpha_to, step.alpha_from)
