"""A drawn world with exact ground truth: subjects, poses, places, captions. Deterministic from a seed."""

from train.world.backgrounds import PLACES
from train.world.body import Pose
from train.world.captions import caption, phrase
from train.world.fronts import FRONTS, Front
from train.world.render import Rendering, backdrop, render
from train.world.sampling import FULL, SMALL, World
from train.world.scene import ACCESSORIES, COLOURS, PATTERNS, Look, Scene, Subject
from train.world.species import SPECIES

__all__ = [
    "ACCESSORIES",
    "COLOURS",
    "FRONTS",
    "FULL",
    "PATTERNS",
    "PLACES",
    "SMALL",
    "SPECIES",
    "Front",
    "Look",
    "Pose",
    "Rendering",
    "Scene",
    "Subject",
    "World",
    "backdrop",
    "caption",
    "phrase",
    "render",
]
