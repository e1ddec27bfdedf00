"""The animals of the world, each a function from a pose to a body, drawn facing right."""

from train.world.body import Body, Part, Pose, eye, legs
from train.world.shapes import blob, ellipse, limb, polygon


def cat(p: Pose) -> Body:
    """Pointed ears, round head, long raised tail."""
    hx, hy = 0.56, -0.28 + 0.16 * p.head
    parts = [
        Part(
            limb(
                (-0.6, 0.1),
                (-0.98, -0.1),
                (-0.92 + 0.12 * p.tail, -0.5),
                (-0.78 + 0.3 * p.tail, -0.85),
                start=0.1,
                end=0.075,
            ),
            "coat",
        ),
        *legs((-0.48, 0.32), 0.3, p.stride, 0.115),
        Part(
            blob((-0.72, 0.12), (-0.4, -0.16), (0.1, -0.14), (0.52, -0.1), (0.56, 0.3), (0.1, 0.46), (-0.5, 0.48)),
            "coat",
        ),
        Part(polygon((hx - 0.34, hy - 0.05), (hx - 0.3, hy - 0.6), (hx - 0.02, hy - 0.25)), "coat"),
        Part(polygon((hx + 0.02, hy - 0.25), (hx + 0.28, hy - 0.6), (hx + 0.33, hy - 0.05)), "coat"),
        Part(ellipse(hx, hy, 0.37, 0.33), "coat"),
        *eye(hx - 0.1, hy - 0.06, 0.075),
        *eye(hx + 0.18, hy - 0.06, 0.075),
        Part(polygon((hx, hy + 0.07), (hx + 0.12, hy + 0.07), (hx + 0.06, hy + 0.14)), "dark"),
    ]
    return Body(tuple(parts), (0.42, hy + 0.34, -0.2, 0.3), (hx, hy - 0.28, 0.0, 0.27))


def dog(p: Pose) -> Body:
    """A long snout, a hanging ear, a short tail."""
    hx, hy = 0.52, -0.3 + 0.16 * p.head
    parts = [
        Part(limb((-0.62, 0.05), (-0.82, -0.12), (-0.9 + 0.12 * p.tail, -0.38), start=0.085, end=0.05), "coat"),
        *legs((-0.5, 0.3), 0.28, p.stride, 0.125),
        Part(
            blob((-0.72, 0.1), (-0.4, -0.14), (0.1, -0.12), (0.45, -0.2), (0.52, 0.28), (0.1, 0.42), (-0.5, 0.44)),
            "coat",
        ),
        Part(ellipse(hx, hy, 0.3, 0.29), "coat"),
        Part(limb((hx + 0.12, hy + 0.08), (hx + 0.44, hy + 0.1), start=0.17, end=0.13), "coat"),
        Part(ellipse(hx + 0.55, hy + 0.03, 0.08, 0.07, n=14), "dark"),
        Part(
            blob(
                (hx - 0.2, hy - 0.26),
                (hx - 0.02, hy - 0.12),
                (hx - 0.1, hy + 0.3),
                (hx - 0.28, hy + 0.34),
                (hx - 0.32, hy),
            ),
            "far",
        ),
        *eye(hx + 0.14, hy - 0.09),
    ]
    return Body(tuple(parts), (0.4, hy + 0.32, -0.3, 0.27), (hx, hy - 0.25, 0.0, 0.24))


def rabbit(p: Pose) -> Body:
    """Very long ears, a round haunch, a white tail."""
    hx, hy, lean = 0.44, -0.08 + 0.12 * p.head, 0.28 * p.tail
    parts = [
        Part(ellipse(-0.74, 0.42, 0.17, 0.17, n=20), "white"),
        Part(limb((0.3, 0.5), (0.36 - 0.1 * p.stride, 0.9), start=0.11, end=0.09), "far"),
        Part(ellipse(hx - 0.02 - lean * 0.5, hy - 0.58, 0.11, 0.42, -0.1 - lean), "far"),
        Part(
            blob(
                (-0.72, 0.5),
                (-0.5, 0.08),
                (-0.1, -0.06),
                (0.3, 0.1),
                (0.46, 0.45),
                (0.25, 0.8),
                (-0.3, 0.92),
                (-0.62, 0.86),
            ),
            "coat",
        ),
        Part(limb((-0.42, 0.92), (-0.02 + 0.12 * p.stride, 0.92), start=0.09, end=0.08), "coat"),
        Part(limb((0.22, 0.5), (0.26 + 0.14 * p.stride, 0.9), start=0.11, end=0.09), "coat"),
        Part(ellipse(hx - 0.16 - lean * 0.5, hy - 0.56, 0.12, 0.44, -0.3 - lean), "coat"),
        Part(ellipse(hx, hy, 0.33, 0.28), "coat"),
        *eye(hx + 0.12, hy - 0.05, 0.08),
        Part(ellipse(hx + 0.31, hy + 0.06, 0.05, 0.045, n=12), "dark"),
    ]
    return Body(tuple(parts), (0.28, hy + 0.3, -0.25, 0.28), (hx + 0.06, hy - 0.22, 0.1, 0.22))


def horse(p: Pose) -> Body:
    """Long legs, a raised neck with a mane, a hanging tail."""
    hx, hy = 0.66, -0.66 + 0.2 * p.head
    parts = [
        Part(limb((-0.6, -0.1), (-0.82, 0.1), (-0.84 - 0.16 * p.tail, 0.55), start=0.07, end=0.11), "second"),
        *legs((-0.5, 0.26), 0.12, p.stride, 0.1, 0.34),
        Part(
            blob((-0.7, -0.02), (-0.4, -0.24), (0.1, -0.2), (0.42, -0.22), (0.46, 0.12), (0.1, 0.26), (-0.5, 0.26)),
            "coat",
        ),
        Part(limb((0.2, -0.2), (hx - 0.2, hy - 0.02), start=0.2, end=0.12), "second"),
        Part(limb((0.3, -0.02), (hx, hy), start=0.24, end=0.15), "coat"),
        Part(polygon((hx - 0.12, hy - 0.06), (hx - 0.06, hy - 0.36), (hx + 0.08, hy - 0.1)), "coat"),
        Part(limb((hx, hy), (hx + 0.34, hy + 0.22), start=0.16, end=0.1), "coat"),
        *eye(hx + 0.06, hy - 0.01, 0.06),
        Part(ellipse(hx + 0.38, hy + 0.22, 0.035, 0.03, n=10), "dark"),
    ]
    return Body(tuple(parts), (0.44, (hy - 0.02) / 2 - 0.04, -0.9, 0.25), (hx + 0.02, hy - 0.14, 0.2, 0.19))


def elephant(p: Pose) -> Body:
    """Bulk, a wide ear, a trunk and a tusk."""
    hx, hy = 0.5, -0.22 + 0.1 * p.head
    parts = [
        Part(limb((-0.72, -0.05), (-0.92, 0.2), (-0.9 - 0.1 * p.tail, 0.45), start=0.045, end=0.04), "far"),
        *legs((-0.48, 0.16), 0.3, p.stride, 0.19, 0.16),
        Part(
            blob((-0.8, 0.1), (-0.55, -0.42), (-0.05, -0.56), (0.35, -0.42), (0.42, 0.15), (0.05, 0.46), (-0.6, 0.48)),
            "coat",
        ),
        Part(
            limb(
                (hx + 0.2, hy + 0.1),
                (hx + 0.44, hy + 0.32),
                (hx + 0.42 + 0.08 * p.head, 0.55),
                (hx + 0.5 + 0.2 * p.tail, 0.82),
                start=0.17,
                end=0.09,
            ),
            "coat",
        ),
        Part(limb((hx + 0.22, hy + 0.24), (hx + 0.46, hy + 0.5), start=0.06, end=0.03), "white"),
        Part(ellipse(hx, hy, 0.36, 0.36), "coat"),
        Part(ellipse(hx - 0.24, hy + 0.04, 0.27, 0.36, 0.15), "far"),
        *eye(hx + 0.16, hy - 0.06, 0.065),
    ]
    return Body(tuple(parts), (0.18, hy + 0.36, -0.5, 0.34), (hx + 0.02, hy - 0.3, 0.1, 0.27))


def duck(p: Pose) -> Body:
    """A boat of a body, a round head on a neck, a broad beak."""
    hx, hy = 0.42, -0.5 + 0.14 * p.head
    parts = [
        Part(limb((0.08, 0.6), (0.08 - 0.16 * p.stride, 0.94), start=0.05, end=0.05), "beak"),
        Part(limb((-0.14, 0.6), (-0.14 + 0.16 * p.stride, 0.94), start=0.05, end=0.05), "beak"),
        Part(limb((-0.16 + 0.16 * p.stride, 0.95), (0.02 + 0.16 * p.stride, 0.95), start=0.05, end=0.06), "beak"),
        Part(limb((0.06 - 0.16 * p.stride, 0.95), (0.24 - 0.16 * p.stride, 0.95), start=0.05, end=0.06), "beak"),
        Part(limb((0.36, 0.25), (0.4, -0.1), (hx, hy), start=0.28, end=0.18), "coat"),
        Part(
            blob(
                (-1.0, -0.12 - 0.14 * p.tail),
                (-0.6, 0.12),
                (-0.1, 0.02),
                (0.4, 0.06),
                (0.62, 0.3),
                (0.4, 0.68),
                (-0.1, 0.76),
                (-0.65, 0.56),
            ),
            "coat",
        ),
        Part(limb((hx + 0.22, hy + 0.06), (hx + 0.56, hy + 0.12), start=0.1, end=0.07), "beak"),
        Part(ellipse(hx, hy, 0.31, 0.29), "coat"),
        Part(blob((-0.5, 0.22), (-0.1, 0.14), (0.24, 0.28), (0.06, 0.52), (-0.36, 0.5), (-0.7, 0.3)), "far"),
        *eye(hx + 0.12, hy - 0.06, 0.075),
    ]
    return Body(tuple(parts), (0.4, hy + 0.36, 0.0, 0.25), (hx, hy - 0.24, 0.0, 0.25))


def turtle(p: Pose) -> Body:
    """A high domed shell over stubby legs."""
    hx, hy = 0.82, 0.18 + 0.18 * p.head
    parts = [
        Part(limb((-0.7, 0.6), (-0.98, 0.66 + 0.1 * p.tail), start=0.08, end=0.03), "second"),
        *[Part(part.outline, "second") for part in legs((-0.5, 0.34), 0.66, p.stride, 0.15, 0.2)],
        Part(limb((0.4, 0.55), (hx, hy), start=0.15, end=0.14), "second"),
        Part(ellipse(hx + 0.04, hy - 0.02, 0.22, 0.19), "second"),
        Part(
            blob((-0.86, 0.66), (-0.74, 0.1), (-0.3, -0.34), (0.18, -0.32), (0.52, 0.1), (0.64, 0.66), (-0.1, 0.76)),
            "coat",
        ),
        *eye(hx + 0.1, hy - 0.06, 0.06),
    ]
    return Body(tuple(parts), (0.66, (hy + 0.55) / 2, -0.7, 0.18), (hx, hy - 0.17, 0.0, 0.18))


def giraffe(p: Pose) -> Body:
    """A very long neck and two horns."""
    hx, hy = 0.56, -0.88 + 0.1 * p.head
    parts = [
        Part(limb((-0.46, 0.1), (-0.62, 0.3), (-0.64 - 0.1 * p.tail, 0.5), start=0.045, end=0.06), "second"),
        *legs((-0.36, 0.16), 0.3, p.stride, 0.08, 0.24),
        Part(
            blob((-0.54, 0.16), (-0.3, 0.02), (0.1, -0.06), (0.32, 0.0), (0.32, 0.3), (-0.1, 0.4), (-0.42, 0.38)),
            "coat",
        ),
        Part(limb((0.18, 0.12), (hx - 0.06, hy), start=0.17, end=0.1), "coat"),
        Part(limb((hx - 0.08, hy - 0.02), (hx - 0.12, hy - 0.24), start=0.035, end=0.045), "second"),
        Part(limb((hx + 0.02, hy - 0.02), (hx + 0.02, hy - 0.24), start=0.035, end=0.045), "second"),
        Part(limb((hx - 0.04, hy), (hx + 0.26, hy + 0.14), start=0.14, end=0.09), "coat"),
        *eye(hx + 0.03, hy - 0.01, 0.055),
    ]
    return Body(tuple(parts), (0.36, (hy + 0.12) / 2, -1.1, 0.19), (hx - 0.03, hy - 0.12, 0.0, 0.18))


def snail(p: Pose) -> Body:
    """A round shell on a long foot, two feelers."""
    hx = 0.72 + 0.06 * p.stride
    parts = [
        Part(limb((hx, 0.5), (hx + 0.2, 0.05 + 0.1 * p.head), start=0.05, end=0.06), "second"),
        Part(limb((hx - 0.06, 0.5), (hx, 0.0 + 0.1 * p.head), start=0.05, end=0.06), "second"),
        Part(
            blob(
                (-0.98, 0.96),
                (-0.4, 0.68),
                (0.4, 0.66),
                (hx - 0.1, 0.4),
                (hx + 0.16, 0.46),
                (hx + 0.12, 0.86),
                (0.4, 0.99),
            ),
            "second",
        ),
        Part(ellipse(-0.12, 0.22, 0.62, 0.58, 0.2 * p.tail), "coat"),
        Part(ellipse(-0.06, 0.28, 0.34, 0.32), "far"),
        Part(ellipse(-0.02, 0.32, 0.14, 0.13, n=18), "coat"),
        *eye(hx + 0.2, 0.04 + 0.1 * p.head, 0.06),
    ]
    return Body(tuple(parts), (hx - 0.05, 0.66, 0.2, 0.2), (hx + 0.02, 0.4, 0.1, 0.18))
