"""O-BELM inversion (arXiv:2410.07273): a two-step sampler walked back exactly, under guidance (`samplers/belm.py`).

Costs one call of two rows a step (of one row at guidance 1), half of EDICT. Promises that this sampler leads from the
last two latents back to the picture at the guidance of the inversion, to rounding. The noise is the less normal the
fewer the steps: what the first of them gets wrong grows with the noise level on the way up.

Departures. A swap gives the source the stored trajectory, as `direct` does, so its row is exact at any guidance; the
target starts from the noise and goes by DDIM.
"""

import torch

from samplers import belm

from .request import Inverted, Request


def invert(request: Request) -> Inverted:
    """The trajectory, walked in float64. Raises ValueError for a schedule that starts at pure noise."""
    clean, steps = request.double(), request.model.schedule.sampling(request.steps)
    walked = request.shown(belm.walk_back(request.eps(guided=True), clean, steps))
    return Inverted(torch.cat([clean, *walked]).to(request.clean.dtype))
