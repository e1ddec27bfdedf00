"""Crops around a subject, and putting them back."""

import numpy as np
import pytest
from command_line import paint
from PIL import Image

from photoswap.crop import crop_around, put_back


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        ((100, 80, 200, 130), (90, 70, 210, 140)),  # a fifth of 50
        ((2, 80, 102, 130), (0, 70, 112, 140)),  # as far as the picture reaches
        ((250, 150, 300, 180), (244, 144, 300, 180)),
        ((100, 80, 104, 83), (93, 73, 111, 90)),  # too small for a model: at least 16 a side
    ],
)
def test_the_box_grows_by_a_fifth_of_its_shorter_side(box, wanted):
    assert crop_around(box, (300, 180)) == wanted


def slow_put_back(part, picture, box, width):
    """Pixel by pixel: the share of the part grows with the distance to the nearest edge inside the picture."""
    back, part = np.array(picture, dtype=float), np.array(part, dtype=float)
    left, top, right, bottom = box
    for y in range(top, bottom):
        for x in range(left, right):
            far = [1e9]
            far += [x - left + 1] if left > 0 else []
            far += [right - x] if right < picture.width else []
            far += [y - top + 1] if top > 0 else []
            far += [bottom - y] if bottom < picture.height else []
            share = min(1, min(far) / (width + 1))
            back[y, x] = share * part[y - top, x - left] + (1 - share) * back[y, x]
    return back


@pytest.mark.parametrize("box", [(30, 20, 90, 70), (0, 20, 60, 90), (40, 0, 120, 90), (0, 0, 120, 90)])
def test_putting_back_is_that_written_out(box):
    picture, part = paint((120, 90), 0), paint((box[2] - box[0], box[3] - box[1]), 1)
    width = 20 / 512 * min(part.size)
    back = np.array(put_back(part, picture, box))
    assert abs(back - slow_put_back(part, picture, box, width)).max() <= 1.5  # rounded twice: shares, then colours
    outside = np.ones((90, 120), dtype=bool)
    outside[box[1] : box[3], box[0] : box[2]] = False
    assert (back[outside] == np.array(picture)[outside]).all()


def test_a_crop_put_back_unchanged_changes_nothing():
    picture = paint((120, 90), 0)
    box = (30, 20, 90, 70)
    assert put_back(picture.crop(box), picture, box).tobytes() == picture.tobytes()


def test_there_is_no_seam():
    """White put into black: nowhere a step of more than the fade's, along a row through the middle."""
    back = np.array(put_back(Image.new("RGB", (256, 256), "white"), Image.new("RGB", (400, 400)), (60, 60, 316, 316)))
    steps = abs(np.diff(back[188, :, 0].astype(int)))
    assert steps.max() <= 255 / 11 + 1 and back[188, 188, 0] == 255


def test_a_part_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the part is 10 x 10 pixels, its box 60 x 50"):
        put_back(Image.new("RGB", (10, 10)), paint((120, 90), 0), (30, 20, 90, 70))
