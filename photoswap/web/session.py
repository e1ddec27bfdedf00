"""What one browser tab has made so far, and the folder that keeps it."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from photoswap.commands.outputs import write_together

from .desk import Job
from .forms import LearnForm, model_words, parsed
from .masking import Masking
from .rooms import Folder
from .shelf import Shelf

if TYPE_CHECKING:
    from photoswap.inversion import Inversion

    from .finding import LambdaGrid


@dataclass
class Session:
    """One tab's state; its files are written when something needs them, so that looking at the page leaves none.

    concepts: files by what they are called. learning: the form and folder of a learning that was stopped, to go on
    with. samples: pictures drawn while learning, each with its step. masking: of the source. inversion: the last one,
    with its file. grid: the last one. lines: the command of each job that was done. job: the last one. done: the last
    result, at the source's resolution, and its prompt.
    """

    shelf: Shelf
    folder: Folder
    concepts: dict[str, str] = field(default_factory=dict)
    learning: tuple[LearnForm, Path] | None = None
    samples: list[tuple[Image.Image, str]] = field(default_factory=list)
    masking: Masking | None = None
    inversion: "tuple[Inversion, Path] | None" = None
    grid: "LambdaGrid | None" = None
    lines: dict[str, str] = field(default_factory=dict)
    job: Job | None = None
    done: tuple[Image.Image, str] | None = None
    _source: Path | None = None
    _mask: tuple[Image.Image, Path] | None = None

    def command(self, words: Sequence[str]) -> tuple[list[str], argparse.Namespace]:
        """A command's words with the page's model, and what the command makes of them. Raises ValueError."""
        complete = [*words, *model_words(self.shelf.arguments)]
        return complete, parsed(complete)

    def take_source(self, picture: Image.Image) -> None:
        """Go on with another source: its mask and its inversion begin anew."""
        self.masking, self.inversion, self.grid, self._source = Masking(picture), None, None, None

    def keep_source(self) -> Path:
        """The source's file. Raises ValueError where there is none."""
        if self.masking is None:
            raise ValueError("there is no picture to put the subject into; add one, or take an example")
        if self._source is None:
            self._source = self._kept("source", self.masking.picture)
        return self._source

    def keep_mask(self) -> Path | None:
        """The mask's file, as it stands; None where there is none."""
        mask = self.masking.mask if self.masking else None
        if mask is None:
            return None
        if self._mask is None or self._mask[0] is not mask:
            self._mask = mask, self._kept("mask", mask)
        return self._mask[1]

    def keep_pictures(self, pictures: Sequence[Image.Image]) -> Path:
        """Write the references into a folder of their own."""
        home = self.folder.new_folder("references")
        write_together({home / f"{i}.png": picture for i, picture in enumerate(pictures, 1)})
        return home

    def begin(self, job: Job) -> None:
        """Take on a job. Raises ValueError, and stops it, while the tab's last one goes on."""
        if self.job is not None and not self.job.ended.is_set():
            job.stop()
            raise ValueError(f"this tab is busy ({self.job.name}); wait for it, or press Stop")
        self.job = job

    def stop(self) -> None:
        """Stop what goes on, if anything does."""
        if self.job is not None:
            self.job.stop()

    def _kept(self, stem: str, picture: Image.Image) -> Path:
        path = self.folder.new(stem, ".png")
        write_together({path: picture})
        return path
