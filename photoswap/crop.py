"""Work on the subject enlarged: a crop around it, put back without a seam.

A subject that fills a tenth of the picture is a few latents wide. SwapAnything's released code (arXiv:2404.05717) cuts
out its box and a fifth of that on each side, works on the crop at the model's full size, and fades the result in over
20 of 512 pixels. It squeezes the crop into a square; here the crop keeps its shape. An edge that is the picture's own
does not fade: nothing lies beyond it.
"""

import numpy as np
from PIL import Image

from .sizes import SMALLEST, Box

MARGIN = 0.2  # of the box's shorter side, on each of its sides
FEATHER = 20 / 512  # of the crop's shorter side


def crop_around(box: Box, size: tuple[int, int], margin: float = MARGIN) -> Box:
    """The box with its margin, in whole pixels, as far as the picture of size (width, height) reaches."""
    short = min(box[2] - box[0], box[3] - box[1])
    by = max(round(margin * short), -((short - SMALLEST) // 2))
    return max(0, box[0] - by), max(0, box[1] - by), min(size[0], box[2] + by), min(size[1], box[3] + by)


def put_back(part: Image.Image, picture: Image.Image, box: Box, feather: float = FEATHER) -> Image.Image:
    """The picture with another part in the box, faded in from the box's edges; outside it not one pixel differs.

    part: of the box's size. feather: over how much of the box's shorter side. Raises ValueError for another size.
    """
    w, h = box[2] - box[0], box[3] - box[1]
    if part.size != (w, h):
        raise ValueError(f"the part is {part.size[0]} x {part.size[1]} pixels, its box {w} x {h}")
    width = feather * min(w, h)
    across = _ramp(w, width, box[0] > 0, box[2] < picture.width)
    down = _ramp(h, width, box[1] > 0, box[3] < picture.height)
    share = Image.fromarray((255 * np.minimum(down[:, None], across[None])).round().astype(np.uint8))
    back = picture.convert("RGB")
    back.paste(part.convert("RGB"), box[:2], share)
    return back


def _ramp(length: int, width: float, at_start: bool, at_end: bool) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """How much of the part is seen at each pixel of a side: 0 just outside, 1 from `width` pixels on."""
    share = np.ones(length)
    rising = np.minimum(1, np.arange(1, length + 1) / (width + 1))
    if at_start:
        share = np.minimum(share, rising)
    return np.minimum(share, rising[::-1]) if at_end else share
