"""Negative-prompt inversion: the source's prompt in the place of the empty one (Miyake et al., arXiv:2305.16807).

Told the same twice, guidance has nothing to push apart, and the source is sampled as at guidance 1, whatever the scale.
The target is led away from the source's prompt instead of from nothing. What null-text optimisation fits, this guesses.

Costs one call of one row a step, as `ddim`; a swap computes three rows and not four, since the source's two are one.
Promises a return as good as DDIM's at guidance 1, which is near but not exact. Published with an interpolation towards
the empty prompt, by default none, which is not here.
"""

from . import ddim
from .request import Inverted, Request


def invert(request: Request) -> Inverted:
    """The trajectory at guidance 1; `Inversion.uncond_prompt` says what guidance leads away from."""
    return ddim.invert(request)
