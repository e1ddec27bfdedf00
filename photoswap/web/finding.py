"""What the model looks at: a mask found by a word, the heat of every word, and a grid of lambdas to choose from."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from models.images import grid
from photoswap.commands.outputs import write_together
from photoswap.masks import find_subject, find_subjects
from photoswap.pipeline import swap_all
from photoswap.sizes import take

from .desk import Job
from .forms import SwapForm, command_line
from .previews import Progress
from .session import Session
from .work import Asked

MOST_SWAPS = 36
IN_ONE_RUN = 4  # swaps in one run; more share more work, and take more memory
CELL_SIDE = 256  # pixels a side of a cell, or a heat
MOST_WORDS = 12


class Axis(NamedTuple):
    """One lambda of a grid, and the steps it is tried for."""

    name: str
    values: tuple[int, ...]


class GridCell(NamedTuple):
    """One picture of a grid, and the lambdas that made it."""

    picture: Image.Image
    counts: tuple[tuple[str, int], ...]

    @property
    def label(self) -> str:
        """The lambdas as text."""
        return ", ".join(f"{name} {value}" for name, value in self.counts)


@dataclass(frozen=True, eq=False)
class LambdaGrid:
    """Swaps with other lambdas: cells row by row, so many columns, and the folder that keeps them."""

    cells: list[GridCell]
    columns: int
    folder: Path


def read_values(text: str, steps: int) -> tuple[int, ...]:
    """The numbers of "0, 5, 10", in order, each once. Raises ValueError for none, and for what is no count of steps."""
    parts = [part for part in re.split(r"[,\s]+", text.strip()) if part]
    if not parts or not all(re.fullmatch("[0-9]{1,4}", part) and int(part) <= steps for part in parts):
        raise ValueError(f"{text[:40]!r} are no counts of steps; want whole numbers from 0 to {steps}, such as 0, 10")
    return tuple(dict.fromkeys(int(part) for part in parts))


def swap_grid(session: Session, job: Job, form: SwapForm, across: Axis, down: Axis) -> LambdaGrid:
    """Swap with every pair of lambdas, the rest as the form says; kept as grid.png, and grid.json with every command.

    Raises ValueError for the same lambda twice, and for more than 36 cells.
    """
    if across.name == down.name:
        raise ValueError(f"both sides of the grid are {down.name}; choose two lambdas")
    if len(across.values) * len(down.values) > MOST_SWAPS:
        raise ValueError(f"{len(across.values)} x {len(down.values)} are too many cells; want at most {MOST_SWAPS}")
    every = [{across.name: x, down.name: y} for y in down.values for x in across.values]
    forms = [replace(form, counts=tuple({**dict(form.counts or ()), **changed}.items())) for changed in every]
    out, cells = session.folder.new_folder("grid"), list[GridCell]()
    progress: Progress | None = None
    for first in range(0, len(forms), IN_ONE_RUN):
        some = [
            Asked.of(session, job, one, session.command(one.words(out / "x"))[1]) for one in forms[first:][:IN_ONE_RUN]
        ]
        method = some[0].method
        rounds = -(-len(forms) // IN_ONE_RUN)
        progress = progress or Progress(job, "Swapping for the grid", rounds * (method.steps - method.first))
        counted = _Counted(progress, first // IN_ONE_RUN * (method.steps - method.first))
        results = swap_all(some[0].model, [one.request for one in some], on_moment=counted)
        for one, changed in zip(results, every[first : first + IN_ONE_RUN], strict=True):
            cells.append(GridCell(_small(one.result), tuple(changed.items())))
    sheet = grid([cell.picture for cell in cells], [cell.label for cell in cells], columns=len(across.values))
    lines = [command_line(session.command(one.words(out.with_name("cell")))[0]) for one in forms]
    record = [{"lambdas": dict(cell.counts), "command": line} for cell, line in zip(cells, lines, strict=True)]
    write_together({out / "grid.png": sheet, out / "grid.json": json.dumps(record, indent=2) + "\n"})
    return LambdaGrid(cells, len(across.values), out)


def find_mask(session: Session, job: Job, word: str, prompt: str, concept: str | None) -> None:
    """Go on with the mask of what a word names in the source. Raises ValueError without a source."""
    if session.masking is None:
        raise ValueError("there is no picture to look at; add one in section 2")
    job.tell("Loading the model")
    model = session.shelf.model(concept)
    job.tell(f"Looking for the {word.strip()}", 0.5)
    session.masking.replace(find_subject(model, session.masking.picture, prompt, word.strip()).mask)


def heat_of_words(session: Session, job: Job, picture: Image.Image, prompt: str, concept: str | None) -> list[tuple]:
    """For each word of a prompt, the picture with the places that attend to it glowing: (picture, word)."""
    words = list(dict.fromkeys(re.findall(r"[^\s,.;:!?]+", prompt)))[:MOST_WORDS]
    if not words:
        raise ValueError("the prompt has no words; say what is in the picture")
    job.tell("Loading the model")
    model = session.shelf.model(concept)
    job.tell("Looking at every word", 0.5)
    found = find_subjects(model, picture, prompt, words)
    return [(glowing(picture, one.heat), word) for one, word in zip(found, words, strict=True)]


def glowing(picture: Image.Image, heat: Tensor) -> Image.Image:
    """The picture, grey where the heat (h w), 0..1, is low and in colour, redder, where it is high; small enough."""
    seen = take(picture, (heat.shape[1], heat.shape[0]))
    colour = np.asarray(seen, dtype=np.float32)
    grey = np.asarray(seen.convert("L").convert("RGB"), dtype=np.float32) * 0.45
    share = heat.clamp(0, 1).numpy()[..., None]
    warm = 0.6 * colour + 0.4 * np.array([255.0, 80.0, 0.0], dtype=np.float32)
    return _small(Image.fromarray((grey * (1 - share) + warm * share).round().astype(np.uint8)))


class _Counted:
    """Tells the steps of a run that others went before."""

    def __init__(self, progress: Progress, before: int) -> None:
        self.progress, self.done = progress, before

    def __call__(self, moment: object) -> None:
        self.done += 1
        self.progress.step(self.done)


def _small(picture: Image.Image) -> Image.Image:
    """At most 256 pixels a side, and a small one enlarged to that."""
    scale = CELL_SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)
