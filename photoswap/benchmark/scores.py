"""How near two pictures are, all over or in a region: PSNR, SSIM, palettes; and how much two masks overlap."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter

BINS = 6  # levels of each colour in a palette: coarse enough that a shade is not another colour
SSIM_SIDE, SSIM_SIGMA = 11, 1.5  # of the Gaussian window
SSIM_K = (0.01, 0.03)


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


def ssim_map(picture: Image.Image, truth: Image.Image) -> NDArray[np.float64]:
    """The structural similarity at every pixel, its mean over the three colours: (h w), 1 for equal pictures.

    Wang et al. 2004, eq. 13, with their Gaussian window of 11 x 11 and sigma 1.5 and their constants; pictures are
    mirrored at their edges. Raises ValueError when they differ in size.
    """
    a, b = (torch.from_numpy(_pixels(image)).movedim(-1, 0)[:, None] for image in (picture, truth))
    if a.shape != b.shape:
        raise ValueError(f"pictures of {picture.size} and {truth.size}; want the same size")
    mean_a, mean_b = _windowed(a), _windowed(b)
    spread_a, spread_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    common = _windowed(a * b) - mean_a * mean_b
    c1, c2 = ((k * 255) ** 2 for k in SSIM_K)
    top = (2 * mean_a * mean_b + c1) * (2 * common + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (spread_a + spread_b + c2)
    found: NDArray[np.float64] = (top / bottom).mean(dim=(0, 1)).numpy()
    return found


def ssim(picture: Image.Image, truth: Image.Image, region: NDArray[np.bool_] | None = None) -> float:
    """The mean of ssim_map over a region (h w), all by default.

    Raises ValueError when the pictures differ in size or the region is empty.
    """
    found = ssim_map(picture, truth)
    if region is not None and not region.any():
        raise ValueError("the region holds no pixel; want one to compare")
    return float(found.mean() if region is None else found[region].mean())


def _windowed(x: torch.Tensor) -> torch.Tensor:
    """The Gaussian mean around every pixel, (n 1 h w)."""
    half = SSIM_SIDE // 2
    line = torch.exp(-(torch.arange(-half, half + 1, dtype=x.dtype) ** 2) / (2 * SSIM_SIGMA**2))
    line = line / line.sum()
    x = F.pad(x, (half,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, line[None, None, None]), line[None, None, :, None])


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def inside(mask: Image.Image) -> NDArray[np.bool_]:
    """Where a mask is mostly white, (h w)."""
    return np.asarray(mask.convert("L")) > 127


def outside(masks: list[Image.Image], margin: int = 5) -> NDArray[np.bool_]:
    """Where none of the masks is, nor anything within `margin` pixels of them, (h w): the background beyond dispute."""
    grown = [np.asarray(mask.convert("L").filter(ImageFilter.MaxFilter(2 * margin + 1))) > 0 for mask in masks]
    return ~np.logical_or.reduce(grown)


def palette_match(picture: Image.Image, truth: Image.Image, region: NDArray[np.bool_]) -> float:
    """How much of the region has the truth's colours, wherever in it they are: histogram intersection, 0 to 1.

    Blind to where a spot sits: it says whether the look was carried over, PSNR whether it is in place.
    """
    a, b = (_histogram(_pixels(image)[region]) for image in (picture, truth))
    return float(np.minimum(a, b).sum())


def _pixels(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image.convert("RGB"), dtype=np.float64)


def _histogram(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    counts, _ = np.histogramdd(colours, bins=(BINS,) * 3, range=((0, 256),) * 3)
    return counts / max(counts.sum(), 1)
