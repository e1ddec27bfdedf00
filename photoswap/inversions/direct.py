"""Direct inversion: plain DDIM's trajectory, stored, which the source's row follows at every step.

Costs what `ddim` does, one call of one row a step, and spares a swap the source's own estimate. Promises that the
source's row ends at the picture's own latents, whatever the guidance and the prompt; the target starts from the same
noise and goes its own way. PnP Inversion (arXiv:2310.01506, Algorithm 1) adds the difference between where the source's
row lands and where it stood; standing it there is the same rule without the estimate.
"""

from . import ddim
from .request import Inverted, Request


def invert(request: Request) -> Inverted:
    """The trajectory, which `Inversion.returns_stored` has a swap's source follow."""
    return ddim.invert(request)
