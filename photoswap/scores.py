"""How good a swap is where the truth is known: background against the source, subject against the right answer."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

BINS = 6  # levels of each colour in a palette: coarse enough that a shade is not another colour


def psnr(picture: Image.Image, truth: Image.Image, region: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB over a region (h w), all by default; infinite for equal pixels.

    Raises ValueError when the pictures differ in size or the region is empty.
    """
    a, b = _pixels(picture), _pixels(truth)
    if a.shape != b.shape:
        raise ValueError(f"pictures of {picture.size} and {truth.size}; want the same size")
    region = np.ones(a.shape[:2], dtype=bool) if region is None else region
    if not region.any():
        raise ValueError("the region holds no pixel; want one to compare")
    error = float(np.square(a[region] - b[region]).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def inside(mask: Image.Image) -> NDArray[np.bool_]:
    """Where a mask is mostly white, (h w)."""
    return np.asarray(mask.convert("L")) > 127


def outside(masks: list[Image.Image], margin: int = 5) -> NDArray[np.bool_]:
    """Where none of the masks is, nor anything within `margin` pixels of them, (h w): the background beyond dispute."""
    grown = [np.asarray(mask.convert("L").filter(ImageFilter.MaxFilter(2 * margin + 1))) > 0 for mask in masks]
    return ~np.logical_or.reduce(grown)


def palette_match(picture: Image.Image, truth: Image.Image, region: NDArray[np.bool_]) -> float:
    """How much of the region has the truth's colours, wherever in it they are: histogram intersection, 0 to 1.

    Blind to where a spot sits, so it says whether the look was carried over; psnr says whether it is in place.
    """
    a, b = (_histogram(_pixels(image)[region]) for image in (picture, truth))
    return float(np.minimum(a, b).sum())


def _pixels(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image.convert("RGB"), dtype=np.float64)


def _histogram(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    counts, _ = np.histogramdd(colours, bins=(BINS,) * 3, range=((0, 256),) * 3)
    return counts / max(counts.sum(), 1)
