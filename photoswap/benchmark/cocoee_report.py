"""What a finished run over COCOEE leaves: the three measures of every painter, as a table, JSON and pictures."""

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models.images import grid
from photoswap.benchmark.cells import write_json
from photoswap.benchmark.cocoee import BenchRun, pictures_in
from photoswap.benchmark.composition import Mixture, frechet_distance, quality_score, region_similarity
from photoswap.benchmark.entries import Entry
from photoswap.benchmark.features import Array, ClipFeatures, RecogniserFeatures, features_of
from photoswap.benchmark.run import ALL, Shard
from photoswap.benchmark.table import as_markdown
from photoswap.masks import overlaid
from weights.atomic import atomic
from weights.records import shown

COCOEE_FILES = ("cocoee.json", "cocoee.md", "cocoee.png")
REAL_FILE, MIXTURE_FILE = "real.safetensors", "mixture.safetensors"
REAL_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
GRID_TASKS, GRID_PIXELS, COMPARED_AT_ONCE = 8, 192, 50


class Measured(NamedTuple):
    """A painter's measures: distance and quality are None where there are no real pictures to compare with."""

    distance: float | None
    quality: float | None
    similarity: float
    seconds: float
    rows: float


@dataclass(frozen=True)
class RealPictures:
    """Real pictures that FID and QS compare with. mixture: fitted to them before; None fits one."""

    folder: Path
    mixture: Path | None = None

    @property
    def files(self) -> list[Path]:
        """The pictures of the folder and of those in it. Raises ValueError where there are none."""
        found = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in REAL_SUFFIXES)
        if not found:
            raise ValueError(f"{self.folder} has no pictures to compare with; want COCO's test2017, for instance")
        return found

    def features(self, features: ClipFeatures | RecogniserFeatures, kept: Path, progress: bool) -> Array:
        """Their features, read from `kept` where they are these pictures' by this network."""
        files = self.files
        known = json.dumps({"features": features.known_by, "files": [file.name for file in files]})
        try:
            with safe_open(kept, "np") as opened:
                if (opened.metadata() or {}).get("known") == known:
                    found: Array = opened.get_tensor("features")
                    return found
        except (OSError, SafetensorError):
            pass  # not there yet, or not whole
        found = features_of(features, pictures_in(files, progress, "real pictures"))
        with atomic(kept) as place:
            save_file({"features": found}, place, {"known": known})
        return found


def run_cocoee(
    run: BenchRun,
    features: ClipFeatures | RecogniserFeatures,
    real: RealPictures | None,
    shard: Shard = ALL,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> Iterator[str]:
    """Do a shard of the run and write the report if nothing is missing; what is to be said, line by line.

    Raises KeyboardInterrupt, saying that the same command goes on.
    """
    if overwrite:
        run.clear()
    try:
        run.run(shard, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; what is finished is in {run.out}: the same command goes on") from None
    if missing := run.missing():
        yield f"{missing} results are still missing, of other shards: the last one to finish writes the tables"
        return
    found = measures(run, features, real, progress)
    text = as_markdown([(f"COCOEE: {len(run.bench.numbers)} tasks", cocoee_table(found))])
    write_json(run.out / COCOEE_FILES[0], _everything(run, features, real, found))
    with atomic(run.out / COCOEE_FILES[1]) as place:
        place.write_text(text, encoding="utf-8")
    with atomic(run.out / COCOEE_FILES[2]) as place:
        cocoee_grid(run).save(place, format="PNG")
    yield text
    yield from (str(run.out / name) for name in COCOEE_FILES)


def measures(
    run: BenchRun, features: ClipFeatures | RecogniserFeatures, real: RealPictures | None, progress: bool = False
) -> dict[str, Measured]:
    """By painter, its measures over all tasks. Every result has to be there."""
    wanted, mixture = None, None
    if real is not None:
        wanted = real.features(features, run.out / REAL_FILE, progress)
        mixture = Mixture.load(real.mixture) if real.mixture else Mixture.fit(wanted)
        if not real.mixture:
            mixture.save(run.out / MIXTURE_FILE)  # for another run's --mixture: it took minutes
        if mixture.means.shape[1] != wanted.shape[1]:
            raise ValueError(
                f"{shown(real.mixture)} is a mixture of {mixture.means.shape[1]} features, these are {wanted.shape[1]}"
            )
    found = {}
    for entry in run.entries:
        files = [run.picture_file(entry, number) for number in run.bench.numbers]
        own = (
            None if wanted is None else features_of(features, pictures_in(files, progress, f"{entry.method} measured"))
        )
        records = [record for record in run.records(entry) if record]
        found[entry.method] = Measured(
            None if wanted is None or own is None else frechet_distance(own, wanted),
            None if mixture is None or own is None else quality_score(mixture, own),
            _similarity(run, entry, features),
            float(np.mean([record["seconds"] for record in records])),
            float(np.mean([record["row_calls"] for record in records])),
        )
    return found


def _similarity(run: BenchRun, entry: Entry, features: ClipFeatures | RecogniserFeatures) -> float:
    """region_similarity over all tasks, so many in memory at once."""
    numbers, total = run.bench.numbers, 0.0
    for first in range(0, len(numbers), COMPARED_AT_ONCE):
        tasks = [run.bench.task(number) for number in numbers[first : first + COMPARED_AT_ONCE]]
        painted = pictures_in([run.picture_file(entry, task.number) for task in tasks], False, "")
        rows = region_similarity(features, list(painted), [t.mask for t in tasks], [t.reference for t in tasks])
        total += rows * len(tasks)
    return total / len(numbers)


def cocoee_table(found: Mapping[str, Measured]) -> list[list[str]]:
    """A row for each painter; arrows say which way is better."""
    rows = [["", "FID, lower is better", "QS, higher is better", "CLIP, higher is better", "seconds", "rows"]]
    for name, one in found.items():
        told = ["" if value is None else f"{value:.2f}" for value in one[:3]]
        rows.append([name, *told, f"{one.seconds:.1f}", f"{one.rows:.0f}"])
    return rows


def cocoee_grid(run: BenchRun) -> Image.Image:
    """A row for each of the first tasks: the picture with its mask, the reference, every painter's result."""
    pictures: list[Image.Image] = []
    labels: list[str] = []
    for number in run.bench.numbers[:GRID_TASKS]:
        task = run.bench.task(number)
        row = {str(number): overlaid(task.picture, task.mask), "reference": task.reference}
        results = [run.picture_file(entry, number) for entry in run.entries]
        row |= {e.method: p for e, p in zip(run.entries, pictures_in(results, False, ""), strict=True)}
        labels += row.keys()
        pictures += [ImageOps.pad(picture, (GRID_PIXELS, GRID_PIXELS), color="white") for picture in row.values()]
    return grid(pictures, labels, columns=2 + len(run.entries))


def _everything(
    run: BenchRun,
    features: ClipFeatures | RecogniserFeatures,
    real: RealPictures | None,
    found: Mapping[str, Measured],
) -> dict[str, Any]:
    return {
        "bench": {"folder": str(run.bench.folder), "tasks": len(run.bench.numbers)},
        "features": features.known_by,
        "real": None if real is None else {"folder": str(real.folder), "pictures": len(real.files)},
        "painters": {
            entry.method: {"made_by": run.made_by(entry), **found[entry.method]._asdict()} for entry in run.entries
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
