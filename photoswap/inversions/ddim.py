"""Plain DDIM inversion: the sampler backwards at guidance 1 (arXiv:2105.05233, appendix F).

Costs one call of one row a step. Promises little: each step takes the noise at its destination for that of where it
stands, and a swap's source, sampled under guidance, drifts from the picture.
"""

import torch

from samplers import walk

from .request import Inverted, Request


def invert(request: Request) -> Inverted:
    """The trajectory; a swap samples the source anew from its noise."""
    steps = request.model.schedule.inversion(request.steps)
    return Inverted(torch.cat([request.clean, *request.shown(walk(request.eps(guided=False), request.clean, steps))]))
