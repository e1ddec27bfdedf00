"""What a picture of the world shows, apart from how it is drawn: looks, poses, a place, and what stands in front.

A scene is data: change a look and draw it again, and nothing but that subject changes. This is the exact answer that
a swap is scored against.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from train.world.backgrounds import LIGHTS, PLACES
from train.world.body import Pose
from train.world.fronts import Front
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


class Subject(NamedTuple):
    """Who, and how it stands."""

    look: Look
    pose: Pose


@dataclass(frozen=True)
class Scene:
    """One picture: who, how it stands, where, in what light. horizon as a fraction of the side, variation a seed.

    others: further subjects. Whoever stands lower in the picture is nearer and hides the rest. front: what stands
    before all of them.
    """

    look: Look
    pose: Pose
    place: str = "floor"
    light: str = "day"
    horizon: float = 0.55
    variation: int = 0
    others: tuple[Subject, ...] = ()
    front: Front | None = None

    def __post_init__(self) -> None:
        if self.place not in PLACES or self.light not in LIGHTS:
            raise ValueError(
                f"the scene is at {self.place!r} by {self.light!r}; "
                f"places: {', '.join(PLACES)}; lights: {', '.join(LIGHTS)}"
            )

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """All of them, the first one first."""
        return (Subject(self.look, self.pose), *self.others)

    def with_look(self, look: Look, subject: int = 0) -> "Scene":
        """The same moment with another subject in the same pose, in place of subject number `subject`.

        Raises ValueError when the scene has no such subject.
        """
        if not 0 <= subject < len(self.subjects):
            raise ValueError(f"there is no subject {subject}: the scene has {len(self.subjects)}, counted from 0")
        if subject == 0:
            return replace(self, look=look)
        others = list(self.others)
        others[subject - 1] = others[subject - 1]._replace(look=look)
        return replace(self, others=tuple(others))
