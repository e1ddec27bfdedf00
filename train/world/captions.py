"""How a scene is described: the captions that a network trained on the world understands."""

from collections.abc import Callable

import numpy as np

from models.prompts import article
from train.world.backgrounds import LIGHTS, PLACES
from train.world.scene import Look, Scene


def phrase(look: Look, said: Callable[[str], str] = str) -> str:
    """ "a striped red and white cat with a blue scarf". said: what becomes of each attribute; the species stays."""
    pattern = "" if look.pattern == "plain" else said(look.pattern)
    second = f" and {look.second}" if pattern and said("x") else ""
    colour = said(look.colour + second)
    worn = said(f"with {_a(f'{look.accessory_colour} {look.accessory}')}") if look.accessory else ""
    noun = " ".join(word for word in (pattern, colour, look.species) if word)
    return f"{_a(noun)} {worn}".strip()


def caption(scene: Scene, rng: np.random.Generator | None = None, forget: float = 0.0, mirrored: bool = False) -> str:
    """ "a photo of a striped red and white cat with a blue scarf on a wooden floor at night".

    Subjects are named from left to right, or from right to left where the picture will be seen mirrored, and joined by
    "and"; what is in front follows them: "behind a fence". With rng, each attribute is left out with probability
    `forget`, so that a bare "cat" means any cat: what is not said is what a concept is free to bind. Species and what
    is in front are always said.
    """

    def said(text: str) -> str:
        return "" if rng is not None and rng.random() < forget else text

    ordered = sorted(scene.subjects, key=lambda subject: subject.pose.x, reverse=mirrored)
    subjects = " and ".join([phrase(subject.look, said) for subject in ordered])
    front = f"behind {_a(scene.front.name)}" if scene.front else ""
    place, light = said(PLACES[scene.place][0]), said(LIGHTS[scene.light][0])
    return " ".join(part for part in (f"a photo of {subjects}", front, place, light) if part)


def _a(noun: str) -> str:
    return f"{article(noun)} {noun}"
