"""The places of the world: each paints one square canvas from a random stream, ground meeting wall or sky at a horizon.

Shapes are broad and edges few, so that a factor-8 autoencoder can carry them; what varies is where things are.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from train.world.shapes import blob

Colour = tuple[int, int, int]
Painter = Callable[[ImageDraw.ImageDraw, int, float, np.random.Generator], None]


def gradient(draw: ImageDraw.ImageDraw, side: int, top: float, bottom: float, first: Colour, last: Colour) -> None:
    """Fill rows top..bottom (fractions of the side) with a vertical blend of two colours."""
    rows = range(int(top * side), int(np.ceil(bottom * side)))
    for row in rows:
        w = (row - rows.start) / max(len(rows) - 1, 1)
        draw.line([(0, row), (side, row)], tuple(round(a + (b - a) * w) for a, b in zip(first, last, strict=True)))


def disc(draw: ImageDraw.ImageDraw, side: int, x: float, y: float, r: float, fill: Colour, squash: float = 1.0) -> None:
    """A filled ellipse around (x, y), all in fractions of the side."""
    draw.ellipse([(x - r) * side, (y - r * squash) * side, (x + r) * side, (y + r * squash) * side], fill)


def box(draw: ImageDraw.ImageDraw, side: int, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
    """A filled rectangle, in fractions of the side."""
    draw.rectangle([x0 * side, y0 * side, x1 * side, y1 * side], fill)


def _shape(draw: ImageDraw.ImageDraw, side: int, points: np.ndarray, fill: Colour) -> None:
    draw.polygon([(float(x), float(y)) for x, y in points * side], fill)


def floor(draw: ImageDraw.ImageDraw, side: int, horizon: float, rng: np.random.Generator) -> None:
    """A room: a plain wall with a window or a picture, planks running towards the viewer."""
    gradient(draw, side, 0, horizon, (222, 205, 178), (236, 222, 198))
    gradient(draw, side, horizon, 1, (150, 100, 58), (186, 130, 78))
    vanish = rng.uniform(0.3, 0.7)
    for x in np.arange(-1.6, 2.7, 0.28):
        ends = [(vanish + (x - vanish) * 0.45) * side, horizon * side, x * side, side]
        draw.line(ends, (122, 80, 45), max(side // 96, 1))
    box(draw, side, 0, horizon - 0.035, 1, horizon, (250, 244, 232))
    x, w = rng.uniform(0.05, 0.65), rng.uniform(0.2, 0.3)
    box(draw, side, x, 0.06, x + w, 0.34, (250, 246, 236))
    box(draw, side, x + 0.025, 0.085, x + w - 0.025, 0.315, ((150, 200, 235), (96, 130, 96))[int(rng.integers(2))])


def meadow(draw: ImageDraw.ImageDraw, side: int, horizon: float, rng: np.random.Generator) -> None:
    """Blue sky with a cloud, a hill, a tree, grass."""
    gradient(draw, side, 0, horizon, (110, 180, 240), (190, 222, 246))
    x, y = rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.2)
    for dx, r in ((-0.09, 0.06), (0, 0.085), (0.1, 0.06)):
        disc(draw, side, x + dx, y, r, (248, 250, 252), 0.75)
    disc(draw, side, rng.uniform(0, 1), horizon + 0.12, rng.uniform(0.3, 0.45), (92, 160, 92), 0.6)
    x = rng.uniform(0.06, 0.94)
    box(draw, side, x - 0.02, horizon - 0.14, x + 0.02, horizon + 0.02, (110, 76, 48))
    disc(draw, side, x, horizon - 0.2, 0.11, (52, 122, 62))
    gradient(draw, side, horizon, 1, (120, 186, 92), (84, 152, 66))


def beach(draw: ImageDraw.ImageDraw, side: int, horizon: float, rng: np.random.Generator) -> None:
    """Sky, a band of sea with a sail, sand with a curved waterline."""
    gradient(draw, side, 0, horizon, (150, 208, 244), (214, 236, 248))
    gradient(draw, side, horizon - 0.16, horizon + 0.1, (38, 116, 176), (72, 166, 200))
    x = rng.uniform(0.08, 0.92)
    points = np.array([(x, horizon - 0.36), (x, horizon - 0.15), (x + 0.14 * rng.choice([-1, 1]), horizon - 0.15)])
    _shape(draw, side, points, (250, 250, 246))
    gradient(draw, side, horizon + 0.06, 1, (236, 214, 160), (222, 194, 134))
    wave = rng.uniform(-0.03, 0.03, 4)
    top = [
        (-0.1, horizon + wave[0]),
        (0.3, horizon + 0.03 + wave[1]),
        (0.7, horizon + wave[2]),
        (1.1, horizon + wave[3]),
    ]
    _shape(draw, side, blob(*top, (1.2, horizon + 0.2), (-0.2, horizon + 0.2)), (240, 220, 170))


def snow(draw: ImageDraw.ImageDraw, side: int, horizon: float, rng: np.random.Generator) -> None:
    """A pale sky, two fir trees, white ground."""
    gradient(draw, side, 0, horizon, (158, 180, 206), (208, 220, 232))
    for x in (rng.uniform(0.04, 0.4), rng.uniform(0.6, 0.96)):
        h, w = rng.uniform(0.26, 0.4), rng.uniform(0.1, 0.15)
        points = np.array([(x, horizon - h), (x + w, horizon + 0.02), (x - w, horizon + 0.02)])
        _shape(draw, side, points, (40, 92, 84))
    gradient(draw, side, horizon, 1, (226, 234, 244), (246, 249, 252))


def street(draw: ImageDraw.ImageDraw, side: int, horizon: float, rng: np.random.Generator) -> None:
    """Houses with large windows, a grey road with a line."""
    gradient(draw, side, 0, horizon, (176, 204, 226), (206, 222, 232))
    tones = [(178, 96, 80), (196, 164, 120), (128, 140, 158), (156, 120, 140)]
    x, order = rng.uniform(-0.25, 0.0), rng.permutation(4)
    for k in range(4):
        w, h = rng.uniform(0.28, 0.38), rng.uniform(0.3, horizon - 0.04)
        box(draw, side, x, horizon - h, x + w, horizon, tones[order[k]])
        box(draw, side, x + w * 0.3, horizon - h + 0.06, x + w * 0.7, horizon - h + 0.2, (246, 226, 150))
        x += w
    gradient(draw, side, horizon, 1, (108, 110, 118), (84, 86, 94))
    box(draw, side, 0, horizon, 1, horizon + 0.05, (164, 164, 166))
    box(draw, side, 0, 0.9, 1, 0.925, (226, 222, 204))


def desert(draw: ImageDraw.ImageDraw, side: int, horizon: float, rng: np.random.Generator) -> None:
    """A warm sky with a sun, a table mountain, a cactus, orange sand."""
    gradient(draw, side, 0, horizon, (246, 196, 130), (252, 226, 178))
    disc(draw, side, rng.uniform(0.12, 0.88), rng.uniform(0.1, 0.2), 0.075, (255, 246, 214))
    x, w = rng.uniform(0.1, 0.9), rng.uniform(0.14, 0.24)
    corners = [(x - w, horizon), (x - w * 0.7, horizon - 0.2), (x + w * 0.7, horizon - 0.2), (x + w, horizon)]
    _shape(draw, side, np.array(corners), (186, 98, 66))
    gradient(draw, side, horizon, 1, (224, 148, 86), (204, 124, 66))
    x = rng.uniform(0.08, 0.92)
    box(draw, side, x - 0.03, horizon - 0.24, x + 0.03, horizon + 0.04, (70, 126, 80))
    box(draw, side, x - 0.1, horizon - 0.12, x, horizon - 0.075, (70, 126, 80))
    box(draw, side, x - 0.1, horizon - 0.19, x - 0.055, horizon - 0.08, (70, 126, 80))


def stage(draw: ImageDraw.ImageDraw, side: int, horizon: float, rng: np.random.Generator) -> None:
    """A dark red curtain in broad folds, a light pool on boards."""
    width, shift = rng.uniform(0.12, 0.18), rng.uniform(0, 0.15)
    for k in range(-2, 10):
        box(draw, side, k * width - shift, 0, (k + 1) * width - shift, horizon, ((128, 24, 40), (158, 36, 52))[k % 2])
    gradient(draw, side, horizon, 1, (92, 66, 62), (66, 46, 46))
    disc(draw, side, rng.uniform(0.35, 0.65), 0.86, 0.42, (150, 122, 104), 0.28)


PLACES: dict[str, tuple[str, Painter]] = {
    "floor": ("on a wooden floor", floor),
    "meadow": ("in a meadow", meadow),
    "beach": ("on a beach", beach),
    "snow": ("in the snow", snow),
    "street": ("on a street", street),
    "desert": ("in the desert", desert),
    "stage": ("on a stage", stage),
}

LIGHTS: dict[str, tuple[str, tuple[float, float, float]]] = {
    "day": ("", (1.0, 1.0, 1.0)),
    "sunset": ("at sunset", (1.06, 0.8, 0.68)),
    "night": ("at night", (0.46, 0.52, 0.76)),
}


def draw_background(place: str, horizon: float, variation: int, side: int) -> Image.Image:
    """The picture of a place without its light.

    place: a key of PLACES. horizon: the ground's edge as a fraction of the side, 0.4 to 0.7. variation: a seed.
    """
    canvas = Image.new("RGB", (side, side))
    PLACES[place][1](ImageDraw.Draw(canvas), side, horizon, np.random.default_rng(variation))
    return canvas
