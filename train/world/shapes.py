"""Outlines in a subject's own coordinates: x towards where it faces, y down, about one unit from centre to edge.

Every shape is an (n 2) array of points, so that a pose is one matrix product away from the picture.
"""

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, n: int = 36) -> Points:
    """The outline of an ellipse around (x, y); angle in radians, clockwise as y points down."""
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([x + rx * np.cos(t) * c - ry * np.sin(t) * s, y + rx * np.cos(t) * s + ry * np.sin(t) * c], 1)


def polygon(*corners: tuple[float, float]) -> Points:
    """Straight edges through the corners."""
    return np.array(corners, dtype=float)


def smooth(points: Points, closed: bool, n: int = 6) -> Points:
    """A Catmull-Rom spline through the points, n samples a segment."""
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, n, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate(pieces if closed else [*pieces, points[-1:]])


def blob(*corners: tuple[float, float]) -> Points:
    """A smooth closed outline through the corners."""
    return smooth(np.array(corners, dtype=float), closed=True)


def limb(*path: tuple[float, float], start: float, end: float) -> Points:
    """A smooth stroke along a path with round ends, tapering from one half-width to the other."""
    line = smooth(np.array(path, dtype=float), closed=False) if len(path) > 2 else np.array(path, dtype=float)
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    normal = tangent[:, ::-1] * [-1, 1]
    width = np.linspace(start, end, len(line))[:, None]
    caps = [_cap(line[-1], tangent[-1], end), _cap(line[0], -tangent[0], start)]
    return np.concatenate([line - normal * width, caps[0], (line + normal * width)[::-1], caps[1]])


def _cap(centre: Points, direction: Points, radius: float) -> Points:
    angle = np.arctan2(direction[1], direction[0]) + np.linspace(-np.pi / 2, np.pi / 2, 9)
    return centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
