"""Which scenes occur: random looks, poses and places, one subject, two, or one that something hides in part.

One combination of species, colour and pattern in thirteen is kept out of training, so that there are subjects which a
network has never seen.
"""

from dataclasses import dataclass, replace

import numpy as np

from train.world.backgrounds import LIGHTS, PLACES
from train.world.body import Pose
from train.world.fronts import FRONTS, Front
from train.world.scene import ACCESSORIES, COLOURS, PATTERNS, Look, Scene, Subject
from train.world.species import SPECIES


@dataclass(frozen=True)
class World:
    """Which of everything that can be drawn occurs, and the share of scenes that wear something."""

    species: tuple[str, ...] = tuple(SPECIES)
    colours: tuple[str, ...] = tuple(COLOURS)
    patterns: tuple[str, ...] = PATTERNS
    places: tuple[str, ...] = tuple(PLACES)
    lights: tuple[str, ...] = tuple(LIGHTS)
    dressed: float = 0.4
    sizes: tuple[float, float] = (0.55, 0.8)
    tilts: float = 0.2

    def unseen(self, look: Look) -> bool:
        """Whether this species, colour and pattern are kept out of training together: one combination in thirteen."""
        names = tuple(SPECIES), tuple(COLOURS), PATTERNS
        which = [
            group.index(value) for group, value in zip(names, (look.species, look.colour, look.pattern), strict=True)
        ]
        return (3 * which[0] + 5 * which[1] + 7 * which[2]) % 13 == 0

    def look(self, rng: np.random.Generator, unseen: bool = False) -> Look:
        """A random look, one never trained on where asked; colour and second colour differ."""
        while True:
            look = self._any_look(rng)
            if self.unseen(look) == unseen:
                return look

    def _any_look(self, rng: np.random.Generator) -> Look:
        colour, second = rng.choice(self.colours, 2, replace=False)
        accessory = str(rng.choice(ACCESSORIES)) if rng.random() < self.dressed else None
        return Look(
            species=str(rng.choice(self.species)),
            colour=str(colour),
            pattern=str(rng.choice(self.patterns)),
            second=str(second),
            accessory=accessory,
            accessory_colour=str(rng.choice([c for c in self.colours if c != colour])),
        )

    def pose(self, rng: np.random.Generator) -> Pose:
        """A random pose, the whole subject inside the frame."""
        size = rng.uniform(*self.sizes)
        room = (1 - size) / 2 - 0.01
        return Pose(
            facing="right" if rng.random() < 0.5 else "left",
            tilt=float(rng.uniform(-self.tilts, self.tilts)),
            size=float(size),
            x=float(0.5 + rng.uniform(-room, room)),
            floor=float(rng.uniform(max(0.84, size + 0.08), 0.96)),
            stride=float(rng.uniform(-1, 1)),
            head=float(rng.uniform(-1, 1)),
            tail=float(rng.uniform(-1, 1)),
        )

    def scene(self, rng: np.random.Generator, look: Look | None = None) -> Scene:
        """A random scene, of the given look where there is one."""
        return Scene(
            look=look or self.look(rng),
            pose=self.pose(rng),
            place=str(rng.choice(self.places)),
            light=str(rng.choice(self.lights)),
            horizon=float(rng.uniform(0.45, 0.65)),
            variation=int(rng.integers(2**31)),
        )

    def pair(self, rng: np.random.Generator, look: Look | None = None) -> Scene:
        """A random scene of two subjects of different species, side by side; the first, of the given look, at left."""
        scene = self.scene(rng, look)
        while (other := self.look(rng)).species == scene.look.species:
            pass
        left, right = (self._half(self.pose(rng), side, rng) for side in (0, 1))
        return replace(scene, pose=left, others=(Subject(other, right),))

    @staticmethod
    def _half(pose: Pose, side: int, rng: np.random.Generator) -> Pose:
        """The pose, small enough for one half of the picture; at most a little of it reaches into the other half."""
        size = float(rng.uniform(0.42, 0.54))
        x = size / 2 + rng.uniform(0.015, 0.045)
        return replace(pose, size=size, x=float(1 - x if side else x), floor=float(rng.uniform(0.78, 0.95)))

    def hidden(self, rng: np.random.Generator, look: Look | None = None) -> Scene:
        """A random scene with a fence, a bush or a box before the subject, which hides about a quarter of it."""
        scene = self.scene(rng, look)
        pose = replace(scene.pose, floor=float(rng.uniform(max(0.8, scene.pose.size + 0.06), 0.9)))
        name = str(rng.choice(tuple(FRONTS)))
        side = 1 if rng.random() < 0.5 else -1
        front = Front(
            name,
            x=float(pose.x + side * pose.size * rng.uniform(0.08, 0.36)),
            width=float(rng.uniform(0.28, 0.4)),
            height=float(rng.uniform(0.26, 0.36)),
            base=float(pose.floor + rng.uniform(0.04, 0.07)),
        )
        return replace(scene, pose=pose, front=front)


FULL = World()
SMALL = World(
    species=("cat", "rabbit", "horse", "elephant", "duck", "car"),
    colours=("red", "orange", "yellow", "green", "blue", "purple", "pink", "white"),
    places=("floor", "meadow", "beach", "snow", "street"),
    lights=("day", "sunset"),
    dressed=0.3,
    sizes=(0.66, 0.84),
    tilts=0.15,
)
