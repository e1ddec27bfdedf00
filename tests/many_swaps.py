"""Many swaps in one process: `python -m tests.many_swaps --count 200`. Memory must stay flat.

Swaps go round through methods and inversions, by the function and by the command, which loads the model each time.
After a warm-up the process may hold no more tensors, no more open files, and hardly more memory, however many follow.
"""

import argparse
import contextlib
import ctypes
import gc
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
import torch
from command_line import PROMPT, paint
from PIL import Image
from tiny_model import write_tiny_model
from tqdm import tqdm

from photoswap import METHODS, invert, load, swap
from photoswap.__main__ import main
from photoswap.inversions import INVERSIONS

TARGET = PROMPT.replace("dog", "cat")
STEPS = 4
ALLOWED = 4.0  # MB that a process may grow by, of the allocator's own; one leaked swap of the tiny model is 0.5 MB


class Held(NamedTuple):
    """What the process holds: tensors, open files, and MB of memory that are its own."""

    tensors: int
    files: int
    memory: float


def held() -> Held:
    """Measured once everything that can go has gone."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return Held(tensors, len(os.listdir("/proc/self/fd")), (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 1e6)


def swaps(home: Path, methods: Sequence[str] = (), inversions: Sequence[str] = tuple(INVERSIONS)) -> Iterator[str]:
    """Swaps without end, one at a time; yields what each was. methods: by default all that want no more than this."""
    model_file = write_tiny_model(home / "model.safetensors")
    paint((90, 80), 3).save(home / "photo.png")
    source, mask = Image.open(home / "photo.png").convert("RGB"), Image.new("L", (90, 80), 255)
    model, size = load(model_file), (64, 64)
    inverted = {name: invert(model, source, PROMPT, name, STEPS, size=size) for name in inversions}
    chosen = methods or [name for name, method in METHODS.items() if not method.wants and method.inverts]
    words = ["swap", str(home / "photo.png"), "--prompt", PROMPT, "--subject", "dog", "--target", "cat", "--quiet"]
    words += ["--model", str(model_file), "--steps", str(STEPS), "--size", "64", "--device", "cpu", "--overwrite"]
    words += ["--out", str(home / "out")]
    while True:
        for name in chosen:
            for inversion in inverted:
                method = METHODS[name].scaled(STEPS)
                with contextlib.suppress(ValueError):  # a pair that does not go together, and is refused
                    swap(model, inverted[inversion], TARGET, method, source_word="dog", target_word="cat", mask=mask)
                    yield f"{name}, {inversion}"
            with contextlib.redirect_stdout(io.StringIO()):
                if main([*words, "--method", name]) == 0:
                    yield f"{name} by the command"


def growth(endless: Iterator[str], count: int, warm_up: int, progress: bool = False) -> tuple[Held, Held]:
    """What is held after the warm-up, and after so many swaps more."""
    for _ in range(warm_up):
        next(endless)
    before = held()
    for _ in tqdm(range(count), "swaps", disable=not progress):
        next(endless)
    return before, held()


def flat(before: Held, after: Held) -> bool:
    """Whether nothing was kept."""
    more = after.memory - before.memory
    return after.tensors <= before.tensors and after.files <= before.files and more < ALLOWED


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tests.many_swaps", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--warm-up", type=int, default=60, help="swaps before the measuring begins")
    parser.add_argument("--methods", nargs="+", default=(), choices=METHODS, help="default: all that want no more")
    parser.add_argument("--inversions", nargs="+", default=tuple(INVERSIONS), choices=INVERSIONS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before, after = growth(
            swaps(Path(folder), arguments.methods, arguments.inversions),
            arguments.count,
            arguments.warm_up,
            progress=True,
        )
    print(f"after {arguments.warm_up} swaps {before.memory:.1f} MB, {before.tensors} tensors, {before.files} files")
    print(f"after {arguments.count} more {after.memory:.1f} MB, {after.tensors} tensors, {after.files} files")
    sys.exit(not flat(before, after))
