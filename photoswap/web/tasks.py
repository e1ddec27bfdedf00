"""The drawn world's examples: pictures of a subject to learn, and scenes to put it into."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from PIL import Image

from photoswap.benchmark.tasks import DEMO_SUBJECT, make_task
from train.world import Look


class Learnable(NamedTuple):
    """A subject to learn: its pictures, and what kind of thing it is."""

    pictures: list[Image.Image]
    class_word: str


class Invertible(NamedTuple):
    """A scene: the picture, what is in it, and the word for its subject."""

    picture: Image.Image
    prompt: str
    subject: str


SUBJECTS: Mapping[str, Look] = MappingProxyType(
    {
        "a purple cat with yellow spots and a red scarf": DEMO_SUBJECT,
        "a blue rabbit with white stripes": Look("rabbit", "blue", "striped", "white"),
        "a pink elephant with a yellow hat": Look("elephant", "pink", "plain", "pink", "hat", "yellow"),
    }
)
SCENES: Mapping[str, tuple[int, Look]] = MappingProxyType(
    {
        "an orange cat in the snow": (0, Look("cat", "orange")),
        "a white rabbit": (3, Look("rabbit", "white")),
        "a red horse": (1, Look("horse", "red")),
        "a green elephant": (2, Look("elephant", "green")),
    }
)


def subject_example(name: str) -> Learnable:
    """The pictures of an example subject, by its name in SUBJECTS."""
    look = SUBJECTS[name]
    return Learnable(make_task(0, look).newcomers[0].references, look.species)


def scene_example(name: str) -> Invertible:
    """An example scene, by its name in SCENES."""
    seed, look = SCENES[name]
    task = make_task(seed, source=look)
    return Invertible(task.source.image, task.prompt, look.species)
