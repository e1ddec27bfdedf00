"""COCOEE, Paint by Example's test bench (arXiv:2211.13227, section 4.1): 3500 pictures, masks and references.

Its folder, as published, holds GT_3500/NUMBER_GT.png, Mask_bbox_3500/NUMBER_mask.png and Ref_3500/NUMBER_ref.png, the
numbers with twelve digits, and they are listed in id_list.npy, there or beside it. Painted as in the published script:
no crop, and of a trained network the picture as it comes out, nothing laid back.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from models.images import load_image, load_mask
from models.stable_diffusion import LatentDiffusion
from photoswap.benchmark.cells import read_record, write_json
from photoswap.benchmark.entries import PAINTER, Entry
from photoswap.benchmark.painted import Easel, counted, needs_base
from photoswap.benchmark.run import ALL, Shard
from photoswap.masks import box_of
from photoswap.paint_method import PaintMethod
from photoswap.painters import paint
from photoswap.sizes import check_mask
from weights.atomic import atomic, clear

SOURCES, REFERENCES_OF, MASKS_OF = ("GT_3500", "GT"), ("Ref_3500", "ref"), ("Mask_bbox_3500", "mask")
ID_LIST, RESULTS_OF, RECORDS_OF = "id_list.npy", "results", "records"
VERSION_OF_CELLS = 1
PUBLISHED_GUIDANCE = 7.5  # the most of any method; those published with less keep theirs


class BenchTask(NamedTuple):
    """What is painted in, where, and what; words: of its class, None where nobody said."""

    number: int
    picture: Image.Image
    mask: Image.Image
    reference: Image.Image
    words: str | None


@dataclass(frozen=True)
class CocoEE:
    """The test bench in a folder. numbers: of its tasks, in order. words: by number, the class of what is to come."""

    folder: Path
    numbers: tuple[int, ...]
    words: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, words: Path | None = None, limit: int | None = None) -> "CocoEE":
        """The test bench, every file of it seen to be there. limit: its first tasks alone.

        words: a text file with a number and a class in each line. Raises ValueError, naming what is missing.
        """
        for name, _ in (SOURCES, REFERENCES_OF, MASKS_OF):
            if not (folder / name).is_dir():
                wanted = ", ".join(name for name, _ in (SOURCES, REFERENCES_OF, MASKS_OF))
                raise ValueError(f"{folder} has no folder {name}; COCOEE's has {wanted} and {ID_LIST}")
        numbers = _numbers(folder)[:limit]
        bench = cls(folder, tuple(numbers), _read_words(words) if words else {})
        files = [bench.file(kind, number) for number in numbers for kind in (SOURCES, REFERENCES_OF, MASKS_OF)]
        if missing := [file for file in files if not file.is_file()]:
            raise ValueError(f"{len(missing)} of {len(files)} files of {folder} are missing, the first {missing[0]}")
        if words and (lacking := [number for number in numbers if number not in bench.words]):
            raise ValueError(f"{words} has no class for {len(lacking)} pictures, the first {lacking[0]}")
        return bench

    def file(self, kind: tuple[str, str], number: int) -> Path:
        """Where a picture, a mask or a reference is."""
        return self.folder / kind[0] / f"{number:012d}_{kind[1]}.png"

    def task(self, number: int) -> BenchTask:
        """One task. Raises ValueError for files that do not belong together."""
        picture, mask = load_image(self.file(SOURCES, number)), load_mask(self.file(MASKS_OF, number))
        try:
            check_mask(mask, picture.size)
            box = box_of(mask)
            if box[2] - box[0] < 2 or box[3] - box[1] < 2:
                raise ValueError("the mask covers a line; want a region to paint and to compare")
        except ValueError as error:
            raise ValueError(f"{self.file(MASKS_OF, number)}: {error}") from None
        reference = load_image(self.file(REFERENCES_OF, number))
        return BenchTask(number, picture, mask, reference, self.words.get(number))


@dataclass(frozen=True, eq=False)
class BenchRun:
    """A run of painters over the bench: one picture a task and a method, each done once, with a seed of its own.

    base: for those that paint by a model that draws whole pictures. steps, guidance_scale: None for each method's own.
    """

    bench: CocoEE
    entries: tuple[Entry, ...]
    easel: Easel
    out: Path
    base: LatentDiffusion | None = None
    base_mark: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0

    def method(self, entry: Entry) -> PaintMethod:
        """As published: no crop, and what a trained network makes is not laid back."""
        method = self.easel.method(entry, PUBLISHED_GUIDANCE, self.steps)
        if self.guidance_scale is not None:
            method = replace(method, guidance_scale=self.guidance_scale)
        return replace(method, crop=False, keep=entry.method != PAINTER)

    def picture_file(self, entry: Entry, number: int) -> Path:
        """The result of a task, under its published name."""
        return self.out / entry.method / RESULTS_OF / f"{number:012d}.png"

    def record_file(self, entry: Entry, number: int) -> Path:
        """What is known of it; written last, so that it says the result is done."""
        return self.out / entry.method / RECORDS_OF / f"{number:012d}.json"

    def made_by(self, entry: Entry) -> dict[str, Any]:
        """All that the results of an entry follow from, as JSON gives it back."""
        base = {"model": self.base_mark} if needs_base(entry) else {}
        method = {name: list(v) if isinstance(v, tuple) else v for name, v in self.method(entry).record().items()}
        known = {"method": {"name": entry.method, **method}, **base, **self.easel.known_by(entry)}
        return {"version": VERSION_OF_CELLS, "seed": self.seed, **known}

    def run(self, shard: Shard = ALL, progress: bool = True) -> None:
        """Do the shard's part of what is not done. Ctrl-C leaves every finished picture."""
        own = [(i, number) for i, number in enumerate(self.bench.numbers) if i in shard]
        homes = [self.out / entry.method / kind for entry in self.entries for kind in (RESULTS_OF, RECORDS_OF)]
        clear(self.out, *homes)  # of what a killed run left half written
        todo = [(entry, i, number) for entry in self.entries for i, number in own if self.record(entry, number) is None]
        for entry, i, number in tqdm(todo, "COCOEE", disable=not progress):
            self._do(entry, self.bench.task(number), self.seed + i)

    def record(self, entry: Entry, number: int) -> dict[str, Any] | None:
        """What is known of a result, None where it is not done. Raises ValueError where it was made otherwise."""
        record = read_record(self.record_file(entry, number))
        if record is not None and record["made_by"] != (wanted := self.made_by(entry)):
            made = record["made_by"]
            changed = [name for name in {**wanted, **made} if made.get(name) != wanted.get(name)]
            raise ValueError(
                f"{self.record_file(entry, number)} was made with another {', '.join(changed)}: write elsewhere with "
                "--out, or begin anew with --overwrite"
            )
        return record

    def records(self, entry: Entry) -> Iterator[dict[str, Any] | None]:
        """Of every task, in order."""
        return (self.record(entry, number) for number in self.bench.numbers)

    def missing(self) -> int:
        """How many results are not there yet."""
        return sum(record is None for entry in self.entries for record in self.records(entry))

    def clear(self) -> None:
        """Remove the results of an earlier run, of these methods."""
        for entry in self.entries:
            for number in self.bench.numbers:
                for file in (self.record_file(entry, number), self.picture_file(entry, number)):
                    file.unlink(missing_ok=True)

    def _do(self, entry: Entry, task: BenchTask, seed: int) -> None:
        model, method = self.easel.model(entry, self.base), self.method(entry)
        told = self.easel.told(entry, task.reference, None, task.words)
        with counted(model) as rows:
            painted = paint(model, task.picture, task.mask, told, method, seed=seed)
        with atomic(self.picture_file(entry, task.number)) as place:
            painted.result.save(place, format="PNG")
        told_of_it = {"seconds": round(painted.timings["paint"], 3), "row_calls": rows(), "seed": seed}
        write_json(self.record_file(entry, task.number), {"made_by": self.made_by(entry), **told_of_it})


def pictures_in(files: Sequence[Path], progress: bool, name: str) -> Iterable[Image.Image]:
    """Pictures, one after another."""
    return (load_image(file) for file in tqdm(files, name, disable=not progress))


def _numbers(folder: Path) -> list[int]:
    """The numbers of the list, or where there is none those that the pictures have."""
    for file in (folder / ID_LIST, folder.parent / ID_LIST):
        if file.is_file():
            try:
                found = np.load(file, allow_pickle=False)
                return [int(number) for number in found.ravel()]
            except (ValueError, EOFError, OSError) as error:
                raise ValueError(f"{file} is no list of numbers: {str(error)[:100]}") from None
    names = [file.name.removesuffix("_GT.png") for file in sorted((folder / SOURCES[0]).glob("*_GT.png"))]
    if not names or not all(name.isdecimal() for name in names):
        raise ValueError(f"{folder / SOURCES[0]} holds no pictures NUMBER_GT.png, and there is no {ID_LIST}")
    return [int(name) for name in names]


def _read_words(file: Path) -> dict[int, str]:
    found = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as text: {error}") from None
    for line in filter(str.strip, lines):
        number, _, word = line.strip().partition(" ")
        if not number.isdecimal() or not word.strip():
            raise ValueError(f"{file}: {line[:80]!r} is no number with a class; want 000000000139 potted plant")
        found[int(number)] = word.strip()
    return found
