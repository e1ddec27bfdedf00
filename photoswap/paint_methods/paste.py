"""Paste a reference's subject, and bring its colours into line: in the place of DCCF, without anything learnt.

Paint by Example compares with a chain: fill the hole (LaMa), paste the cut-out subject, harmonise (DCCF,
arXiv:2207.04788). Here the hole is filled with the smoothest surface that continues the picture, and the subject is
harmonised by one of the two classics that such networks are compared with,

    reinhard   its colours take the mean and the deviation of the surroundings' (Reinhard et al., "Color transfer
               between images", 2001, section 3, in the space l alpha beta)
    poisson    its gradients stay, and it meets the surroundings at its edge (Perez et al., "Poisson image editing",
               2003, section 3: seamless cloning)

What is pasted keeps its pose: no network ever looks at it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from PIL import Image
from torch import Tensor

from models.images import to_image, to_tensor
from photoswap.paint_method import Canvas, PaintMethod, Told
from photoswap.pasting import Pixels, filled, membrane, paste_into

Harmony = Literal["reinhard", "poisson", "none"]
TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])  # eq. 4
TO_OPPONENTS = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])  # eq. 6
DARKEST = 1 / 255  # of a channel, since a logarithm is taken


@dataclass(frozen=True, kw_only=True)
class PasteAndHarmonise(PaintMethod):
    """by: how the subject is harmonised. share: how far its colours go the way, 0 not at all, 1 as published."""

    wants: ClassVar = ("reference",)
    heeds: ClassVar = ("reference_mask",)
    by: Harmony = "poisson"
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.by not in get_args(Harmony) or not 0 <= self.share <= 1:
            raise ValueError(f"by is {self.by!r}, share {self.share}; want {' or '.join(get_args(Harmony))}, and 0..1")

    def paint(self, model: Any, canvas: Canvas, told: Told) -> tuple[Tensor, None]:
        """The picture (1 3 h w), the subject in it."""
        assert told.reference is not None  # check has seen to it
        ground = filled(to_image(canvas.image[0]), canvas.hole)
        pasted, subject = paste_into(ground, canvas.hole, told.reference, told.reference_mask)
        alpha = np.asarray(subject, float) / 255
        harmonised = self._harmonised(np.asarray(pasted, float), np.asarray(ground, float), alpha)
        return to_tensor(Image.fromarray(harmonised.clip(0, 255).round().astype(np.uint8)))[None], None

    def _harmonised(self, pasted: Pixels, ground: Pixels, alpha: Pixels) -> Pixels:
        """The pasted picture (h w 3) with other colours where the subject is, alpha (h w)."""
        subject, found = alpha > 0.5, pasted
        if self.by == "reinhard" and subject.any() and not subject.all():
            found = colour_transfer(pasted, pasted[subject], ground[~subject])
        elif self.by == "poisson":
            found = pasted + membrane(ground - pasted, subject)
        return pasted + self.share * alpha[..., None] * (found - pasted)


def colour_transfer(pixels: Pixels, of: Pixels, to: Pixels) -> Pixels:
    """Pixels (... 3) of 0..255, moved and stretched in l alpha beta as `of` must be, (n 3), to be spread like `to`."""
    own, wanted = _opponents(of), _opponents(to)
    stretch = wanted.std(axis=0) / own.std(axis=0).clip(1e-6)
    found = (_opponents(pixels) - own.mean(axis=0)) * stretch + wanted.mean(axis=0)
    lms = 10 ** (found @ np.linalg.inv(TO_OPPONENTS).T)
    back: Pixels = 255 * (lms @ np.linalg.inv(TO_LMS).T)
    return back


def _opponents(pixels: Pixels) -> Pixels:
    found: Pixels = np.log10((pixels / 255).clip(DARKEST) @ TO_LMS.T) @ TO_OPPONENTS.T
    return found
