"""Pictures: files, PIL images and tensors (3 h w) in [-1, 1]."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

# Those a picture may come in. Pillow opens more, EPS by running Ghostscript and rarely sent ones such as FITS.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
COLOURED = 24  # difference of channels, of 255, that a grey picture's compression does not make


def load_image(path: str | Path) -> Image.Image:
    """Read a picture as RGB, turned upright as its EXIF says, transparency laid over white.

    Raises ValueError with one sentence when there is no such file, when it is in none of FORMATS or damaged, and when
    it is so large (179 million pixels) that it may be meant to fill the memory.
    """
    return _load(path, upright)


def load_mask(path: str | Path) -> Image.Image:
    """Read a mask as grey ("L"), turned upright: white where the picture may change, black where it stays.

    As `as_mask` for transparency. Raises ValueError as load_image, and for a picture in colour.
    """
    return _load(path, as_mask)


def _load(path: str | Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with warnings.catch_warnings():  # at half of what is refused: a panorama, not a bomb
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except FileNotFoundError:
        raise ValueError(f"no such picture: {path}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture that can be read; give a PNG, JPEG or WebP file") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; give the path of one picture") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} has too many pixels to be opened safely; make it smaller first") from None
    except (OSError, SyntaxError, RuntimeError, ValueError) as error:  # one decoder or another
        raise ValueError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    with image:
        try:
            return convert(image)
        except InColourError as error:
            raise ValueError(f"{path}: {error}") from None
        except ValueError:
            raise ValueError(f"{path} is a damaged picture: the file is cut short or corrupt; fetch it again") from None


def upright(image: Image.Image) -> Image.Image:
    """A copy of a picture of any mode as RGB, turned upright as its EXIF says, transparency laid over white.

    Raises ValueError when the picture was opened by the caller, and only now turns out to be cut short or corrupt.
    """
    return _rgb(_turned(image))


class InColourError(ValueError):
    """A mask is no mask but a picture in colour."""


def as_mask(image: Image.Image) -> Image.Image:
    """A copy of a mask of any mode as grey ("L"), turned upright; white where the picture may change.

    Transparency is black: a white shape drawn on nothing lets the shape change and keeps the rest. Raises ValueError
    for a picture in colour, whose white means something else, and for one that turns out to be damaged.
    """
    image = _turned(image)
    opaque = _opacity(image)
    if image.mode not in ("1", "L", "LA", "La", "I", "F") and not image.mode.startswith("I;16"):
        pixels = np.asarray(image.convert("RGBA"))
        seen = pixels[..., :3][pixels[..., 3] > 0]
        if seen.size and int(np.ptp(seen, axis=1).max()) > COLOURED:
            raise InColourError("the mask is a picture in colour; want black and white, white where it may change")
        image = image.convert("RGBA").convert("RGB")
    grey = _eight_bits(image).convert("L")
    return grey if opaque is None else ImageChops.multiply(grey, opaque)


def _turned(image: Image.Image) -> Image.Image:
    """The picture upright, all of it read."""
    try:
        turned = ImageOps.exif_transpose(image)
        turned.load()
        return turned
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError) as error:  # one decoder or another
        raise ValueError(f"the picture cannot be read ({error}): it is cut short or corrupt; fetch it again") from error


def _rgb(image: Image.Image) -> Image.Image:
    if (opaque := _opacity(image)) is None:
        return _eight_bits(image).convert("RGB")
    if not image.mode.startswith("I"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    white = Image.new("RGB", image.size, "white")
    return Image.composite(_eight_bits(image).convert("RGB"), white, opaque)


def _opacity(image: Image.Image) -> Image.Image | None:
    """How opaque each pixel is ("L"), None where all of them are."""
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I"):  # of sixteen bits, one grey value is transparent
        return Image.fromarray(np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8))
    return image.convert("RGBA").getchannel("A")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A picture with numbers of sixteen bits as one of eight; others as they are."""
    if not image.mode.startswith("I"):
        return image
    pixels = np.asarray(image).clip(0, 0xFFFF)
    if image.mode == "I" and pixels.max(initial=0) < 256:  # room for more, and none used
        return Image.fromarray(pixels.astype(np.uint8))
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as float32 (3 h w) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).to(torch.float32).div_(127.5).sub_(1.0)


def to_image(tensor: Tensor) -> Image.Image:
    """A tensor (3 h w) as a picture; values outside [-1, 1] are clipped. Raises ValueError for other shapes."""
    if tensor.dim() != 3 or tensor.shape[0] != 3:
        raise ValueError(f"the picture is {tuple(tensor.shape)}; wanted (3, h, w): one row of the batch at a time")
    wide = tensor.detach().to("cpu", torch.promote_types(tensor.dtype, torch.float32))
    pixels = ((wide.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut the largest centred part of the shape of `size`, (width, height), and resize it to that."""
    if min(size) < 1:
        raise ValueError(f"size is {size}; wanted a width and a height of at least 1")
    return image.copy() if image.size == tuple(size) else ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def grid(images: Sequence[Image.Image], labels: Sequence[str] | None = None, columns: int | None = None) -> Image.Image:
    """Pictures side by side on white, each with its label beneath, of one line or more. columns: in a row, default all.

    Pictures of other sizes than the largest are centred in its cell. Raises ValueError when there are no pictures, or
    not a label for each.
    """
    if not images:
        raise ValueError("no pictures to lay out; give at least one")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} pictures; give one for each")
    columns = min(columns or len(images), len(images))
    width, height = (max(image.size[axis] for image in images) for axis in (0, 1))
    font_size, gap = max(11, width // 20), max(4, width // 40)
    lines = max((label.count("\n") + 1 for label in labels or ()), default=0)
    text_height = round((1.3 * lines + 0.3) * font_size) if lines else 0
    step_x, step_y = width + gap, height + text_height + gap
    sheet = Image.new("RGB", (columns * step_x + gap, math.ceil(len(images) / columns) * step_y + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(font_size)
    for i, image in enumerate(images):
        x, y = gap + i % columns * step_x, gap + i // columns * step_y
        sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
        if labels is not None:
            centre = (x + width // 2, y + height + text_height // 2)
            draw.multiline_text(centre, labels[i], fill="black", font=font, anchor="mm", align="center")
    return sheet
