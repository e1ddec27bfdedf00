"""The scores against pictures whose distance is known by hand."""

import numpy as np
import pytest
from PIL import Image

from photoswap.benchmark.scores import inside, outside, overlap, palette_match, psnr, ssim, ssim_map

EVERYWHERE = np.ones((8, 8), dtype=bool)


def flat(level: int, side: int = 8) -> Image.Image:
    return Image.new("RGB", (side, side), (level, level, level))


def test_psnr_of_a_known_error():
    assert psnr(flat(100), flat(110)) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(flat(100), flat(100)) == float("inf")


def test_psnr_sees_its_region_only():
    picture = flat(100)
    picture.paste((0, 0, 0), (0, 0, 4, 8))
    region = np.zeros((8, 8), dtype=bool)
    region[:, 4:] = True
    assert psnr(picture, flat(100), region) == float("inf")
    assert psnr(picture, flat(100), ~region) < 10


def test_psnr_refuses_nothing_to_compare():
    with pytest.raises(ValueError, match="same size"):
        psnr(flat(1), flat(1, side=9))
    with pytest.raises(ValueError, match="no pixel"):
        psnr(flat(1), flat(1), ~EVERYWHERE)


def test_outside_keeps_a_margin_from_every_mask():
    masks = [Image.new("L", (32, 32)) for _ in range(2)]
    masks[0].putpixel((8, 8), 255)
    masks[1].putpixel((24, 24), 1)
    region = outside(masks, margin=2)
    assert not region[6:11, 6:11].any() and not region[22:27, 22:27].any()
    assert region.sum() == 32 * 32 - 2 * 25
    assert inside(masks[0]).sum() == 1 and inside(masks[1]).sum() == 0


def test_palette_match_is_blind_to_place_and_sees_colour():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    shuffled = rng.permutation(pixels.reshape(-1, 3)).reshape(8, 8, 3)
    picture, moved = Image.fromarray(pixels), Image.fromarray(shuffled)
    assert palette_match(picture, moved, EVERYWHERE) == pytest.approx(1)
    assert palette_match(flat(10), flat(200), EVERYWHERE) == 0
    half = flat(10)
    half.paste((200, 200, 200), (0, 0, 4, 8))
    assert palette_match(half, flat(10), EVERYWHERE) == pytest.approx(0.5)


def slow_ssim(a, b):
    """Wang et al. 2004, window by window, one colour at a time."""
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    a, b = (np.pad(np.asarray(image, dtype=float), ((5, 5), (5, 5), (0, 0)), mode="reflect") for image in (a, b))
    found = np.zeros((a.shape[0] - 10, a.shape[1] - 10, 3))
    for y, x, c in np.ndindex(found.shape):
        one, two = a[y : y + 11, x : x + 11, c], b[y : y + 11, x : x + 11, c]
        m1, m2 = (window * one).sum(), (window * two).sum()
        v1, v2 = (window * (one - m1) ** 2).sum(), (window * (two - m2) ** 2).sum()
        both = (window * (one - m1) * (two - m2)).sum()
        found[y, x, c] = (2 * m1 * m2 + 2.55**2) * (2 * both + 7.65**2)
        found[y, x, c] /= (m1**2 + m2**2 + 2.55**2) * (v1 + v2 + 7.65**2)
    return found.mean(axis=2)


def test_ssim_is_that_of_its_paper():
    rng = np.random.default_rng(1)
    first = rng.integers(0, 256, (16, 19, 3), dtype=np.uint8)
    second = np.clip(first + rng.normal(0, 30, first.shape), 0, 255).astype(np.uint8)
    pictures = Image.fromarray(first), Image.fromarray(second)
    wanted = slow_ssim(*pictures)
    assert np.abs(ssim_map(*pictures) - wanted).max() < 1e-10  # the same sums in another order, in float64
    region = rng.random(wanted.shape) < 0.3
    assert ssim(*pictures, region) == pytest.approx(wanted[region].mean()) != pytest.approx(ssim(*pictures))
    assert ssim(pictures[0], pictures[0]) == 1


def test_ssim_refuses_nothing_to_compare():
    with pytest.raises(ValueError, match="same size"):
        ssim(flat(1, side=12), flat(1, side=13))
    with pytest.raises(ValueError, match="no pixel"):
        ssim(flat(1, side=12), flat(1, side=12), np.zeros((12, 12), dtype=bool))


def test_overlap_is_intersection_over_union():
    left, right = np.zeros((4, 8), dtype=bool), np.zeros((4, 8), dtype=bool)
    left[:, :4], right[:, 2:] = True, True
    assert overlap(left, right) == 8 / 32 and overlap(left, left) == 1 and overlap(left, ~left) == 0
    assert overlap(left & right & ~left, left & ~left) == 1
