"""What is to be swapped, and the right answer: subjects nobody trained on, their references, a source, the truth.

A task is a function of its split, its kind and its number. Of even numbers the newcomer is of the same species as the
one it replaces, of odd ones it is another; in a pair each is replaced by one of its own species. The streams "dev" and
"test" share no scene with each other nor with anything trained on. "demo" has further scenes of the demo's: one
subject, learnt once, in place of one cat, by day.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from photoswap.turns import Swapping, Turn, turns
from train.miniature.data import SCENE_KINDS, SIZE, STREAMS
from train.world import PLACES, SMALL, Look, Rendering, Scene, World, caption, render
from train.world.backgrounds import LIGHTS

SPLITS = {"dev": "development", "test": "test"}
DEMO_SPLIT, DEMO_SEED = "demo", 100  # the demo's own scene is number 0, these begin here
TASK_STREAM = 7  # apart from the streams' other uses
REFERENCES = 4
TOKEN = "sks"

DEMO_SUBJECT = Look("cat", "purple", "spotted", "yellow", "scarf", "red")
DEMO_SOURCE = Look("cat", "orange")
FIRST = 120  # stream of the demo's first scene: a cat in the snow, before two fir trees to keep


@dataclass(frozen=True, eq=False)
class Newcomer:
    """A subject that takes the place of one in the scene, and the pictures it is learnt from, with its masks there."""

    look: Look
    pictures: tuple[Rendering, ...]

    @property
    def references(self) -> list[Image.Image]:
        """The pictures alone."""
        return [picture.image for picture in self.pictures]


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be done, and the right answer: for each subject of the scene who takes its place; source and truth.

    name: "dev-single-3", the task's split, kind and number.
    """

    name: str
    newcomers: tuple[Newcomer, ...]
    scene: Scene
    source: Rendering
    truth: Rendering

    @property
    def subject(self) -> Look:
        """The newcomer's look; the first one's."""
        return self.newcomers[0].look

    @property
    def references(self) -> list[Image.Image]:
        """The first newcomer's."""
        return self.newcomers[0].references

    @property
    def true_scene(self) -> Scene:
        """The scene of the truth."""
        return _with_looks(self.scene, self.newcomers)

    @property
    def kind(self) -> str:
        """One of SCENE_KINDS."""
        return "pair" if self.scene.others else "hidden" if self.scene.front else "single"

    @property
    def within_species(self) -> bool:
        """Whether everyone is replaced by one of their own species."""
        old = [subject.look.species for subject in self.scene.subjects]
        return old == [newcomer.look.species for newcomer in self.newcomers]

    @property
    def words(self) -> list[str]:
        """What the prompt calls the subjects that give way."""
        return [subject.look.species for subject in self.scene.subjects]

    @property
    def prompt(self) -> str:
        """What is in the source, without its looks: "a photo of a cat in a meadow"."""
        return plain_caption(self.scene)

    @property
    def species(self) -> list[str]:
        """What the newcomers are."""
        return [newcomer.look.species for newcomer in self.newcomers]

    def turns(self, called: Sequence[str] | None = None) -> list[Turn]:
        """The prompts of one swap after another. called: the newcomers in prompts, None for "sks cat" and the like."""
        called = called or [f"{TOKEN} {species}" for species in self.species]
        return turns(self.prompt, [Swapping(*three) for three in zip(self.words, called, self.species, strict=True)])


def plain_caption(scene: Scene) -> str:
    """A caption that says of the subjects their species alone, and where and in what light they are."""
    subjects = caption(scene, np.random.default_rng(0), forget=1.0)
    return " ".join(part for part in (subjects, PLACES[scene.place][0], LIGHTS[scene.light][0]) if part)


def draw_task(split: str, kind: str, index: int, size: int = SIZE, world: World = SMALL) -> Task:
    """Task number `index` of a split and a kind, size x size pixels. Raises ValueError for an unknown one."""
    check_task(split, kind)
    if split == DEMO_SPLIT:
        return replace(make_task(DEMO_SEED + index, size=size), name=f"{split}-{kind}-{index}")
    rng = np.random.default_rng([STREAMS[SPLITS[split]], index, TASK_STREAM, SCENE_KINDS.index(kind)])
    kinds: dict[str, Callable[[np.random.Generator, Look], Scene]] = {
        "single": world.scene,
        "pair": world.pair,
        "hidden": world.hidden,
    }
    scene = kinds[kind](rng, world.look(rng))
    same = kind == "pair" or index % 2 == 0
    newcomers = []
    for subject in scene.subjects:
        look = _other(world, rng, subject.look, same)
        pictures = tuple(render(replace(world.scene(rng, look), light="day"), size) for _ in range(REFERENCES))
        newcomers.append(Newcomer(look, pictures))
    return _task(f"{split}-{kind}-{index}", newcomers, scene, size)


def check_task(split: str, kind: str) -> None:
    """Raise ValueError unless there are tasks of this split and this kind."""
    for value, known, what in ((split, (*SPLITS, DEMO_SPLIT), "split"), (kind, SCENE_KINDS, "kind of task")):
        if value not in known:
            raise ValueError(f"no {what} {value!r}; want one of {', '.join(known)}")
    if split == DEMO_SPLIT and kind != "single":
        raise ValueError(f"the demo's scenes have one subject each, and none is {kind}: take --split dev or test")


def _other(world: World, rng: np.random.Generator, old: Look, same: bool) -> Look:
    """A look kept out of training, of another colour than the old one, and of its species or not."""
    while True:
        look = world.look(rng, unseen=True)
        if look.colour != old.colour and (look.species == old.species) == same:
            return look


def make_task(seed: int = 0, subject: Look = DEMO_SUBJECT, source: Look = DEMO_SOURCE, size: int = SIZE) -> Task:
    """The demo's task: references, the same for every seed, and source and truth, whose pose and place it says."""
    references, _ = _scenes(0, subject, source)
    _, scene = _scenes(FIRST + seed, subject, source)
    newcomer = Newcomer(subject, tuple(render(reference, size) for reference in references))
    return _task(f"demo-{seed}", [newcomer], scene, size)


def _task(name: str, newcomers: list[Newcomer], scene: Scene, size: int) -> Task:
    truth = render(_with_looks(scene, newcomers), size)
    return Task(name, tuple(newcomers), scene, render(scene, size), truth)


def _with_looks(scene: Scene, newcomers: Sequence[Newcomer]) -> Scene:
    for i, newcomer in enumerate(newcomers):
        scene = scene.with_look(newcomer.look, i)
    return scene


def _scenes(stream: int, subject: Look, source: Look) -> tuple[list[Scene], Scene]:
    """Scenes of a stream, by day: of the subject as many as there are references, then one of the source."""
    rng = np.random.default_rng([7, stream])
    looks = [subject] * REFERENCES + [source]
    scenes = [replace(SMALL.scene(rng, look), light="day") for look in looks]
    return scenes[:-1], scenes[-1]
