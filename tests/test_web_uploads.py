"""photoswap.web.uploads and masking: what is refused of what comes in, and a mask painted, loaded, undone."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from command_line import paint
from PIL import Image

from photoswap.web import uploads
from photoswap.web.masking import Masking, shown_size
from photoswap.web.uploads import check_upload, read_mask, read_references, read_upload


def bomb(path, side):
    """A valid PNG of side x side black pixels, in a few bytes for each megapixel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side + 7) // 8 + 1) * side, 9)
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(signature + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def test_a_picture_comes_in(tmp_path):
    paint((70, 50), 0).save(tmp_path / "a.png")
    assert read_upload(tmp_path / "a.png").size == (70, 50)
    assert len(read_references([tmp_path / "a.png"] * 3)) == 3


@pytest.mark.parametrize("side", [6400, 15_000])
def test_a_bomb_is_measured_and_never_decoded(side, tmp_path, monkeypatch):
    path = bomb(tmp_path / "bomb.png", side)
    assert path.stat().st_size < 100_000

    def decoded(*_):
        raise AssertionError("it was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(ValueError, match=r"bomb\.png (is 6400 x 6400|has too many) pixels; want at most 40,000,000"):
        read_upload(path)


def test_what_is_no_picture_or_too_large_a_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_text("import os")
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    (tmp_path / "a.svg").write_text("<svg/>")
    for name in ("a.png", "a.eps", "a.svg", "nowhere.png"):
        with pytest.raises(ValueError, match="is not a picture that can be read; give a PNG, JPEG or WebP file"):
            check_upload(tmp_path / name)
    paint((70, 50), 0).save(tmp_path / "b.bmp")
    monkeypatch.setattr(uploads, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"b\.bmp has 0 MB; want at most 0: save it smaller"):
        check_upload(tmp_path / "b.bmp")


def test_references_are_some_and_not_too_many(tmp_path):
    with pytest.raises(ValueError, match="no pictures to learn from; add 3 to 5"):
        read_references([])
    with pytest.raises(ValueError, match="21 pictures are too many for one subject; want at most 20"):
        read_references([tmp_path / "a.png"] * 21)


def test_a_server_s_pillow_opens_nothing_else(tmp_path):
    """In a process of its own, for it is a setting of the whole process."""
    bomb(tmp_path / "bomb.png", 6400)
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    paint((8, 8), 0).save(tmp_path / "a.webp")
    code = """
import sys, warnings
from PIL import Image
from photoswap.web.uploads import guard_decoders
warnings.simplefilter("ignore")
guard_decoders()
Image.open("a.webp").load()
for name in ("bomb.png", "a.eps"):
    try:
        Image.open(name)
    except Exception as error:
        print(type(error).__name__)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["DecompressionBombError", "UnidentifiedImageError"]


def white(size, box):
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def strokes(size, box):
    painted = Image.new("RGBA", size, (0, 0, 0, 0))
    painted.paste((255, 34, 0, 255), box)
    return painted


def test_a_mask_is_painted_taken_away_and_undone():
    masking = Masking(paint((100, 60), 0))
    assert masking.mask is None and masking.share() == 0 and masking.overlay().size == (384, 230)
    masking.paint(strokes((200, 120), (0, 0, 100, 120)))  # at twice the picture's size, as the page shows it
    assert masking.mask.getbbox() == (0, 0, 50, 60) and masking.share() == 0.5
    masking.paint(strokes((200, 120), (100, 0, 150, 120)))
    assert masking.share() == 0.75
    masking.paint(strokes((200, 120), (0, 0, 50, 120)), erase=True)
    assert masking.mask.getbbox() == (25, 0, 75, 60)
    before = np.asarray(masking.picture, dtype=int)
    over = np.asarray(masking.overlay().resize((100, 60)), dtype=int)
    assert (over - before)[20:40, 30:70, 0].mean() > 20 > abs((over - before)[20:40, 80:95]).mean()
    masking.undo(), masking.undo()
    assert masking.share() == 0.5
    masking.replace(None)
    assert masking.mask is None
    for share in (0.5, 0, 0):
        masking.undo()
        assert masking.share() == share


def test_a_mask_of_another_size_in_colour_or_without_paint_is_refused(tmp_path):
    masking = Masking(paint((100, 60), 0))
    with pytest.raises(ValueError, match="nothing is painted yet"):
        masking.paint(Image.new("RGBA", (200, 120)))
    with pytest.raises(ValueError, match=r"the mask is \(10, 10\), the picture \(100, 60\)"):
        masking.replace(white((10, 10), (0, 0, 5, 5)))
    assert masking.mask is None
    white((90, 60), (0, 0, 5, 5)).save(tmp_path / "small.png")
    paint((100, 60), 1).save(tmp_path / "colour.png")
    white((100, 60), (0, 0, 5, 5)).save(tmp_path / "good.png")
    with pytest.raises(ValueError, match="the mask is 90 x 60 pixels, the picture 100 x 60; want the same"):
        read_mask(tmp_path / "small.png", (100, 60))
    with pytest.raises(ValueError, match="in colour"):
        read_mask(tmp_path / "colour.png", (100, 60))
    masking.replace(read_mask(tmp_path / "good.png", (100, 60)))
    assert masking.mask.getbbox() == (0, 0, 5, 5)
    masking.replace(Image.new("L", (100, 60), 0))  # all black is none
    assert masking.mask is None


@pytest.mark.parametrize(
    ("size", "shown"),
    [((128, 128), (384, 384)), ((600, 300), (600, 300)), ((4000, 1000), (1024, 256)), ((1, 999), (1, 999))],
)
def test_a_picture_is_painted_on_at_a_size_to_see(size, shown):
    assert shown_size(size) == shown
