"""Drawing a scene: the place, shadows, the posed subjects in their coats, what is in front, then light over all of it.

Everything is drawn three times too large and averaged down, which is what makes the edges smooth and the mask soft.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from train.world.backgrounds import LIGHTS, draw_background
from train.world.body import Body, Part, Pose
from train.world.fronts import cover
from train.world.scene import COLOURS, Look, Scene
from train.world.shapes import Points, blob, ellipse, limb
from train.world.species import SPECIES

SUPERSAMPLING = 3
MATERIALS = (
    "none",
    "outline",
    "coat",
    "far",
    "second",
    "dark",
    "white",
    "beak",
    "glass",
    "metal",
    "scarf",
    "hat",
    "band",
)
LABEL = {name: i for i, name in enumerate(MATERIALS)}
FIXED = {
    "dark": (36, 34, 42),
    "white": (250, 250, 246),
    "beak": (244, 150, 44),
    "glass": (190, 222, 238),
    "metal": (186, 190, 198),
}


class Rendering(NamedTuple):
    """A drawn scene: image RGB, and for each subject a mask L, 255 where it (accessory included) covers a pixel."""

    image: Image.Image
    masks: tuple[Image.Image, ...]

    @property
    def mask(self) -> Image.Image:
        """Where the first subject is."""
        return self.masks[0]


class Placement(NamedTuple):
    """picture = matrix @ subject + shift, in supersampled pixels."""

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]

    def __call__(self, points: Points) -> Points:
        return points @ self.matrix.T + self.shift


class Figure(NamedTuple):
    """A subject ready to be painted: its body and where that goes, and which material covers each pixel."""

    look: Look
    body: Body
    to_picture: Placement
    labels: NDArray[np.uint8]


def render(scene: Scene, size: int = 128) -> Rendering:
    """Draw a scene, size x size pixels. The same scene gives the same bytes.

    Masks are of what is seen: a nearer subject and what is in front are taken out of those behind.
    """
    side = size * SUPERSAMPLING
    figures = [_figure(look, pose, side) for look, pose in scene.subjects]
    canvas = _ground(scene, figures, side)
    owner = np.zeros((side, side), np.uint8)  # 0 nobody, else the number of the subject counted from 1
    for i in sorted(range(len(figures)), key=lambda i: scene.subjects[i].pose.floor):
        _colour(canvas, figures[i].labels, figures[i].look, figures[i].to_picture)
        owner[figures[i].labels > 0] = i + 1
    owner[_covered(canvas, scene, side)] = 0
    image = _lit(canvas, scene)
    masks = (Image.fromarray(((owner == i + 1) * 255).astype(np.uint8)) for i in range(len(figures)))
    return Rendering(image, tuple(mask.reduce(SUPERSAMPLING) for mask in masks))


def backdrop(scene: Scene, size: int = 128) -> Image.Image:
    """The picture of a scene with its subjects taken out, their shadows left."""
    side = size * SUPERSAMPLING
    canvas = _ground(scene, [_figure(look, pose, side) for look, pose in scene.subjects], side)
    _covered(canvas, scene, side)
    return _lit(canvas, scene)


def _ground(scene: Scene, figures: list[Figure], side: int) -> NDArray[np.float32]:
    """The place with the subjects' shadows."""
    canvas: NDArray[np.float32] = np.array(
        draw_background(scene.place, scene.horizon, scene.variation, side), dtype=np.float32
    )
    for figure in figures:
        canvas = _shadowed(canvas, figure.body, figure.to_picture, side)
    return canvas


def _covered(canvas: NDArray[np.float32], scene: Scene, side: int) -> NDArray[np.bool_]:
    """Paint what is in front, in place; where that is."""
    if scene.front is None:
        return np.zeros((side, side), dtype=bool)
    covering = np.asarray(cover(scene.front, side))
    hidden: NDArray[np.bool_] = covering[..., 3] > 0
    canvas[hidden] = covering[hidden][:, :3]
    return hidden


def _lit(canvas: NDArray[np.float32], scene: Scene) -> Image.Image:
    """The finished canvas by the scene's light, at the size asked for."""
    lit = canvas * np.array(LIGHTS[scene.light][1], dtype=np.float32)
    return Image.fromarray(np.clip(lit + 0.5, 0, 255).astype(np.uint8)).reduce(SUPERSAMPLING)


def _figure(look: Look, pose: Pose, side: int) -> Figure:
    body = SPECIES[look.species](pose)
    to_picture = _placement(body, pose, side)
    return Figure(look, body, to_picture, _labels([*body.parts, *_worn(body, look)], to_picture, side))


def _placement(body: Body, pose: Pose, side: int) -> Placement:
    """Flip, tilt and scale so that the undressed body's box has the pose's size and stands where the pose says."""
    c, s = np.cos(pose.tilt), np.sin(pose.tilt)
    turn = np.array([[c, -s], [s, c]])
    if pose.facing == "left":
        turn = np.array([[-1.0, 0.0], [0.0, 1.0]]) @ turn
    points = np.concatenate([part.outline for part in body.parts]) @ turn.T
    low, high = points.min(0), points.max(0)
    scale = pose.size * side / (high - low).max()
    corner = np.array([pose.x * side - scale * (low[0] + high[0]) / 2, pose.floor * side - scale * high[1]])
    return Placement(turn * scale, corner)


def _worn(body: Body, look: Look) -> list[Part]:
    if look.accessory == "hat":
        x, y, angle, w = body.crown
        brim = ellipse(x, y, w * 1.25, w * 0.3, angle)
        up = np.array([np.sin(angle), -np.cos(angle)]) * w
        top = ellipse(x + up[0] * 0.65, y + up[1] * 0.65, w * 0.72, w * 0.78, angle)
        return [Part(top, "hat"), Part(brim, "hat")]
    if look.accessory == "scarf" and body.neck[3] > 0:
        x, y, angle, w = body.neck
        along = np.array([np.cos(angle), np.sin(angle)]) * w * 1.05
        band = limb((x - along[0], y - along[1]), (x + along[0], y + along[1]), start=0.105, end=0.105)
        end = limb((x + along[0] * 0.5, y + along[1] * 0.5), (x + along[0] * 0.45, y + 0.4), start=0.1, end=0.13)
        return [Part(end, "scarf"), Part(band, "scarf")]
    if look.accessory == "scarf":  # a body without a neck ties it as a ribbon around its middle
        x, y, angle, w = body.crown
        return [Part(blob((x - 0.16, y + 0.2), (x + 0.16, y + 0.2), (x + 0.2, y + 0.62), (x - 0.2, y + 0.62)), "scarf")]
    return []


def _labels(parts: list[Part], place: Placement, side: int) -> NDArray[np.uint8]:
    """Which material covers each pixel: first every part swollen as outline, then every part in its material."""
    canvas = Image.new("L", (side, side))
    pen = ImageDraw.Draw(canvas)
    width = max(side // 64, 2)
    outlines = [[(float(x), float(y)) for x, y in place(part.outline)] for part in parts]
    for points in outlines:
        pen.line([*points, *points[:2]], LABEL["outline"], width, joint="curve")
    for points, part in zip(outlines, parts, strict=True):
        pen.polygon(points, LABEL[part.material])
    return np.asarray(canvas)


def _shadowed(place: NDArray[np.float32], body: Body, to_picture: Placement, side: int) -> NDArray[np.float32]:
    """The place with a soft dark ellipse under the subject."""
    points = np.concatenate([to_picture(part.outline) for part in body.parts])
    low, high = points.min(0), points.max(0)
    y, x = np.ogrid[:side, :side]
    rx, ry = (high[0] - low[0]) * 0.48, side * 0.05
    distance = ((x - (low[0] + high[0]) / 2) / rx) ** 2 + ((y - high[1] + ry * 0.4) / ry) ** 2
    shade = 1 - 0.38 * np.clip(1.2 - distance, 0, 1)
    return place * shade[..., None].astype(np.float32)


def _colour(canvas: NDArray[np.float32], labels: NDArray[np.uint8], look: Look, to_picture: Placement) -> None:
    """Paint the labelled pixels in place; the coat's pattern lies in the subject's coordinates, so it moves along."""
    rows, columns = np.nonzero(labels)
    where = labels[rows, columns]
    u, v = np.linalg.inv(to_picture.matrix) @ (np.stack([columns, rows]) - to_picture.shift[:, None])
    coat, second = np.array(COLOURS[look.colour], np.float32), np.array(COLOURS[look.second], np.float32)
    marked = _pattern(look.pattern, u, v)[:, None]
    fur = np.where(marked, second, coat)
    table = np.zeros((len(MATERIALS), 3), np.float32)
    for name, colour in FIXED.items():
        table[LABEL[name]] = colour
    table[LABEL["outline"]] = coat * 0.3 + 8
    table[LABEL["second"]] = second
    table[LABEL["scarf"]] = table[LABEL["hat"]] = COLOURS[look.accessory_colour]
    painted = table[where]
    painted = np.where((where == LABEL["coat"])[:, None], fur, painted)
    painted = np.where((where == LABEL["far"])[:, None], fur * 0.74, painted)
    light = 1.08 - 0.2 * (rows - rows.min()) / max(rows.max() - rows.min(), 1)
    canvas[rows, columns] = np.clip(painted * light[:, None], 0, 255)


def _pattern(name: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where the second colour shows, by position in the subject's coordinates. Cells are about a third of a unit."""
    if name == "striped":
        return np.mod(u + 0.25 * v, 0.42) < 0.19
    if name == "spotted":
        row = np.floor(v / 0.36)
        du, dv = np.mod(u + 0.21 * row, 0.42) - 0.21, np.mod(v, 0.36) - 0.18
        return du**2 + dv**2 < 0.115**2
    if name == "checkered":
        return (np.floor(u / 0.29) + np.floor(v / 0.29)) % 2 == 0
    return np.zeros(u.shape, dtype=bool)
