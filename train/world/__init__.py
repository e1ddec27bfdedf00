"""A drawn world with exact ground truth: subjects, poses, places, captions. Deterministic from a seed."""

from train.world.backgrounds import PLACES
from train.world.body import Pose
from train.world.render import Picture, draw
from train.world.scene import ACCESSORIES, COLOURS, FULL, PATTERNS, SMALL, Look, Scene, World, caption
from train.world.species import SPECIES

__all__ = [
    "ACCESSORIES",
    "COLOURS",
    "FULL",
    "PATTERNS",
    "PLACES",
    "SMALL",
    "SPECIES",
    "Look",
    "Picture",
    "Pose",
    "Scene",
    "World",
    "caption",
    "draw",
]
