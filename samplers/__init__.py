"""Numerical integration of diffusion over any callable `eps(latents, step)`; knows no network and no hook."""

from . import belm, edict, plms
from .ddim import Eps, invert, last, move, sample, walk
from .guidance import guide, guided_eps
from .schedule import Schedule, Step

__all__ = [
    "Eps",
    "Schedule",
    "Step",
    "belm",
    "edict",
    "guide",
    "guided_eps",
    "invert",
    "last",
    "move",
    "plms",
    "sample",
    "walk",
]
