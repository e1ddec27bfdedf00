"""Deterministic DDIM: one formula, two directions (arXiv:2010.02502, eq. 12 with sigma = 0)."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .schedule import Step

Eps: TypeAlias = Callable[[Tensor, Step], Tensor]
Progress: TypeAlias = Callable[[Iterable[Step]], Iterable[Step]]


def move(latents: Tensor, eps: Tensor, alpha_from: float, alpha_to: float) -> Tensor:
    """Carry latents from one noise level to another along a fixed noise estimate.

    Denoises when alpha_to > alpha_from and inverts otherwise; there and back is the identity. DDIM, eq. 12.
    latents, eps: (b ...), float32 or float64. alpha_from, alpha_to: alpha_bar in [0, 1]; else ValueError.
    At alpha_from = 0 the latents are the noise, and `eps` is v = -x0 instead, as Schedule.to_eps hands it on there.
    """
    if not (0 <= alpha_from <= 1 and 0 <= alpha_to <= 1):
        raise ValueError(f"alpha_bar goes from {alpha_from} to {alpha_to}; want both in [0, 1]")
    if alpha_from == 0:
        return (1 - alpha_to) ** 0.5 * latents - alpha_to**0.5 * eps
    x0 = (latents - (1 - alpha_from) ** 0.5 * eps) / alpha_from**0.5
    return alpha_to**0.5 * x0 + (1 - alpha_to) ** 0.5 * eps


@torch.no_grad()
def sample(
    eps: Eps,
    latents: Tensor,
    steps: Sequence[Step],
    after: Callable[[Tensor, Step], Tensor] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Latents carried through the steps, the noise estimated anew at each.

    latents: (b ...), the noisiest. steps: Schedule.sampling(n). after: sees and returns the latents behind each step,
    for edits of latents. progress: wraps the steps, for instance tqdm. Runs without gradients.
    """
    for step in progress(steps) if progress else steps:
        latents = move(latents, eps(latents, step), step.alpha_from, step.alpha_to)
        latents = after(latents, step) if after else latents
    return latents


def invert(eps: Eps, latents: Tensor, steps: Sequence[Step], progress: Progress | None = None) -> list[Tensor]:
    """The trajectory from clean latents to noise: len(steps) + 1 latents, the clean ones first.

    latents: (b ...). steps: Schedule.inversion(n). trajectory[n - i] is where sampling stands before its step i.
    """
    trajectory = [latents]

    def keep(latents: Tensor, _: Step) -> Tensor:
        trajectory.append(latents)
        return latents

    sample(eps, latents, steps, after=keep, progress=progress)
    return trajectory
