"""Every species of the world by its name in captions."""

from collections.abc import Callable

from train.world.animals import cat, dog, duck, elephant, giraffe, horse, rabbit, snail, turtle
from train.world.body import Body, Pose
from train.world.things import car, mushroom, teapot

SPECIES: dict[str, Callable[[Pose], Body]] = {
    f.__name__: f for f in (cat, dog, rabbit, horse, elephant, duck, turtle, giraffe, snail, car, teapot, mushroom)
}
