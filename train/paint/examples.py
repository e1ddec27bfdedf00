"""From a picture with boxes to what a painter learns from: picture, mask and reference, all of one box of it.

Pictures come from a folder, with boxes in a CSV file as OpenImages publishes them or in text files as Paint by
Example's data loader had them, or from the drawn world, which knows where its subjects are.
"""

import csv
import hashlib
import warnings
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.images import load_image, to_tensor
from models.inpainting import white_box
from train.miniature.data import STREAMS, WORLDS, mixed_scene_at
from train.paint.augment import PixelBox, Random, draw_mask, enlarged, reference_of, square_around
from train.world import render
from weights.records import quoted

LEAST_AREA, MOST_AREA = 0.02, 0.8  # of the picture, that a box covers
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
COLUMNS = ("ImageID", "XMin", "XMax", "YMin", "YMax")  # of OpenImages' file, as shares of the picture's sides


@dataclass(frozen=True, eq=False)
class PaintExample:
    """One row to learn from.

    image: (3 h w) in [-1, 1]. mask: (1 h w), 1 where it is to be painted; grey along its edge, since it was resized.
    reference: (3 s s), normalised.
    """

    image: Tensor
    mask: Tensor
    reference: Tensor


class BoxedPictures(Protocol):
    """Pictures by number, each with one or more boxes. about: tells them from other pictures and boxes."""

    @property
    def about(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, list[PixelBox]]: ...


def make_example(picture: Image.Image, box: PixelBox, rng: Random, size: int, reference_size: int) -> PaintExample:
    """A box of a picture as a row to learn from, `size` pixels a side, augmented as published."""
    reference = reference_of(picture, box, rng, reference_size)
    around = enlarged(box, picture.size, rng)
    mask = draw_mask(picture.size, box, around, rng)
    cut = square_around(around, picture.size, rng)
    image, hole = (
        part.crop(cut).resize((size, size), Image.Resampling.BILINEAR) for part in (picture.convert("RGB"), mask)
    )
    return PaintExample(to_tensor(image), torch.from_numpy(np.array(hole, dtype=np.float32) / 255)[None], reference)


def row_of(source: BoxedPictures, seed: int, step: int, row: int, size: int, reference_size: int) -> PaintExample:
    """Row number `row` of a step: a picture at random, one of its boxes at random; the same wherever it is made."""
    rng = np.random.default_rng([seed, step, row])
    picture, boxes = source[int(rng.integers(len(source)))]
    return make_example(picture, boxes[int(rng.integers(len(boxes)))], rng, size, reference_size)


def of_fitting_area(box: PixelBox, size: tuple[int, int]) -> bool:
    """Whether a box covers 2 to 80 % of a picture of (width, height)."""
    share = (box[2] - box[0]) * (box[3] - box[1]) / (size[0] * size[1])
    return box[2] > box[0] and box[3] > box[1] and LEAST_AREA <= share <= MOST_AREA


class WorldPictures:
    """Scenes of the drawn world, each of its subjects a box; scene i is the same in every run.

    world: its name. side: in pixels. count: of scenes. seed: which stream of scenes, by default the training's.
    """

    def __init__(self, world: str = "small", side: int = 128, count: int = 2**31, seed: int | None = None) -> None:
        self.name, self.world, self.side, self.count = world, WORLDS[world], side, count
        self.seed = STREAMS["training"] if seed is None else seed

    @property
    def about(self) -> str:
        """World, size and stream."""
        return f"{self.count} scenes of the {self.name} world, {self.side} pixels a side, stream {self.seed}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, list[PixelBox]]:
        """Raises IndexError beyond the last. A subject too small or hidden is passed over for the next scene's."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        while True:
            drawn = render(mixed_scene_at(self.world, self.seed, index), self.side)
            boxes = [box for mask in drawn.masks if (box := white_box(mask))]
            if fitting := [box for box in boxes if of_fitting_area(box, drawn.image.size)]:
                return drawn.image, fitting
            index = (index + 1) % self.count


class FolderPictures:
    """Pictures of a folder and the folders in it, with their boxes; those without a box that fits are left out.

    boxes: OpenImages' CSV, or a folder of text files NAME.txt with lines "left top right bottom" in pixels.
    Raises ValueError for files that are no such thing, and where no picture has a box.
    """

    def __init__(self, folder: str | Path, boxes: str | Path) -> None:
        folder, boxes = Path(folder), Path(boxes)
        files = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PHOTO_SUFFIXES}
        if not files:
            raise ValueError(f"{folder} has no pictures; want a folder with {', '.join(PHOTO_SUFFIXES)} files in it")
        self.relative = not boxes.is_dir()
        found = _read_csv(boxes, files) if self.relative else _read_texts(boxes, files)
        self.names = sorted(found)
        self.files, self.boxes = files, found
        if not self.names:
            raise ValueError(
                f"{boxes} has no box for any of the {len(files)} pictures in {folder}; are the names those?"
            )

    @property
    def about(self) -> str:
        """A digest of the files' names and bytes in number, and of their boxes; the pictures are not opened."""
        told = hashlib.sha256()
        for name in self.names:
            told.update(f"{name} {self.files[name].stat().st_size} {list(self.boxes[name])}\n".encode())
        return told.hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image.Image, list[PixelBox]]:
        """The picture and those of its boxes that cover 2 to 80 %; where none does, the next picture that has one.

        A damaged file is passed over with a warning.
        """
        for i in range(len(self)):
            name = self.names[(index + i) % len(self)]
            try:
                picture = load_image(self.files[name])
            except ValueError as error:  # of millions of files some are damaged; a warning is shown once
                warnings.warn(f"{error}; it is passed over", stacklevel=2)
                continue
            scale = (*picture.size, *picture.size) if self.relative else (1, 1, 1, 1)
            rows = np.array(self.boxes[name]).reshape(-1, 4) * scale
            limits = (picture.width, picture.height) * 2
            boxes = [tuple(int(min(max(0, v), limit)) for v, limit in zip(row, limits, strict=True)) for row in rows]
            if fitting := [box for box in boxes if len(box) == 4 and of_fitting_area(box, picture.size)]:
                return picture, fitting
        raise ValueError(f"no box covers {LEAST_AREA:.0%} to {MOST_AREA:.0%} of its picture; there is nothing to learn")


def _read_csv(path: Path, files: Mapping[str, Path]) -> dict[str, array]:
    """The boxes of the pictures that are there: left, top, right, bottom, one after another."""
    found: dict[str, array] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if lacking := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise ValueError(f"{path} has no column {lacking[0]}; want OpenImages' file of boxes, or a folder")
            for row in rows:
                if row["ImageID"] in files:
                    box = [float(row[name]) for name in ("XMin", "YMin", "XMax", "YMax")]
                    found.setdefault(row["ImageID"], array("f")).extend(box)
    except FileNotFoundError:
        raise ValueError(f"no such file or folder of boxes: {path}") from None
    except (UnicodeDecodeError, csv.Error, TypeError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from None
    return found


def _read_texts(folder: Path, files: Mapping[str, Path]) -> dict[str, array]:
    found: dict[str, array] = {}
    for path in sorted(folder.glob("*.txt")):
        if path.stem not in files:
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                left, top, right, bottom = map(float, line.split()[:4])
            except ValueError:
                raise ValueError(f"{path}: {quoted(line)} is no box; want left, top, right and bottom") from None
            found.setdefault(path.stem, array("f")).extend((left, top, right, bottom))
    return found
