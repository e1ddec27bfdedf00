"""Command lines with something wrong, as many as one likes: `python -m tests.fuzz --count 2000 --seed 0`.

Each is a good line, spoiled in one to three places: strange values, damaged or mistaken files, places where nothing can
be written, flags left out, said twice or unknown. Whatever comes of it, it must be success or one sentence of bounded
length, within seconds; what was read stays as it was, and a refusal leaves every file and folder as it was.

A line is a function of the seed and its number, so `--seed 0 --first 519 --count 1` shows the one numbered 519 again.
"""

import argparse
import contextlib
import functools
import io
import json
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import torch
from command_line import paint
from safetensors.torch import save_file
from spoiled import contents, put, spoiled_bytes, spoiled_tensors, spoiled_texts
from tiny_model import tiny_painter, write_tiny_model

from photoswap.__main__ import build_parser, main
from weights.load import save

LONGEST, SECONDS = 650, 60
PROMPT = "a photo of a dog on grass"
SWAP = ["--prompt", PROMPT, "--subject", "dog", "--target", "cat", "--steps", "2"]
MODEL = ["--model", "model.safetensors", "--device", "cpu", "--quiet"]
PAINTER = ["--size", "64", "--model", "painter.safetensors", "--device", "cpu", "--quiet"]
LEARN = ["--class", "cat", "--steps", "1", "--size", "64"]
LINES = {
    "sweep": ["photo.png", *SWAP, "--phi", "0,1", "--size", "64", *MODEL, "--out", "new"],
    "attention": ["photo.png", "--prompt", PROMPT, "--steps", "1", "--size", "64", *MODEL, "--out", "new"],
    "generate": ["a photo of a cat", "--steps", "1", "--size", "64", *MODEL, "--out", "new/a.png"],
    "invert": ["photo.png", "--prompt", PROMPT, "--steps", "1", "--size", "64", *MODEL, "--out", "new/a.safetensors"],
    "mask": ["photo.png", "--word", "dog", "--size", "64", *MODEL, "--out", "new/a.png"],
    "paint": ["photo.png", "--mask", "mask.png", "--prompt", "a cat", "--steps", "1", *PAINTER, "--out", "new"],
    "swap": ["photo.png", *SWAP, "--size", "64", *MODEL, "--out", "new"],
    "web": ["--model", "model.safetensors", "--device", "cpu", "--out", "new"],
    "learn": ["references", *LEARN, "--prior-weight", "0", *MODEL, "--out", "new"],
    "demo": ["--device", "cpu", "--quiet", "--out", "new/a.png"],
    "evaluate": ["--tasks", "1", "--methods", "plain", *MODEL, "--out", "new"],
    "methods": ["photoswap", "--model", "miniature"],
    "weights": [],
}
SHARES = {"generate": 4, "invert": 4, "mask": 3, "swap": 6, "learn": 3, "demo": 1, "weights": 4}  # the others' is 2
ACTIONS = {
    "list": [],
    "fetch": ["sd21", "--quiet"],
    "verify": ["model.safetensors", "--quiet"],
    "convert": ["model.safetensors", "new.safetensors", "--layout", "ldm"],
}
NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "-0",
    "1.5",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "--",
    "",
    " ",
    "٣",
    "1_0",
    "0x10",
]
NUMBERS += ["9" * 20, "9" * 5000, "1e3", "1,5", "1000001", "true"]
SIZES = ["64", "128x64", "65", "0", "64x", "x", "8x8", "-64", "20032x64", "4096x4096", "64x64x64", "9" * 20, "big"]
TEXTS = [
    "",
    " ",
    "a dog",
    "dog",
    "sks cat",
    "\udcff",
    "\0",
    "é" * 50,
    "x" * 20_000,
    "dog " * 3_000,
    "-",
    "--",
    "😀",
    "a\nb",
    "%s{0}",
]
NAMES = [
    "miniature",
    "sd21",
    "eps",
    "v",
    "tiny",
    "sd21-base",
    "cpu",
    "float16",
    "meta",
    "cuda:63",
    "official",
    "direct",
    "auto",
    "",
    "--",
]
OUTSIDE = ["", "/dev/null", "/dev/full", "/proc/nowhere", "/proc/a.png", "~nosuchuser/a.png", "~", "a\0.png", "x" * 300]
SETTINGS = [
    "phi",
    "M",
    "A",
    "align",
    "blend",
    "steps",
    "guidance_scale",
    "max_queries",
    "counts",
    "x",
    "",
    "--",
    "phi\0",
]
NO_CLASS = ["0", "-0", "-1", "nan", "inf", "1e400", "-inf", "--", "", "9" * 20, "101"]  # else 200 pictures are drawn


def furnish(home: Path) -> None:
    """Good inputs, damaged ones of every kind, files that are something else, and earlier results."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    (home / "references").mkdir()
    for i in range(2):
        paint((80, 70), i).save(home / "references" / f"{i}.png")
    paint((90, 80), 3).save(home / "photo.png")
    paint((90, 80), 3).convert("L").save(home / "mask.png")
    write_tiny_model(home / "model.safetensors")
    write_tiny_model(home / "other.safetensors", seed=1)
    save(tiny_painter(), home / "painter.safetensors")
    with contextlib.redirect_stdout(io.StringIO()):
        for line in (
            ["learn", *LINES["learn"][:-1], "earlier"],
            ["invert", *LINES["invert"][:-1], "inversion.safetensors"],
            ["generate", *LINES["generate"][:-1], "earlier/result.png"],
            ["weights", "convert", "model.safetensors", "folder", "--layout", "folder"],
        ):
            assert main(line) == 0, line
    shutil.copy(home / "earlier" / "concept.safetensors", home / "concept.safetensors")
    for name in ("model.safetensors", "concept.safetensors", "inversion.safetensors"):
        path = home / name
        for i, (_, content) in enumerate(spoiled_bytes(path.read_bytes(), generator, 3)):
            path.with_stem(f"spoiled-{path.stem}-{i}").write_bytes(content)
    for name in ("concept.safetensors", "inversion.safetensors"):
        tensors, data = contents(home / name)
        ill = [*((tensors, text) for _, text in spoiled_texts(data))]
        ill += ((other, json.dumps(data)) for _, other in spoiled_tensors(tensors))
        for i in rng.choice(len(ill), 12, replace=False):
            put(home / f"ill-{i}-{name}", *ill[i])
    photo = (home / "photo.png").read_bytes()
    for i, end in enumerate((20, 60, len(photo) // 2, len(photo) - 20)):
        (home / f"cut-{i}.png").write_bytes(photo[:end])
        (home / f"spoiled-{i}.png").write_bytes(photo[:end] + rng.bytes(8) + photo[end + 8 :])
    save_file({"x": torch.full((2, 2), float("nan"))}, home / "strange.safetensors")
    shutil.copytree(home / "folder", home / "half-a-folder")
    shutil.rmtree(home / "half-a-folder" / "vae")
    for name in ("empty.png", "empty.safetensors", "empty.ckpt", "empty.json"):
        (home / name).touch()
    for name in ("noise.png", "noise.safetensors", "noise.ckpt", "noise.jpg", "noise"):
        (home / name).write_bytes(rng.bytes(3000))
    (home / "notes.txt").write_text("not a picture")
    (home / "text.json").write_text("[" * 5000)
    for name in ("empty-folder", "folder.png", "folder.safetensors"):
        (home / name).mkdir()
    (home / "dangling.png").symlink_to("nowhere")
    (home / "loop.png").symlink_to("loop.png")
    (home / "link.png").symlink_to("photo.png")
    os.link(home / "photo.png", home / "twin.png")
    (home / os.fsdecode(b"\xff\xe9.png")).write_bytes((home / "photo.png").read_bytes())


def snapshot(home: Path) -> dict[str, object]:
    """Everything in the folder: files with size and time, links with where they lead, and folders."""
    found: dict[str, object] = {}
    for root, folders, files in os.walk(home):
        for name in [*folders, *files]:
            path = os.path.join(root, name)
            stat = os.lstat(path)
            content = os.readlink(path) if os.path.islink(path) else (stat.st_size, stat.st_mtime_ns)
            found[os.path.relpath(path, home)] = "folder" if name in folders else content
    return found


class Lines:
    """Spoiled command lines, each a function of the seed and its number."""

    def __init__(self, seed: int, files: list[str]) -> None:
        self.seed, self.files = seed, files
        self.flags = {name: list(_flags(name)) for name in [*LINES, *(f"weights {action}" for action in ACTIONS)]}

    def line(self, number: int) -> list[str]:
        """The command line of this number."""
        rng = random.Random(f"{self.seed} {number}")
        command = rng.choices([*LINES], [SHARES.get(name, 2) for name in LINES])[0]
        words, name, given = [command], command, LINES[command]
        if command == "weights":
            action = rng.choice([*ACTIONS])
            words, name, given = [command, action], f"{command} {action}", ACTIONS[action]
        given = [*given]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            self.spoil(rng, given, self.flags[name])
        return [*words, *given]

    def spoil(self, rng: random.Random, given: list[str], flags: list[argparse.Action]) -> None:
        """Do one thing to a line."""
        kind = rng.random()
        if kind < 0.7 and flags:
            action = rng.choice(flags)
            values = [self.value(rng, action) for _ in range(_count(action))]
            flag = rng.choice(action.option_strings)
            joined = len(values) == 1 and rng.random() < 0.3
            given += [f"{flag}={values[0]}"] if joined else [flag, *values]
        elif kind < 0.85 and given and not given[0].startswith("-"):
            given[0] = rng.choice([*self.files, *TEXTS])
        elif kind < 0.9 and given:
            del given[rng.randrange(len(given))]
        elif kind < 0.95:
            given.insert(rng.randrange(len(given) + 1), rng.choice([*TEXTS, *self.files]))
        else:
            given += [rng.choice(["--nosuchflag", "-x", "--", "--out", "--steps", "--quiet", "--ste=1", "--seed=5=5"])]

    def value(self, rng: random.Random, action: argparse.Action) -> str:
        """A value for a flag: mostly of its kind, sometimes of any."""
        kind = "any" if rng.random() < 0.1 else _kind(action)
        if action.dest == "settings":
            name, value = rng.choice(SETTINGS), rng.choice([*NUMBERS, *TEXTS, "[1, 2]", "[" * 150, "{}", "null", "NaN"])
            return f"{name}={value}"
        if kind == "output":
            places = [
                "new",
                "new/a.png",
                "photo.png/a.png",
                "earlier",
                "earlier/result.png",
                "folder",
                "références.png",
            ]
            return rng.choice([*places, *OUTSIDE, *self.files])
        if action.dest == "prior_weight":
            return rng.choice(NO_CLASS)
        return rng.choice(
            {"number": NUMBERS, "size": SIZES, "file": [*self.files, *OUTSIDE], "text": TEXTS}.get(kind, NAMES)
        )


def _flags(name: str) -> Iterator[argparse.Action]:
    parser: argparse.ArgumentParser = build_parser()
    for word in name.split():
        parser = next(a.choices[word] for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for action in parser._actions:
        if action.option_strings and not {"--help", "--debug"} & {*action.option_strings}:
            yield action


def _count(action: argparse.Action) -> int:
    return 0 if action.nargs == 0 else action.nargs if isinstance(action.nargs, int) else 1


def _kind(action: argparse.Action) -> str:
    words = action.option_strings[0].strip("-")
    if words in ("out", "reconstruction", "class-folder", "cache"):
        return "output"
    if words in ("mask", "masks", "recogniser", "concept", "model", "config"):
        return "file"
    if words in ("prompt", "subject", "target", "target-prompt", "negative", "class", "token", "mask-word"):
        return "text"
    if words == "size":
        return "size"
    return "name" if action.choices or words in ("device", "mirror") else "number"


def judge(line: list[str], home: Path, before: dict[str, object]) -> tuple[int, str | None]:
    """Run a line: its exit code, and what is wrong with how it went, None for nothing."""
    out, err = io.StringIO(), io.StringIO()
    start = time.monotonic()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signal.alarm(SECONDS)
            code = main(line)
    except SystemExit as end:  # --help and --version
        code = int(end.code or 0)
    except BaseException:
        return -1, traceback.format_exc(limit=-4)
    finally:
        signal.alarm(0)
    after, said = snapshot(home), err.getvalue()
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if code not in (0, 2):
        return code, f"exit code {code}"
    if time.monotonic() - start > SECONDS:
        return code, "it took too long"
    if code == 2 and (out.getvalue() or said.count("\n") != 1 or not said.startswith("photoswap: ")):
        return code, f"not one sentence: {out.getvalue()[:300]!r} {said[:300]!r}"
    if any(len(told) > LONGEST or not told.isprintable() for told in said.splitlines()):
        return code, f"a sentence of {max(map(len, said.splitlines()))} characters: {said[:300]!r}"
    if code == 2 and changed:
        return code, f"a refusal changed {sorted(changed)}: {said!r}"
    results = {name for name in changed if name in before and not _meant(name, line)}
    if results:
        return code, f"what it did not make was changed: {sorted(results)}"
    if any(name in before for name in changed) and not {"--overwrite", "--resume"} & {*line}:
        return code, f"overwritten without a word: {sorted(changed)}"
    return code, None


def _meant(name: str, line: list[str]) -> bool:
    """Whether a file that was there may be another now: an earlier result, or named for output and nowhere else."""
    words = [word for given in line for word in given.split("=", 1)]
    outputs = [i for i, word in enumerate(words) if word == name and words[i - 1] in ("--out", "--reconstruction")]
    return name.startswith("earlier") or 0 < len(outputs) == words.count(name)


def fuzz(
    home: Path, count: int, seed: int, first: int = 0, told: Callable[[str], object] = len
) -> tuple[list[str], Counter[int]]:
    """The faults of so many lines, each with its line, and how often there was which exit code.

    told: of each fault at once.
    """
    with workplace(home):
        furnish(home)
        kept = home.with_name(f"{home.name}-kept")
        shutil.copytree(home, kept, symlinks=True)
        before, faults, codes = snapshot(home), [], Counter[int]()
        lines = Lines(seed, sorted(name for name in os.listdir(home)))
        for number in range(first, first + count):
            line = lines.line(number)
            code, fault = judge(line, home, before)
            codes[code] += 1
            if fault:
                again = f"--seed {seed} --first {number} --count 1"
                faults.append(f"{again}: photoswap {shlex.join(line)[:400]}\n    {fault}")
                told(faults[-1])
            if snapshot(home) != before:
                restore(home, kept)
                before = snapshot(home)
        shutil.rmtree(kept)
        return faults, codes


def restore(home: Path, kept: Path) -> None:
    """Put everything back."""
    for path in home.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(kept, home, symlinks=True, dirs_exist_ok=True)
    (home / "twin.png").unlink()
    os.link(home / "photo.png", home / "twin.png")


@contextlib.contextmanager
def workplace(home: Path) -> Iterator[None]:
    """In this folder, which is the user's home too, without a network; a line that hangs is a fault."""

    def hang(*_: object) -> None:
        raise TimeoutError(f"no answer within {SECONDS} seconds")  # an OSError: a sentence, but it took too long

    changes = {"HOME": str(home), "PHOTOSWAP_WEIGHTS": str(home / "cache"), "PHOTOSWAP_OFFLINE": "1"}
    before, place, alarm = {**os.environ}, Path.cwd(), signal.signal(signal.SIGALRM, hang)
    try:
        os.environ.update(changes)
        os.chdir(home)
        yield
    finally:
        os.chdir(place)
        os.environ.clear()
        os.environ.update(before)
        signal.signal(signal.SIGALRM, alarm)


def without_the_demo(model: object, out: Path, **_: object) -> None:
    """In place of the demo's minutes: its grid."""
    paint((8, 8), 0).save(out)


def without_a_page(arguments: argparse.Namespace, ready: object = None) -> None:
    """In place of a page that is served for ever."""


def without_the_benchmark(benchmark: Any, shard: object, **_: object) -> Iterator[str]:
    """In place of the benchmark's minutes: a table."""
    benchmark.out.mkdir(parents=True, exist_ok=True)
    (benchmark.out / "table.md").write_text("a table")
    yield "a table"


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first line, to see one again")
    arguments = parser.parse_args()
    import photoswap.benchmark.report
    import photoswap.demo
    import photoswap.web.server

    photoswap.demo.run_demo = without_the_demo
    photoswap.web.server.serve = without_a_page
    photoswap.benchmark.report.run_and_report = without_the_benchmark
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "home").mkdir()
        show = functools.partial(print, flush=True, file=sys.__stdout__)
        faults, codes = fuzz(Path(folder) / "home", arguments.count, arguments.seed, arguments.first, show)
    print(f"{len(faults)} faults; exit codes {dict(codes)}; seed {arguments.seed}")
    sys.exit(bool(faults))
