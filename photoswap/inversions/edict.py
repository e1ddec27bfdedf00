"""EDICT inversion (arXiv:2211.12446): two coupled latents walked back exactly, under guidance (`samplers/edict.py`).

Costs two calls of two rows a step (of one row at guidance 1). Promises, unlike DDIM, that the sampler which made the
noise leads from it back to the picture at the guidance of the inversion, to rounding; the published edits are at 3.

Departures. A swap gives the source the stored trajectory of the pair's first latent, as `direct` does, so its row is
exact at any guidance; the target starts from that latent's noise and goes by DDIM, whereas EDICT edits by a pair of its
own, at two calls a step. And the picture is carried all the way to noise, where EDICT stops at 0.8 of it.
"""

import torch

from samplers import edict

from .request import Inverted, Request


def invert(request: Request) -> Inverted:
    """The trajectory of the pair's first latent, walked in float64."""
    clean, steps = request.double(), request.model.schedule.sampling(request.steps)
    walked = request.shown(edict.walk_back(request.eps(guided=True), (clean, clean), steps))
    return Inverted(torch.cat([clean, *(first for first, _ in walked)]).to(request.clean.dtype))
