"""What tests/kills.py begins and ends at random moments: every long job, small, and the files that they read."""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from command_line import PROMPT, paint
from test_paint_training import small_config
from tiny_model import tiny_config, tiny_model, write_tiny_model

import train.miniature.autoencoder
import train.miniature.data
import train.miniature.diffusion
import train.paint.__main__
import train.paint.kept
import train.recogniser.learn
from models.vae import Autoencoder
from photoswap.__main__ import main
from train.miniature.data import SHARES, draw_chunk
from train.paint import start_from
from weights.load import save

CHUNK = 4  # pictures
TINY = ["--model", "model.safetensors", "--device", "cpu", "--quiet"]
SWAP = ["--prompt", PROMPT, "--subject", "dog", "--target", "cat"]
LEARN = ["--class", "cat", "--steps", "4", "--class-pictures", "2", "--size", "64", "--checkpoint-every", "1"]
PAINT = ["paint", "photo.png", "--box", "10", "10", "60", "50", "--reference", "references/0.png", "--steps", "2"]
PAINT += ["--model", "painter.safetensors", "--device", "cpu", "--quiet", "--out", "out"]
PAINTER = ["--painter", "painter.safetensors", "--device", "cpu", "--out", "out", "--steps", "3", "--warm", "2"]
PAINTER += ["--batch", "2", "--kept", "5", "--size", "64", "--save-every", "1"]
EVALUATE = ["evaluate", "--tasks", "2", "--steps", "1", "--methods", "reference-attention", "--masks", "true", *TINY]
EVALUATE += ["--out", "out", "--shard"]


class Job(NamedTuple):
    """Something that takes a while and leaves files.

    run: does it, in the current folder, for these words. words: the command line. again: what to add where an earlier
    run left something, None where that was all.
    """

    name: str
    run: Callable[[list[str]], object]
    words: list[str]
    again: Callable[[Path], list[str] | None]


def overwrite(*names: str) -> Callable[[Path], list[str] | None]:
    """Say --overwrite where one of these is there."""
    return lambda home: ["--overwrite"] if any((home / name).exists() for name in names) else []


def resume_learning(home: Path) -> list[str] | None:
    """Go on from a checkpoint; else begin anew."""
    if (home / "out" / "checkpoint.safetensors").exists():
        return ["--resume"]
    return overwrite("out/concept.safetensors", "out/samples")(home)


def resume_painting(home: Path) -> list[str]:
    """Go on from a checkpoint; else begin anew."""
    return ["--resume"] if (home / "out" / "checkpoint.pt").exists() else []


def only_once(name: str) -> Callable[[Path], list[str] | None]:
    """A folder that is there is all of it, and the command refuses to write into it."""
    return lambda home: None if (home / name).exists() else []


def module(name: str, **changes: object) -> Callable[[list[str]], object]:
    """Run `python -m name` with some of its names changed, to be small and to save after every step."""

    def run(words: list[str]) -> None:
        sys.argv = [name, *words]
        place = sys.modules[name]
        for key, value in changes.items():
            setattr(place, key, value)
        place.main()

    return run


def train_a_painter(words: list[str]) -> None:
    """Two rows a file, so that there are files to lose."""
    train.paint.kept.ROWS_IN_A_FILE = 2
    module("train.paint.__main__")(words)


def evaluate_in_shards(words: list[str]) -> int:
    """One shard, then the other, on a clock that stands still: tables have seconds."""
    time.perf_counter = lambda: 0.0
    return max(main([*words, shard]) for shard in ("0/2", "1/2"))


def jobs() -> list[Job]:
    """All of them, small."""
    saving = functools.partial(train.miniature.loop.Trainer, save_every=0.0)
    small = {"MINIATURE": tiny_config(), "Trainer": saving}
    no_words = lambda *_: ""  # noqa: E731
    held_out = functools.partial(train.miniature.diffusion.HeldOut, count=2)
    data, vae, diffusion, recogniser = (
        module("train.miniature.data", CHUNK_SIZE=CHUNK),
        module("train.miniature.autoencoder", judged=no_words, whiten=lambda *_: None, **small),
        module("train.miniature.diffusion", HeldOut=held_out, **small),
        module("train.recogniser.learn", Trainer=saving, accuracies=no_words),
    )
    folders = ["--data", "data", "--device", "cpu", "--steps", "3", "--batch"]
    invert = ["invert", "photo.png", "--prompt", PROMPT, "--steps", "3", "--reconstruction", "out/again.png", *TINY]
    swap = ["swap", "photo.png", *SWAP, "--steps", "3", *TINY, "--out", "out"]
    convert = ["weights", "convert", "model.safetensors"]
    nothing: Callable[[Path], list[str] | None] = lambda home: []  # noqa: E731
    weights = ["--out", "runs", "--weights", "out/recogniser.safetensors"]
    return [
        Job(
            "learn",
            main,
            ["learn", "references", *LEARN, "--sample-every", "2", *TINY, "--out", "out"],
            resume_learning,
        ),
        Job("swap", main, swap, overwrite("out/result.png", "out/grid.png", "out/swap.json")),
        Job("train the diffusion", diffusion, [*folders, "2", "--autoencoder", "vae.pt", "--out", "out"], nothing),
        Job("draw the data", data, ["--out", "out", "--count", "12", "--workers", "1"], nothing),
        Job("convert to a folder", main, [*convert, "out", "--layout", "folder"], only_once("out")),
        Job("invert", main, [*invert, "--out", "out/a.safetensors"], overwrite("out/a.safetensors", "out/again.png")),
        Job("convert", main, [*convert, "out/a.safetensors", "--layout", "ldm"], overwrite("out/a.safetensors")),
        Job("train the autoencoder", vae, [*folders, "4", "--out", "out"], nothing),
        Job("train the recogniser", recogniser, [*folders, "2", *weights], nothing),
        Job("train a painter", train_a_painter, PAINTER, resume_painting),
        Job("evaluate", evaluate_in_shards, EVALUATE, nothing),
        Job("paint", main, PAINT, overwrite("out/result.png", "out/grid.png", "out/paint.json")),
    ]


def furnish(home: Path) -> None:
    """What the jobs read."""
    (home / "references").mkdir(parents=True)
    for i in range(2):
        paint((80, 70), i).save(home / "references" / f"{i}.png")
    paint((90, 80), 3).save(home / "photo.png")
    write_tiny_model(home / "model.safetensors")
    torch.manual_seed(0)
    torch.save(Autoencoder(tiny_config().vae).state_dict(), home / "vae.pt")
    save(start_from(tiny_model(), small_config(), seed=1), home / "painter.safetensors")
    with mock.patch.object(train.miniature.data, "CHUNK_SIZE", CHUNK):
        for number in range(2):
            draw_chunk(("small", 0, SHARES, False, number, home / "data"))
