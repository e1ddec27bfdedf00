"""DDIM (arXiv:2010.02502, eq. 12): deterministic, one formula and two directions, or with fresh noise at every step."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from .schedule import Step

Eps: TypeAlias = Callable[[Tensor, Step], Tensor]
Noise: TypeAlias = Callable[[Tensor], Tensor]
_Standing = TypeVar("_Standing")


def move(latents: Tensor, eps: Tensor, alpha_from: float, alpha_to: float) -> Tensor:
    """Carry latents from one noise level to another along a fixed noise estimate.

    Denoises when alpha_to > alpha_from and inverts otherwise; there and back is the identity. DDIM, eq. 12.
    latents, eps: (b ...), float32 or float64. alpha_from, alpha_to: alpha_bar in [0, 1]; else ValueError.
    At alpha_from = 0 the latents are the noise, and `eps` is v = -x0 instead, as Schedule.to_eps returns it there.
    """
    if not (0 <= alpha_from <= 1 and 0 <= alpha_to <= 1):
        raise ValueError(f"alpha_bar goes from {alpha_from} to {alpha_to}; want both in [0, 1]")
    x0, eps = _taken_apart(latents, eps, alpha_from)
    return alpha_to**0.5 * x0 + (1 - alpha_to) ** 0.5 * eps


def move_anew(latents: Tensor, eps: Tensor, alpha_from: float, alpha_to: float, eta: float, noise: Tensor) -> Tensor:
    """`move`, with a part of the estimated noise replaced by fresh noise: DDIM, eq. 12 and 16.

    noise: standard normal, shaped as the latents. eta: how much of it, 0 none and 1 as much as DDPM. As many numbers as
    `move` refuses are refused, and an eta outside [0, 1] and steps towards more noise: ValueError.
    """
    if not 0 <= alpha_from <= alpha_to <= 1 or not 0 <= eta <= 1:
        raise ValueError(
            f"alpha_bar goes from {alpha_from} to {alpha_to} with eta {eta}; want levels that rise, and eta in [0, 1]"
        )
    if alpha_to == 1 or alpha_from == alpha_to:
        return move(latents, eps, alpha_from, alpha_to)
    sigma = eta * ((1 - alpha_to) / (1 - alpha_from) * (1 - alpha_from / alpha_to)) ** 0.5
    x0, eps = _taken_apart(latents, eps, alpha_from)
    return alpha_to**0.5 * x0 + (1 - alpha_to - sigma**2) ** 0.5 * eps + sigma * noise


def _taken_apart(latents: Tensor, eps: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The clean latents and the noise that make up latents at a level; at alpha_bar = 0 `eps` is v."""
    if alpha == 0:
        return -eps, latents
    return (latents - (1 - alpha) ** 0.5 * eps) / alpha**0.5, eps


def normal(generator: torch.Generator) -> Noise:
    """Standard normal noise shaped as the latents it is for, drawn where the generator lives."""

    def draw(latents: Tensor) -> Tensor:
        noise = torch.randn(latents.shape, generator=generator, device=generator.device, dtype=latents.dtype)
        return noise.to(latents.device)

    return draw


@torch.no_grad()
def walk(
    eps: Eps, latents: Tensor, steps: Sequence[Step], eta: float = 0.0, noise: Noise | None = None
) -> Iterator[Tensor]:
    """The latents after each step, the noise estimated anew at each: for callers who show, record or stop.

    latents: (b ...), before the first step. steps: Schedule.sampling(n) to denoise, Schedule.inversion(n) to invert.
    eta: how much of the noise is drawn afresh at each step, once a step and also at the last; noise: draws it, see
    `normal`. Runs without gradients. Raises ValueError for an eta without noise, and noise that no eta asks for.
    """
    if (eta != 0) != (noise is not None):
        raise ValueError(f"eta is {eta} {'without' if noise is None else 'with'} noise: give both, or none of the two")
    for step in steps:
        predicted = eps(latents, step)
        if noise is None:
            latents = move(latents, predicted, step.alpha_from, step.alpha_to)
        else:
            latents = move_anew(latents, predicted, step.alpha_from, step.alpha_to, eta, noise(latents))
        yield latents


def sample(eps: Eps, latents: Tensor, steps: Sequence[Step], eta: float = 0.0, noise: Noise | None = None) -> Tensor:
    """The latents at the end of `walk`, whose arguments these are."""
    return last(walk(eps, latents, steps, eta, noise), latents)


def invert(eps: Eps, latents: Tensor, steps: Sequence[Step]) -> list[Tensor]:
    """The trajectory from clean latents to noise: len(steps) + 1 latents, the clean ones first.

    latents: (b ...). steps: Schedule.inversion(n). trajectory[n - i] is where sampling stands before its step i.
    """
    return [latents, *walk(eps, latents, steps)]


def last(walked: Iterable[_Standing], start: _Standing) -> _Standing:
    """Where a walk ends; where it began if it takes no step."""
    return deque(chain([start], walked), maxlen=1).pop()
