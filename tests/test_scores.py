"""The scores against pictures whose distance is known by hand."""

import numpy as np
import pytest
from PIL import Image

from photoswap.scores import inside, outside, palette_match, psnr

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
