"""train.paint: what becomes of a picture and a box before a painter sees them."""

import numpy as np
import pytest
import torch
from command_line import paint
from PIL import Image

from models.paint_by_example import reference_tensor
from train.paint import augment
from train.paint.augment import (
    bent,
    bezier_outline,
    box_blurred,
    draw_mask,
    enlarged,
    reference_of,
    square_around,
    turned,
)
from train.paint.examples import FolderPictures, WorldPictures, make_example, of_fitting_area, row_of

SEEDS = range(30)


def rng(*seed):
    return np.random.default_rng(seed)


def some_box(size, seed):
    generator = rng(seed, 1)
    x, y = (np.sort(generator.choice(np.arange(8, side - 8), 2, replace=False)) for side in size)
    return int(x[0]), int(y[0]), int(x[1]) + 1, int(y[1]) + 1


def test_turning_by_a_quarter_is_a_quarter_turn():
    pixels = torch.randn(2, 3, 9, 9)
    assert (turned(pixels, 90) - pixels.rot90(1, (2, 3))).abs().max() < 1e-5
    assert (turned(pixels, 0) - pixels).abs().max() < 1e-5


def test_turning_keeps_the_middle_and_mirrors_the_edge():
    pixels = torch.ones(1, 1, 21, 21)
    pixels[0, 0, 10, 10] = 5
    found = turned(pixels, 20)
    assert found[0, 0, 10, 10] == pytest.approx(5) and found.min() > 0.99  # nothing black comes in


def test_blurring_is_the_mean_of_a_square():
    pixels = torch.randn(1, 2, 12, 12)
    found = box_blurred(pixels, 3)
    assert found.shape == pixels.shape
    assert found[0, 1, 5, 6] == pytest.approx(pixels[0, 1, 4:7, 5:8].mean().item(), abs=1e-6)
    assert found[0, 0, 0, 0] == pytest.approx(pixels[0, 0, [1, 0, 1]][:, [1, 0, 1]].mean().item(), abs=1e-6)


def test_bending_moves_three_corners_as_told():
    """A bright corner of the middle square is found again where it was sent."""
    side = 91
    pixels = torch.zeros(1, 1, side, side)
    corner = round((2 / 3 + 1) / 2 * (side - 1))
    pixels[0, 0, corner, corner] = 1
    move = np.array([[6 / (side - 1), -8 / (side - 1)], [0, 0], [0, 0]])
    found = bent(pixels, move)
    y, x = divmod(int(found[0, 0].argmax()), side)
    assert (abs(x - (corner + 6)), abs(y - (corner - 8))) <= (1, 1)
    assert (bent(pixels, np.zeros((3, 2))) - pixels).abs().max() < 1e-5


@pytest.mark.parametrize(("name", "share"), [("MIRRORED", 0.5), ("TURN", 0.5), ("BLUR", 0.3), ("BEND", 0.3)])
def test_each_augmentation_happens_as_often_as_published(name, share, monkeypatch):
    for other in {"MIRRORED", "TURN", "BLUR", "BEND"} - {name}:
        monkeypatch.setattr(augment, other, 0.0)
    pixels = torch.randn(1, 3, 16, 16)
    done = [not torch.equal(augment.augmented(pixels, rng(3, i)), pixels) for i in range(400)]
    assert np.mean(done) == pytest.approx(share, abs=0.07)  # three standard deviations


def test_a_reference_is_the_box_and_ten_pixels_around():
    picture = paint((700, 512), 0)
    found = reference_of(picture, (20, 5, 60, 50), None)
    assert torch.equal(found, reference_tensor(picture.crop((10, 0, 70, 60)))[0])
    small = paint((200, 128), 0)
    found = reference_of(small, (20, 5, 60, 50), None)
    assert torch.equal(found, reference_tensor(small.crop((18, 3, 62, 52)))[0])
    assert reference_of(small, (20, 5, 60, 50), rng(0), 32).shape == (3, 32, 32)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mask_reaches_into_four_tenths_of_the_free_space(seed):
    size = (200, 150)
    box = some_box(size, seed)
    around = enlarged(box, size, rng(seed))
    assert 0.6 * box[0] - 1 <= around[0] <= box[0] and 0.6 * box[1] - 1 <= around[1] <= box[1]
    assert box[2] <= around[2] <= box[2] + 0.4 * (200 - box[2]) and box[3] <= around[3] <= box[3] + 0.4 * (150 - box[3])


def test_the_space_is_used_up_to_the_end():
    lefts = [enlarged((100, 100, 110, 110), (200, 200), rng(i))[0] for i in range(800)]
    assert min(lefts) == 60 and max(lefts) == 100


def by_recursion(a, b, c, t):
    """A point of a quadratic Bezier curve, by de Casteljau's construction."""
    one, two = ((1 - t) * np.array(p) + t * np.array(q) for p, q in ((a, b), (b, c)))
    return (1 - t) * one + t * two


def test_an_outline_is_four_curves_within_five_pixels():
    box, around = (50, 60, 150, 140), (30, 20, 190, 170)
    points = np.array(bezier_outline(box, around, rng(5)))
    curves = [
        ((50, 60), (100, 20), (150, 60)),
        ((150, 60), (190, 100), (150, 140)),
        ((150, 140), (100, 170), (50, 140)),
        ((50, 140), (30, 100), (50, 60)),
    ]
    wanted = np.array([by_recursion(*curve, 0.05 * i) for curve in curves for i in range(1, 19)])
    assert points.shape == (72, 2) and np.abs(points - wanted).max() <= 5
    assert np.abs(points - wanted).max() > 3 and len(np.unique((points - wanted).round(), axis=0)) > 20


def test_half_of_the_masks_are_outlines():
    box, around, size = (50, 60, 150, 140), (30, 20, 190, 170), (220, 200)
    masks = [np.array(draw_mask(size, box, around, rng(7, i))) > 0 for i in range(300)]
    boxes = [mask.sum() == 160 * 150 for mask in masks]
    assert np.mean(boxes) == pytest.approx(0.5, abs=0.09)
    for mask, is_box in zip(masks, boxes, strict=True):
        assert mask[70:130, 60:140].all()  # the subject itself is always under it
        if not is_box:
            assert mask.sum() < 160 * 150


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (200, 200), (500, 100)])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_cut_holds_the_box_and_is_square(size, seed):
    box = some_box(size, seed)
    left, top, right, bottom = square_around(box, size, rng(seed))
    assert 0 <= left <= box[0] and 0 <= top <= box[1]
    assert box[2] <= right <= size[0] and box[3] <= bottom <= size[1]
    whole = (left, top, right, bottom) == (0, 0, *size)
    assert whole or right - left == bottom - top
    if size[0] > size[1] and not whole:
        margin = min(box[0] - left + top, right + top - box[2], box[1], size[1] - box[3])  # before it was shrunk
        assert top <= 0.6 * margin


def test_what_a_square_cannot_hold_is_seen_whole():
    assert square_around((10, 10, 290, 90), (300, 100), rng(0)) == (0, 0, 300, 100)


@pytest.mark.parametrize(
    ("box", "fits"),
    [
        ((0, 0, 20, 10), True),
        ((0, 0, 19, 10), False),
        ((0, 0, 80, 100), True),
        ((0, 0, 81, 100), False),
        ((5, 5, 5, 9), False),
    ],
)
def test_boxes_from_two_to_eighty_hundredths_are_kept(box, fits):
    assert of_fitting_area(box, (100, 100)) == fits


def test_a_row_shows_its_box_under_its_mask():
    picture = Image.new("RGB", (160, 120), "white")
    picture.paste((255, 0, 0), (50, 40, 100, 90))
    for seed in range(10):
        row = make_example(picture, (50, 40, 100, 90), rng(seed), 64, 32)
        assert row.image.shape == (3, 64, 64) and row.mask.shape == (1, 64, 64) and row.reference.shape == (3, 32, 32)
        red = row.image[1] < -0.5
        assert red.sum() > 200 and row.mask[0][red].mean() > 0.97
        assert row.reference[0].mean() > row.reference[1].mean()  # red is in it


def test_a_row_is_the_same_wherever_it_is_made():
    source = WorldPictures(side=64)
    one, same, other = (row_of(source, 3, 5, row, 64, 32) for row in (2, 2, 4))
    assert torch.equal(one.image, same.image) and torch.equal(one.reference, same.reference)
    assert not torch.equal(one.image, other.image)


def test_the_world_knows_its_boxes():
    source = WorldPictures(side=64)
    picture, boxes = source[3]
    assert picture.size == (64, 64) and boxes and all(of_fitting_area(box, picture.size) for box in boxes)


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for i, name in enumerate(("a.jpg", "more/b.png", "c.jpg")):
        paint((100, 80), i).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "c.jpg").write_bytes(b"no picture")
    return tmp_path / "pictures"


def test_boxes_of_openimages_are_shares_of_the_sides(pictures, tmp_path):
    (tmp_path / "boxes.csv").write_text(
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded\n"
        "b,x,/m/1,1,0.1,0.5,0.25,0.75,0\nb,x,/m/1,1,0.1,0.11,0.25,0.26,0\nnowhere,x,/m/1,1,0,1,0,1,0\n"
    )
    source = FolderPictures(pictures, tmp_path / "boxes.csv")
    picture, boxes = source[0]
    assert len(source) == 1 and picture.size == (100, 80) and boxes == [(10, 20, 50, 60)]


def test_boxes_in_text_files_are_pixels_and_damaged_pictures_are_passed_over(pictures, tmp_path):
    (tmp_path / "boxes").mkdir()
    for name in "abc":
        (tmp_path / "boxes" / f"{name}.txt").write_text("10 20 50 60\n")
    source = FolderPictures(pictures, tmp_path / "boxes")
    with pytest.warns(UserWarning, match=r"c\.jpg is not a picture that can be read.*passed over"):
        picture, boxes = source[2]
    assert picture.tobytes() == source[0][0].tobytes() and boxes == [(10, 20, 50, 60)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a,b\n1,2\n", "has no column ImageID"), ("ImageID,XMin,XMax,YMin,YMax\nz,0,1,0,1\n", "no box for any of the 3")],
)
def test_files_that_are_no_boxes_are_refused(text, sentence, pictures, tmp_path):
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        FolderPictures(pictures, tmp_path / "boxes.csv")
    with pytest.raises(ValueError, match="no such file"):
        FolderPictures(pictures, tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="has no pictures"):
        FolderPictures(tmp_path / "nowhere", tmp_path / "boxes.csv")
