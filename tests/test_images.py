"""Pictures: files to tensors and back, and a sentence for each file that is none."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from models import as_mask, fit, grid, load_image, load_mask, to_image, to_tensor, upright


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


def shape_on(mode, shape, ground):
    """A 3 x 1 mask whose middle is the shape."""
    mask = Image.new(mode, (3, 1), ground)
    mask.putpixel((1, 0), shape)
    return mask


DEEP = np.array([[0, 65535, 0]], dtype=np.uint16)
MASKS = {
    "1 bit": shape_on("1", 1, 0),
    "grey": shape_on("L", 255, 0),
    "grey and opaque": shape_on("LA", (255, 255), (0, 255)),
    "grey on nothing": shape_on("LA", (255, 255), (255, 0)),
    "colours": shape_on("RGB", (255, 255, 255), (0, 0, 0)),
    "white on nothing": shape_on("RGBA", (255, 255, 255, 255), (255, 255, 255, 0)),
    "white on black nothing": shape_on("RGBA", (255, 255, 255, 255), (0, 0, 0, 0)),
    "white on coloured nothing": shape_on("RGBA", (255, 255, 255, 255), (200, 10, 10, 0)),
    "16 bits": Image.fromarray(DEEP),
    "32 bits": Image.fromarray(DEEP.astype(np.int32)),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_mask_of_any_mode_is_white_where_its_shape_is(mask, tmp_path):
    """White on nothing was laid over white once, and so let everything change."""
    for read in (as_mask(mask), load_mask(saved(mask, tmp_path / "mask.tiff"))):
        assert read.mode == "L" and list(read.tobytes()) == [0, 255, 0]
    if mask.mode != "I":
        assert list(load_mask(saved(mask, tmp_path / "mask.png")).tobytes()) == [0, 255, 0]


def test_a_mask_with_a_palette_may_have_a_transparent_colour(tmp_path):
    mask = Image.new("P", (3, 1), 1)
    mask.putpalette([255, 255, 255, 255, 255, 255, 0, 0, 0])
    mask.putpixel((1, 0), 0)
    mask.putpixel((2, 0), 2)
    path = saved(mask, tmp_path / "mask.png", transparency=1)
    assert list(load_mask(path).tobytes()) == [0, 255, 0]
    deep = Image.fromarray(np.array([[7, 65535, 9]], dtype=np.uint16))
    assert list(load_mask(saved(deep, tmp_path / "a.png", transparency=65535)).tobytes()) == [0, 0, 0]
    assert load_image(tmp_path / "a.png").tobytes() == bytes([0] * 3 + [255] * 3 + [0] * 3)


def test_half_a_mask_s_opacity_is_half_its_white():
    assert list(as_mask(shape_on("RGBA", (255, 255, 255, 128), (0, 0, 0, 0))).tobytes()) == [0, 128, 0]
    assert list(as_mask(shape_on("LA", (128, 255), (0, 255))).tobytes()) == [0, 128, 0]


def test_a_mask_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_mask(saved(Image.new("L", (6, 4)), tmp_path / "a.png", exif=exif)).size == (4, 6)


@pytest.mark.parametrize("kind", ["jpg", "webp", "gif"])
def test_a_mask_may_be_compressed(kind, tmp_path):
    """Compression makes no colour of black and white."""
    mask = Image.new("RGB", (64, 64))
    mask.paste((255, 255, 255), (13, 21, 50, 43))
    assert np.abs(np.asarray(load_mask(saved(mask, tmp_path / f"a.{kind}"))).astype(int)[30, 30] - 255) < 3


def test_a_picture_in_colour_is_no_mask(tmp_path):
    for mode, colour in (("RGB", (200, 30, 30)), ("RGBA", (200, 30, 30, 255))):
        path = saved(shape_on(mode, colour, 0), tmp_path / "photo.png")
        with pytest.raises(ValueError, match=r"photo\.png: the mask is a picture in colour; want black and white"):
            load_mask(path)
    with pytest.raises(ValueError, match="in colour"):
        as_mask(picture())


def test_a_damaged_mask_is_named(tmp_path):
    path = saved(picture(64, 64).convert("L"), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"a\.png is a damaged picture"):
        load_mask(path)
    with pytest.raises(ValueError, match="no such picture"):
        load_mask(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["EPS", "PCX", "ICO", "TGA"])
def test_formats_nobody_sends_are_not_opened(kind, tmp_path, monkeypatch):
    """EPS least of all: Pillow opens it by running Ghostscript."""
    path = saved(picture(16, 16), tmp_path / "a.png", format=kind)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("a program was run"))
    for read in (load_image, load_mask):
        with pytest.raises(ValueError, match=r"a\.png is not a picture that can be read"):
            read(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_the_usual_formats_are_opened(kind, tmp_path):
    assert load_image(saved(picture(16, 16), tmp_path / "a", format=kind)).size == (16, 16)


@pytest.mark.parametrize("pixels", [100, 399])
def test_a_large_picture_is_read_and_a_bomb_is_not(pixels, tmp_path, monkeypatch):
    """Pillow warns at one limit and refuses at twice that; 20 x 20 pixels lie below, between and above."""
    path = saved(picture(20, 20), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    if pixels == 399:
        assert load_image(path).size == (20, 20)
    else:
        with pytest.raises(ValueError, match="too many pixels"):
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
