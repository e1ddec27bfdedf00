"""The size worked on, and the way there and back."""

import numpy as np
import pytest
import torch
from PIL import Image
from swap_model import picture

from photoswap.sizes import check_size, cut, place, take, touched_cells, working_size


@pytest.mark.parametrize(
    ("source", "native", "wanted"),
    [
        ((512, 512), 768, (768, 768)),
        ((4032, 3024), 768, (896, 640)),
        ((3024, 4032), 768, (640, 896)),
        ((1920, 1080), 768, (1024, 576)),
        ((1500, 1000), 512, (576, 384)),
        ((100, 100), 128, (128, 128)),
        ((1500, 1000), 128, (192, 128)),
    ],
)
def test_known_sizes(source, native, wanted):
    assert working_size(source, native, 64) == wanted


@pytest.mark.parametrize("source", [(16, 16), (5000, 500), (500, 5000), (333, 777), (1001, 1000)])
@pytest.mark.parametrize("native", [128, 512, 768])
def test_any_picture_has_one_near_the_native_area(source, native):
    w, h = working_size(source, native, 64)
    check_size((w, h), 64)
    assert native**2 / 2 <= w * h <= native**2 * 2
    assert working_size(source[::-1], native, 64) == (h, w)


def test_sides_too_small_or_off_the_grid_are_refused():
    with pytest.raises(ValueError, match="15 x 400"):
        working_size((15, 400), 512, 64)
    for size in ((100, 128), (128, 0), (32, 32), (-64, 64)):
        with pytest.raises(ValueError, match="multiples of 64"):
            check_size(size, 64)


@pytest.mark.parametrize(
    ("source", "size"), [((400, 300), (128, 128)), ((301, 777), (64, 192)), ((128, 128), (128, 128))]
)
def test_the_cut_is_centred_and_as_large_as_can_be(source, size):
    left, top, right, bottom = cut(source, size)
    assert left >= 0 and top >= 0 and right <= source[0] and bottom <= source[1]
    assert right - left == source[0] or bottom - top == source[1]
    assert abs(left - (source[0] - right)) <= 1 and abs(top - (source[1] - bottom)) <= 1
    assert (right - left) / (bottom - top) == pytest.approx(size[0] / size[1], rel=0.01)


def test_a_picture_of_the_right_size_is_taken_and_placed_bit_for_bit():
    source, result = picture(seed=1), picture(seed=2)
    assert take(source, (128, 128)).tobytes() == source.tobytes()
    assert place(result, source).tobytes() == result.tobytes()


@pytest.mark.parametrize("feather", [0.0, 0.05])
def test_the_rim_outside_the_cut_is_the_source_s(feather):
    source, result = picture(300, 200, seed=1), Image.new("RGB", (128, 128), "white")
    placed = np.asarray(place(result, source, feather=feather))
    left, top, right, bottom = cut(source.size, (128, 128))
    assert (left, top, right, bottom) == (50, 0, 250, 200)
    for rim in (np.s_[:, :left], np.s_[:, right:]):
        assert (placed[rim] == np.asarray(source)[rim]).all()
    assert (placed[:, 100:200] == 255).all()  # the middle, borders of the picture included, is the result's


@pytest.mark.parametrize("feather", [0.0, 0.02])
def test_outside_a_mask_every_pixel_is_the_source_s(feather):
    source, result, mask = picture(300, 200, seed=1), picture(seed=2), Image.new("L", (300, 200), 0)
    mask.paste(255, (120, 40, 180, 90))
    placed, before = np.asarray(place(result, source, mask, feather)), np.asarray(source)
    outside = np.asarray(mask) == 0
    assert (placed[outside] == before[outside]).all()
    if feather == 0:
        over = np.asarray(result.resize((200, 200), Image.Resampling.LANCZOS))
        assert (placed[40:90, 120:180] == over[40:90, 70:130]).all()
    assert (placed[50:80, 130:170] != before[50:80, 130:170]).any()


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="10 x 10"):
        place(picture(), picture(), Image.new("L", (10, 10), 255))


@pytest.mark.parametrize("source", [(300, 200), (128, 128), (60, 40), (3000, 3000)])
def test_every_cell_that_a_white_pixel_falls_into_may_change(source):
    size, (left, top, right, bottom) = (128, 128), cut(source, (128, 128))
    x, y = left + (right - left) // 3, top + (bottom - top) // 2
    mask = Image.new("L", source, 0)
    mask.putpixel((x, y), 255)
    found = touched_cells(mask, size)
    assert found.shape == (1, 1, 16, 16) and found.dtype == torch.bool
    column, row = ((x + 0.5 - left) * 16 / (right - left), (y + 0.5 - top) * 16 / (bottom - top))
    assert found[0, 0, int(row), int(column)]
    assert found.sum() <= max(4, (2 * 16 / (right - left)) ** 2)


def test_a_black_mask_is_refused():
    with pytest.raises(ValueError, match="mask is black"):
        touched_cells(Image.new("L", (128, 128), 127), (128, 128))
