"""Rows made and encoded once, kept in files, and shown again and again, each time with other noise.

To draw or open a picture, to cut it and to encode it twice costs a small network more than it costs to learn from it.
A row that comes again has the cut, the mask and the reference it had, but its latents are drawn anew.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from models.paint_by_example import PaintByExample
from train.paint.examples import BoxedPictures, row_of
from train.paint.step import EncodedExample, encoded
from train.parallel import Team
from weights.atomic import atomic, clear
from weights.checksum import digest_of
from weights.records import shown

ROWS_IN_A_FILE = 250  # which is what a stopped run loses at most


class KeptRows(Dataset[Sequence[EncodedExample]]):
    """The rows of every step, out of those that are kept; of each step and row it is the same one in every run.

    files: of ROWS_IN_A_FILE rows, but for the last. count: of rows in all of them. rows: which of a step's.
    """

    def __init__(self, files: Sequence[Path], count: int, seed: int, rows: range) -> None:
        self.blocks = [torch.load(file, mmap=True, weights_only=True)["rows"] for file in files]
        self.count, self.seed, self.rows = count, seed, rows

    def __getitem__(self, step: int) -> list[EncodedExample]:
        return [
            self.example(int(np.random.default_rng([self.seed, step, row]).integers(self.count))) for row in self.rows
        ]

    def example(self, index: int) -> EncodedExample:
        """Row number `index` of those that are kept."""
        block: dict[str, Tensor] = self.blocks[index // ROWS_IN_A_FILE]
        return EncodedExample(**{name: column[index % ROWS_IN_A_FILE].clone() for name, column in block.items()})


def keep_rows(
    model: PaintByExample,
    source: BoxedPictures,
    folder: Path,
    *,
    count: int,
    seed: int,
    size: int,
    team: Team,
    progress: bool,
) -> list[Path]:
    """Make so many rows and encode them, but for those in the folder already; the files they are in, in order.

    They follow from the autoencoder alone, of the model's networks. Processes that train together make a share each,
    and all wait for the last one. Raises ValueError for files of other rows, and for damaged ones.
    """
    sides = {"size": size, "reference": model.config.image.size}
    about = json.dumps(
        {"autoencoder": digest_of(model.vae.state_dict()), "pictures": source.about, "seed": seed, **sides}
    )
    files = [folder / f"{start // ROWS_IN_A_FILE:05}.pt" for start in range(0, count, ROWS_IN_A_FILE)]
    clear(folder)  # of what a killed run left half written
    mine = range(team.rank, len(files), team.count)
    for number in tqdm(mine, desc="encoding rows", unit="file", disable=not progress):
        rows = range(number * ROWS_IN_A_FILE, min((number + 1) * ROWS_IN_A_FILE, count))
        if files[number].exists():
            _check(files[number], about, len(rows))
            continue
        made = [row_of(source, seed, index, 0, size, model.config.image.size) for index in rows]
        found = [encoded(model, row) for row in made]
        columns = {
            name: torch.stack([getattr(row, name) for row in found]).cpu() for name in EncodedExample.__annotations__
        }
        with atomic(files[number]) as place:
            torch.save({"about": about, "rows": columns}, place)
    team.any(False, model.device)  # all are there
    return files


def _check(file: Path, about: str, count: int) -> None:
    try:
        held: Any = torch.load(file, mmap=True, weights_only=True)
        theirs, lengths = held["about"], {len(column) for column in held["rows"].values()}
    except Exception as error:  # torch.load raises many kinds, none of its own
        raise ValueError(f"{shown(file)} is damaged; delete it ({str(error)[:100]})") from None
    if theirs != about or lengths != {count}:
        raise ValueError(
            f"{shown(file)} has rows of other pictures, numbers or weights; delete its folder, or use another"
        )
