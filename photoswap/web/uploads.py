"""What comes in from a browser: of a known kind, of bounded size, and measured before it is decoded."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from models.images import FORMATS, load_image, load_mask

MOST_BYTES = 32 * 2**20
MOST_PIXELS = 40_000_000  # of one picture; as many as a good camera makes
MOST_REFERENCES = 20  # of one subject; the papers have 3 to 5


def check_upload(path: str | Path) -> None:
    """Raise ValueError unless a file is a picture of bounded size; only its first bytes are read."""
    path = Path(path)
    size = path.stat().st_size if path.is_file() else 0
    if size > MOST_BYTES:
        raise ValueError(f"{path.name} has {size / 2**20:.0f} MB; want at most {MOST_BYTES // 2**20}: save it smaller")
    try:
        with Image.open(path, formats=FORMATS) as header:
            width, height = header.size
    except Image.DecompressionBombError:
        raise ValueError(f"{path.name} has too many pixels; want at most {MOST_PIXELS:,}: make it smaller") from None
    except (OSError, SyntaxError, ValueError, RuntimeError):
        raise ValueError(f"{path.name} is not a picture that can be read; give a PNG, JPEG or WebP file") from None
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{path.name} is {width} x {height} pixels; want at most {MOST_PIXELS:,} in all: make it smaller"
        )


def read_upload(path: str | Path) -> Image.Image:
    """An uploaded picture, upright and RGB. Raises ValueError as check_upload, and for a damaged one."""
    check_upload(path)
    return load_image(path)


def read_mask(path: str | Path, size: tuple[int, int]) -> Image.Image:
    """An uploaded mask as grey, of the picture's size. Raises ValueError for another size, and for one in colour."""
    check_upload(path)
    mask = load_mask(path)
    if mask.size != size:
        raise ValueError(
            f"the mask is {mask.width} x {mask.height} pixels, the picture {size[0]} x {size[1]}; want the same"
        )
    return mask


def read_references(paths: Sequence[str | Path]) -> list[Image.Image]:
    """The uploaded pictures of a subject. Raises ValueError for none, too many, and any that is refused."""
    if not paths:
        raise ValueError("there are no pictures to learn from; add 3 to 5 of your subject, or take an example")
    if len(paths) > MOST_REFERENCES:
        raise ValueError(f"{len(paths)} pictures are too many for one subject; want at most {MOST_REFERENCES}")
    return [read_upload(path) for path in paths]


def guard_decoders() -> None:
    """Have Pillow open nothing else in this process, whoever calls it: the page's own parts decode pictures too.

    For the whole process, so only a program that serves the page may call it.
    """
    Image.init()
    for name in [name for name in Image.OPEN if name not in FORMATS]:
        del Image.OPEN[name]
    Image.ID[:] = [name for name in Image.ID if name in FORMATS]
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # beyond twice as many Pillow refuses
