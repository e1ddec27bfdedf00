"""Masks of the references: where in each picture the subject is."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from models.images import as_mask, load_mask
from models.inpainting import white_box
from train.data import MASK_ENDING, PictureSource, read_pictures, several


def read_masks(
    references: PictureSource | Sequence[PictureSource], masks: PictureSource | Sequence[PictureSource] | None = None
) -> list[Image.Image]:
    """The mask of each reference: grey ("L"), of its size, white where the subject is.

    masks: a folder with a file for each reference, called as it whatever the suffix ("cat.png" for "cat.jpg"), or
    "cat.mask.png"; or files and pictures, in the order of the references. None looks for "cat.mask.png" beside each.
    Raises ValueError for a mask that is missing, cannot be read, is of another size, or has nothing white in it.
    """
    pictures = several(references)
    if masks is None or (isinstance(masks, str | Path) and Path(masks).is_dir()):
        found: list[Path | Image.Image] = [_file_of(one, None if masks is None else Path(masks)) for one in pictures]
    else:
        found = several(masks)
    if len(found) != len(pictures):
        raise ValueError(f"there are {len(pictures)} references and {len(found)} masks; give each reference its mask")
    read = [as_mask(one) if isinstance(one, Image.Image) else load_mask(one) for one in found]
    for i, (picture, mask) in enumerate(zip(read_pictures(references), read, strict=True)):
        name = found[i] if isinstance(found[i], Path) else f"mask {i + 1}"
        if mask.size != picture.size:
            sizes = [" x ".join(map(str, image.size)) for image in (mask, picture)]
            raise ValueError(f"{name} is {sizes[0]} and its reference {sizes[1]}; want a mask of the same size")
        if white_box(mask) is None:
            raise ValueError(f"{name} is black everywhere; paint white where the subject is")
    return read


def _file_of(reference: Path | Image.Image, folder: Path | None) -> Path:
    """The file with the mask of a reference: in the folder, or else beside it."""
    if isinstance(reference, Image.Image):
        raise ValueError("a reference that is no file has no mask beside it; give the masks too, one for each")
    home, wanted = folder or reference.parent, [reference.stem + MASK_ENDING]
    if folder is not None:
        wanted.append(reference.stem)
    files = sorted(home.iterdir()) if home.is_dir() else []
    for file in files:
        if file.stem in wanted and file.is_file():
            return file
    raise ValueError(f"{reference} has no mask: there is no {wanted[0]}.png in {home}")
