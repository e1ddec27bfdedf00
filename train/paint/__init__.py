"""Paint by Example's training (arXiv:2211.13227, section 3): a picture's own boxes, cut out, are its references."""

from train.paint.augment import bezier_outline, enlarged, reference_of, square_around
from train.paint.config import PaintTraining, miniature_painter
from train.paint.examples import PaintExample, make_example
from train.paint.step import painting_loss, start_from, what_learns

__all__ = [
    "PaintExample",
    "PaintTraining",
    "bezier_outline",
    "enlarged",
    "make_example",
    "miniature_painter",
    "painting_loss",
    "reference_of",
    "square_around",
    "start_from",
    "what_learns",
]
