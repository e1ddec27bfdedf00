"""What the tests of the commands share: pictures, argument lists, and what a refusal looks like."""

import errno
import os
from pathlib import Path

import numpy as np
from PIL import Image

from photoswap.__main__ import main
from weights.atomic import HIDDEN, LOCK

PROMPT = "a photo of a dog on grass"
LEARN = ["--class", "cat", "--steps", "2", "--class-pictures", "2", "--size", "64"]
ALONE = ["--class", "cat", "--steps", "2", "--prior-weight", "0", "--size", "64"]  # without class pictures


def paint(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth colours: a small random picture, enlarged."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def refused(capsys, *arguments: object) -> str:
    """Run a command that must end in one sentence and exit code 2; returns the sentence."""
    assert main([str(a) for a in arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("photoswap: ") and told.err.count("\n") == 1
    assert "Traceback" not in told.err
    return told.err


def files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def swap_arguments(source, tiny, out, *more: object) -> list:
    return ["swap", source, "--prompt", PROMPT, "--subject", "dog", "--target", "cat", *more, *tiny, "--out", out]


class FullDisk:
    """fsync that fails at the nth call, as it does where space is only taken when the file is flushed."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, handle: int) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def leave_behind(*folders: Path) -> None:
    """What a process leaves in a folder that is killed just after its file has moved into place."""
    for folder in folders:
        left = folder / f".left.1{HIDDEN}"
        left.mkdir()
        (left / LOCK).touch()
