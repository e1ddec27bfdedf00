"""Things that stand in the world as animals do, each a function from a pose to a body, drawn facing right."""

from train.world.body import Body, Part, Pose
from train.world.shapes import blob, ellipse, limb, polygon


def car(p: Pose) -> Body:
    """A cabin with two windows over two wheels."""
    shift = 0.1 * p.head
    parts = [
        Part(
            blob(
                (-0.66, 0.3),
                (-0.5 + shift, -0.22),
                (-0.2 + shift, -0.32),
                (0.22 + shift, -0.3),
                (0.5 + shift, 0.1),
                (0.62, 0.3),
            ),
            "coat",
        ),
        Part(
            polygon((-0.46 + shift, 0.2), (-0.38 + shift, -0.16), (-0.06 + shift, -0.18), (-0.06 + shift, 0.2)), "glass"
        ),
        Part(polygon((0.04 + shift, 0.2), (0.04 + shift, -0.18), (0.22 + shift, -0.16), (0.4 + shift, 0.2)), "glass"),
        Part(
            blob(
                (-0.98, 0.5),
                (-0.92, 0.24),
                (-0.4, 0.2),
                (0.4, 0.2),
                (0.86, 0.26),
                (1.0, 0.5),
                (0.94, 0.74),
                (0.0, 0.76),
                (-0.92, 0.74),
            ),
            "coat",
        ),
        Part(ellipse(0.9, 0.42, 0.08, 0.08, n=16), "white"),
        *[Part(ellipse(x, 0.76, 0.24, 0.24), "dark") for x in (-0.54, 0.54)],
        *[Part(ellipse(x, 0.76, 0.11, 0.11, n=18), "metal") for x in (-0.54, 0.54)],
    ]
    return Body(tuple(parts), (-0.0, 0.3, 0.0, 0.0), (-0.06 + shift, -0.27, 0.0, 0.24))


def teapot(p: Pose) -> Body:
    """A round belly with spout, handle and lid."""
    spout, lift = 0.12 * p.head, 0.05 * p.tail
    parts = [
        Part(limb((-0.5, 0.0), (-0.92, -0.02), (-0.92, 0.52), (-0.5, 0.56), start=0.075, end=0.075), "second"),
        Part(limb((0.4, 0.5), (0.72, 0.3), (0.96, -0.16 + spout), start=0.17, end=0.09), "coat"),
        Part(
            blob(
                (-0.6, 0.3), (-0.4, -0.1), (0.0, -0.24), (0.4, -0.1), (0.6, 0.3), (0.42, 0.8), (0.0, 0.9), (-0.42, 0.8)
            ),
            "coat",
        ),
        Part(limb((-0.28, 0.94), (0.28, 0.94), start=0.07, end=0.07), "second"),
        Part(ellipse(0.0, -0.2 - lift, 0.32, 0.1), "second"),
        Part(ellipse(0.0, -0.36 - lift, 0.1, 0.1, n=18), "second"),
    ]
    return Body(tuple(parts), (0.0, -0.1, 0.0, 0.0), (0.0, -0.3 - lift, 0.0, 0.24))


def mushroom(p: Pose) -> Body:
    """A broad cap on a pale stem."""
    bend = 0.16 * p.head
    parts = [
        Part(
            blob(
                (-0.3, 0.96),
                (-0.2 + bend * 0.5, 0.4),
                (-0.24 + bend, 0.0),
                (0.24 + bend, 0.0),
                (0.2 + bend * 0.5, 0.4),
                (0.3, 0.96),
            ),
            "white",
        ),
        Part(ellipse(bend, 0.12, 0.62, 0.14), "second"),
        Part(
            blob(
                (-0.82 + bend, 0.14),
                (-0.62 + bend, -0.4),
                (bend + 0.08 * p.tail, -0.72),
                (0.62 + bend, -0.4),
                (0.82 + bend, 0.14),
                (bend, 0.02),
            ),
            "coat",
        ),
    ]
    return Body(tuple(parts), (bend * 0.6, 0.34, 0.0, 0.24), (bend, -0.6, 0.0, 0.26))
