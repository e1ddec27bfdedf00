"""What a picture of the world shows, apart from how it is drawn: a look, a pose, a place; and how it is described.

A scene is data: change its look and draw it again, and nothing but the subject changes. This is the exact answer that
a swap is scored against.
"""

from dataclasses import dataclass, replace

import numpy as np

from train.world.backgrounds import LIGHTS, PLACES
from train.world.body import Pose
from train.world.species import SPECIES

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 44, 44),
    "orange": (242, 142, 36),
    "yellow": (248, 214, 62),
    "green": (58, 160, 72),
    "blue": (56, 98, 214),
    "purple": (136, 66, 178),
    "pink": (246, 148, 190),
    "white": (242, 242, 238),
    "brown": (126, 80, 48),
    "black": (46, 46, 52),
}
PATTERNS = ("plain", "striped", "spotted", "checkered")
ACCESSORIES = ("scarf", "hat")


@dataclass(frozen=True)
class Look:
    """What a subject looks like in any pose: species, coat, the coat's second colour, and what it wears."""

    species: str = "cat"
    colour: str = "red"
    pattern: str = "plain"
    second: str = "white"
    accessory: str | None = None
    accessory_colour: str = "blue"

    def __post_init__(self) -> None:
        for value, allowed, what in (
            (self.species, SPECIES, "species"),
            (self.colour, COLOURS, "colour"),
            (self.second, COLOURS, "second colour"),
            (self.accessory_colour, COLOURS, "accessory colour"),
            (self.pattern, PATTERNS, "pattern"),
            (self.accessory, (None, *ACCESSORIES), "accessory"),
        ):
            if value not in allowed:
                raise ValueError(f"{what} is {value!r}; the world has {', '.join(str(a) for a in allowed)}")


@dataclass(frozen=True)
class Scene:
    """One picture: who, how it stands, where, in what light. horizon as a fraction of the side, variation a seed."""

    look: Look
    pose: Pose
    place: str = "floor"
    light: str = "day"
    horizon: float = 0.55
    variation: int = 0

    def __post_init__(self) -> None:
        if self.place not in PLACES or self.light not in LIGHTS:
            raise ValueError(
                f"the scene is at {self.place!r} by {self.light!r}; "
                f"places: {', '.join(PLACES)}; lights: {', '.join(LIGHTS)}"
            )

    def with_look(self, look: Look) -> "Scene":
        """The same moment with another subject in the same pose."""
        return replace(self, look=look)


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


def caption(scene: Scene, rng: np.random.Generator | None = None, forget: float = 0.0) -> str:
    """ "a photo of a striped red and white cat with a blue scarf on a wooden floor at night".

    With rng, each attribute is left out with probability `forget`, so that a bare "cat" means any cat: what is not
    said is what a concept is free to bind.
    """

    def said(text: str) -> str:
        return "" if rng is not None and rng.random() < forget else text

    look = scene.look
    pattern = "" if look.pattern == "plain" else said(look.pattern)
    second = f" and {look.second}" if pattern and said("x") else ""
    colour = said(look.colour + second)
    worn = said(f"with {_a(f'{look.accessory_colour} {look.accessory}')}") if look.accessory else ""
    noun = " ".join(word for word in (pattern, colour, look.species) if word)
    place, light = said(PLACES[scene.place][0]), said(LIGHTS[scene.light][0])
    return " ".join(part for part in (f"a photo of {_a(noun)}", worn, place, light) if part)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
