"""What can stand between the viewer and the subjects: painted over them, and taken out of their masks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from train.world.backgrounds import box, disc


@dataclass(frozen=True)
class Front:
    """Something in front. x is its middle, height and width its box, all in fractions of the side; it stands on `base`.

    A fence runs across the whole picture: there x shifts its pickets and width counts for nothing.
    """

    name: str
    x: float = 0.5
    width: float = 0.35
    height: float = 0.3
    base: float = 0.97

    def __post_init__(self) -> None:
        if self.name not in FRONTS:
            raise ValueError(f"{self.name!r} is in front; the world has {', '.join(FRONTS)}")


def fence(draw: ImageDraw.ImageDraw, side: int, front: Front) -> None:
    """Pale pickets with pointed tops on two rails; what is behind shows between them."""
    top, wood, shade = front.base - front.height, (214, 190, 150), (176, 148, 108)
    for y in (0.22, 0.66):
        box(draw, side, -0.01, top + y * front.height, 1.01, top + (y + 0.14) * front.height, shade)
    for x in np.arange(-0.2, 1.2, 0.16) + front.x % 0.16:
        left, right, tip = (x - 0.033) * side, (x + 0.033) * side, x * side
        corners = [(left, front.base * side), (left, (top + 0.04) * side), (tip, top * side)]
        corners += [(right, (top + 0.04) * side), (right, front.base * side)]
        draw.polygon(corners, wood, (120, 96, 66), max(side // 128, 1))


def bush(draw: ImageDraw.ImageDraw, side: int, front: Front) -> None:
    """Round leaves in two greens, wider than high."""
    w, h, y = front.width, front.height, front.base
    for tone, grow in (((30, 70, 40), 0.012), ((64, 128, 60), 0.0)):
        for dx, dy, r in (
            (-0.3, 0.3, 0.22),
            (0.3, 0.3, 0.22),
            (0.0, 0.5, 0.3),
            (-0.12, 0.28, 0.26),
            (0.14, 0.28, 0.26),
        ):
            disc(draw, side, front.x + dx * w, y - dy * h, r * w + grow, tone, (h / w) * 1.15)
    for dx, dy in ((-0.22, 0.42), (0.06, 0.66), (0.26, 0.36), (-0.02, 0.3)):
        disc(draw, side, front.x + dx * w, y - dy * h, 0.07 * w, (104, 168, 84), 0.8)


def crate(draw: ImageDraw.ImageDraw, side: int, front: Front) -> None:
    """A wooden box with a frame and a cross bar."""
    x0, x1, y0, y1 = front.x - front.width / 2, front.x + front.width / 2, front.base - front.height, front.base
    box(draw, side, x0 - 0.008, y0 - 0.008, x1 + 0.008, y1 + 0.008, (74, 50, 30))
    box(draw, side, x0, y0, x1, y1, (150, 106, 62))
    box(draw, side, x0 + 0.03, y0 + 0.03, x1 - 0.03, y1 - 0.03, (190, 142, 88))
    ends = [(x0 + 0.03) * side, (y1 - 0.03) * side, (x1 - 0.03) * side, (y0 + 0.03) * side]
    draw.line(ends, (150, 106, 62), max(side // 24, 1))


FRONTS: dict[str, Callable[[ImageDraw.ImageDraw, int, Front], None]] = {"fence": fence, "bush": bush, "box": crate}


def cover(front: Front, side: int) -> Image.Image:
    """What is in front as an RGBA picture, opaque where it hides what is behind."""
    canvas = Image.new("RGBA", (side, side))
    FRONTS[front.name](ImageDraw.Draw(canvas), side, front)
    return canvas
