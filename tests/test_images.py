"""Pictures: files to tensors and back, and a sentence for each file that is none."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from models import fit, grid, load_image, to_image, to_tensor, upright


def picture(width=6, height=4, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image, path, **options):
    image.save(path, **options)
    return path


def test_a_picture_is_read_as_it_is(tmp_path):
    image = picture()
    loaded = load_image(saved(image, tmp_path / "a.png"))
    assert loaded.mode == "RGB" and loaded.tobytes() == image.tobytes()
    assert load_image(str(tmp_path / "a.png")).size == (6, 4)


def test_a_picture_is_turned_as_its_exif_says(tmp_path):
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise
    loaded = load_image(saved(image, tmp_path / "a.png", exif=exif))
    assert loaded.size == (4, 6)
    assert loaded.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_transparency_lies_over_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    loaded = load_image(saved(image, tmp_path / "a.png"))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (10, 20, 30)]
    transparent = Image.new("P", (1, 1), 0)
    transparent.putpalette([9, 9, 9])
    assert load_image(saved(transparent, tmp_path / "b.png", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_of_the_callers_is_made_upright_as_a_file_is(tmp_path):
    """Whether it was opened from a file, and then still has its EXIF, or made in memory."""
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = picture().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    path = saved(clear, tmp_path / "a.png", exif=exif)
    with Image.open(path) as opened:
        turned = upright(opened)
        assert opened.size == (6, 4) and opened.mode == "RGBA"  # the caller's stays as it was
    assert turned.mode == "RGB" and turned.tobytes() == load_image(path).tobytes()
    assert upright(turned).tobytes() == turned.tobytes()
    assert upright(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_an_upright_picture_is_a_copy():
    image = picture()
    copy = upright(image)
    copy.putpixel((0, 0), (1, 2, 3))
    assert image.tobytes() == picture().tobytes() != copy.tobytes()


def test_a_picture_opened_by_the_caller_may_turn_out_to_be_damaged(tmp_path):
    path = saved(picture(64, 64), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:500])
    with Image.open(path) as opened, pytest.raises(ValueError, match=r"cannot be read.*cut short"):
        upright(opened)


def test_grey_deep_and_wide_colour_pictures(tmp_path):
    assert load_image(saved(Image.new("L", (1, 1), 7), tmp_path / "a.png")).getpixel((0, 0)) == (7, 7, 7)
    deep = Image.fromarray(np.full((1, 1), 200 * 256 + 17, dtype=np.uint16))
    assert load_image(saved(deep, tmp_path / "b.png")).getpixel((0, 0)) == (200, 200, 200)
    assert load_image(saved(picture().convert("CMYK"), tmp_path / "c.jpg")).mode == "RGB"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no such picture: .*nowhere\.png"):
        load_image(tmp_path / "nowhere.png")


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_named(content, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png is not a picture"):
        load_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_a_truncated_picture_is_named(kind, tmp_path):
    buffer = io.BytesIO()
    picture(64, 64).save(buffer, format=kind)
    path = tmp_path / "a.picture"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(ValueError, match=r"a\.picture (is|cannot be)"):
        load_image(path)


def test_every_cut_of_a_picture_gives_a_sentence(tmp_path):
    """No place to cut a PNG or a JPEG ends in anything but a ValueError or the whole picture."""
    for kind in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        picture(16, 16).save(buffer, format=kind)
        whole = buffer.getvalue()
        for length in range(0, len(whole), 7):
            path = tmp_path / "cut"
            path.write_bytes(whole[:length])
            try:
                load_image(path)
            except ValueError as error:
                assert "cut" in str(error)


def test_nonsense_in_a_header_gives_a_sentence(tmp_path):
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 \xcd4 24 255\n" + bytes(24 * 24 * 3))
    with pytest.raises(ValueError, match=r"a\.ppm cannot be opened"):
        load_image(path)


def test_pictures_become_tensors_and_come_back():
    image = picture()
    tensor = to_tensor(image)
    assert tensor.shape == (3, 4, 6) and tensor.dtype == torch.float32
    assert tensor.min() >= -1 and tensor.max() <= 1
    assert tensor[2, 1, 5] == image.getpixel((5, 1))[2] / 127.5 - 1
    assert to_image(tensor).tobytes() == image.tobytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_dtype_become_pictures(dtype):
    tensor = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).to(dtype).expand(3, 1, 5)
    assert [to_image(tensor).getpixel((x, 0))[0] for x in range(5)] == [0, 0, 128, 255, 255]


def test_a_batch_is_no_picture():
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\); wanted \(3, h, w\)"):
        to_image(torch.zeros(2, 3, 4, 4))


def test_fit_cuts_the_middle_and_resizes():
    wide = Image.new("RGB", (30, 10), "black")
    wide.paste(Image.new("RGB", (10, 10), "white"), (10, 0))
    assert np.asarray(fit(wide, (5, 5))).min() > 230  # the filter sees a little past the cut
    assert fit(wide, (60, 20)).size == (60, 20)
    same = fit(wide, (30, 10))
    assert same.tobytes() == wide.tobytes() and same is not wide
    with pytest.raises(ValueError, match=r"size is \(0, 5\)"):
        fit(wide, (0, 5))


def test_grid_places_every_picture_whole():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [Image.new("RGB", (40, 30), colour) for colour in colours]
    for options in ({}, {"labels": ["one", "two", "three"]}, {"columns": 2}):
        pixels = np.asarray(grid(images, **options)).reshape(-1, 3)
        for colour in colours:
            assert (pixels == colour).all(axis=1).sum() == 40 * 30
    assert grid(images).width > 3 * 40
    assert grid(images, labels=["a", "b", "c"]).height > grid(images).height
    assert grid(images, labels=["a", "b\nb", "c"]).height > grid(images, labels=["a", "b", "c"]).height
    assert grid(images, columns=1).height > 3 * 30


def test_grid_refuses_what_does_not_add_up():
    with pytest.raises(ValueError, match="no pictures"):
        grid([])
    with pytest.raises(ValueError, match="2 labels for 1 pictures"):
        grid([picture()], labels=["a", "b"])
