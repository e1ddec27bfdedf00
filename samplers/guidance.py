"""Classifier-free guidance (arXiv:2207.12598, eq. 6, in the scale's usual form) and the batch order it imposes.

One call of the network sees 2b rows: the b unconditional ones first, then the b conditional ones.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from .ddim import Eps
from .schedule import Schedule, Step

Network: TypeAlias = Callable[[Tensor, int, Tensor], Tensor]


def guide(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """Push the conditional estimate away from the unconditional one. scale 1: cond itself; 0: uncond. Any shape."""
    return cond if scale == 1 else uncond + scale * (cond - uncond)


def guided_eps(
    network: Network,
    schedule: Schedule,
    context_uncond: Tensor | Callable[[Step], Tensor] | None,
    context_cond: Tensor,
    scale: float | Callable[[Step], float] = 7.5,
) -> Eps:
    """The noise estimate of a network under guidance, as samplers take it.

    network: (latents, t, context) -> output, in the type of its context. context_uncond, context_cond: (b 77 c), or one
    row for all. context_uncond and scale may each be a function of the step. With context_uncond None there is no
    guidance and the network sees b rows, not 2b; a scale other than 1 is then a ValueError.
    """
    if context_uncond is None and scale != 1:
        raise ValueError(f"guidance scale {scale} without an unconditional context; give one, or a scale of 1")

    def eps(latents: Tensor, step: Step) -> Tensor:
        uncond = context_uncond(step) if callable(context_uncond) else context_uncond
        halves = [context_cond] if uncond is None else [uncond, context_cond]
        context = torch.cat([half.expand(len(latents), -1, -1) for half in halves])
        rows = torch.cat([latents] * len(halves)).to(context.dtype)
        outputs = network(rows, step.t, context).to(latents.dtype).chunk(len(halves))
        output = guide(outputs[0], outputs[-1], scale(step) if callable(scale) else scale)
        return schedule.to_eps(output, latents, step)

    return eps
