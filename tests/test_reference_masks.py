"""train.reference_masks: which file is whose mask, and what is refused."""

import pytest
from PIL import Image

from train.reference_masks import read_masks

WHITE = 255


def mask(light: int = WHITE, size: tuple[int, int] = (16, 12)) -> Image.Image:
    found = Image.new("L", size)
    found.paste(light, (2, 2, 6, 6))
    return found


@pytest.fixture
def references(tmp_path):
    """Three pictures, each with a mask beside it whose lightness says whose it is."""
    home = tmp_path / "references"
    home.mkdir()
    for i, name in enumerate(("a.jpg", "b.png", "c.png")):
        Image.new("RGB", (16, 12)).save(home / name)
        mask(WHITE - i).save(home / f"{name[0]}.mask.png")
    return home


def lights(masks: list[Image.Image]) -> list[int]:
    assert {one.mode for one in masks} == {"L"}
    return [one.getextrema()[1] for one in masks]


def test_masks_lie_beside_their_pictures(references):
    assert lights(read_masks(references)) == [255, 254, 253]
    assert lights(read_masks([references / "c.png", references / "a.jpg"])) == [253, 255]


def test_masks_of_a_folder_bear_their_pictures_names(references, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for i, name in enumerate(("c.mask.png", "a.png", "b.png")):
        mask(WHITE - i).save(masks / name)
    assert lights(read_masks(references, masks)) == [254, 253, 255]
    (masks / "b.png").unlink()
    with pytest.raises(ValueError, match=r"b.png has no mask: there is no b.mask.png in .*masks"):
        read_masks(references, masks)


def test_masks_may_be_given_in_order(references):
    given = [mask(200), references / "b.mask.png", mask(201)]
    assert lights(read_masks(references, given)) == [200, 254, 201]
    pictures = [Image.new("RGB", (16, 12))]
    assert lights(read_masks(pictures, [mask()])) == [255]


def test_a_mask_is_turned_as_its_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter clockwise
    Image.new("RGB", (16, 12)).save(tmp_path / "a.jpg", exif=exif)
    mask(size=(12, 16)).save(tmp_path / "a.mask.png")
    assert read_masks(tmp_path / "a.jpg")[0].size == (12, 16)


@pytest.mark.parametrize(
    ("masks", "complaint"),
    [
        ([mask()] * 2, "3 references and 2 masks"),
        ([mask(), mask(), mask(size=(12, 16))], "mask 3 is 12 x 16 and its reference 16 x 12"),
        ([mask(), mask(127), mask()], "mask 2 is black everywhere"),
        ([mask(), Image.new("RGB", (16, 12), "red"), mask()], "colour"),
    ],
)
def test_masks_that_do_not_fit(references, masks, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_masks(references, masks)


def test_pictures_that_are_no_files_have_no_mask_beside_them():
    with pytest.raises(ValueError, match="give the masks too"):
        read_masks([Image.new("RGB", (16, 12))])
