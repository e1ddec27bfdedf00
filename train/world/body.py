"""A posed subject as painted outlines, and the limbs and eyes that many of them share.

Subjects face right and stand on y = 1. A pose moves legs, head and tail; facing, tilt, size and place are left to the
renderer.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from train.world.shapes import Points, ellipse, limb

Material = Literal["coat", "far", "second", "dark", "white", "beak", "glass", "metal", "scarf", "hat"]


class Part(NamedTuple):
    """One outline and what it is painted with; later parts cover earlier ones."""

    outline: Points
    material: Material


@dataclass(frozen=True)
class Pose:
    """How a subject stands. stride, head and tail in [-1, 1]; tilt in radians; size is the longer side of its box.

    x is the middle of the box and floor its lower edge, both, like size, in fractions of the picture's side.
    """

    facing: Literal["left", "right"] = "right"
    tilt: float = 0.0
    size: float = 0.72
    x: float = 0.5
    floor: float = 0.88
    stride: float = 0.0
    head: float = 0.0
    tail: float = 0.0


@dataclass(frozen=True)
class Body:
    """A posed subject: its parts from back to front, and where a scarf and a hat go (x, y, angle, half-width)."""

    parts: tuple[Part, ...]
    neck: tuple[float, float, float, float]
    crown: tuple[float, float, float, float]


def legs(hips: tuple[float, float], y: float, stride: float, wide: float, swing: float = 0.24) -> list[Part]:
    """Four legs, far pair first: hips are the x of the hind and the front pair."""
    hind, front = hips
    far = [
        Part(limb((x + 0.10, y), (x + 0.10 - d * swing * stride, 1 - wide * 0.8), start=wide, end=wide * 0.8), "far")
        for x, d in ((hind, 1), (front, -1))
    ]
    near = [
        Part(limb((x, y), (x + d * swing * stride, 1 - wide * 0.8), start=wide, end=wide * 0.8), "coat")
        for x, d in ((hind, 1), (front, -1))
    ]
    return far + near


def eye(x: float, y: float, r: float = 0.07) -> list[Part]:
    return [
        Part(ellipse(x, y, r, r * 1.15, n=16), "white"),
        Part(ellipse(x + r * 0.3, y, r * 0.6, r * 0.75, n=12), "dark"),
    ]
