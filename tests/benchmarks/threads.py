"""Threads on a machine alone, and beside busy neighbours: what each setting costs.

    python -m tests.benchmarks.threads [--neighbours 0 1 2 4] [--rounds 5] [--tasks sample swap learn large] [--first]

A process for each setting works at the same tasks in turn, beside so many processes that do nothing but compute, one
thread each. Printed are the median seconds, and their ratio to a fair share: the best setting's time alone where a
core is left for everyone, else that times (neighbours + 1) / cores. Other programs disturb the numbers; --first (Linux,
as root) has the scheduler give all of this precedence over them.

sample: 20 guided steps of the miniature. swap: Photoswap in 20 steps on it. learn: 3 steps of DreamBooth on it, of 8
rows. large: one row through a small U-Net whose layers have the work of SD 2.1's, 320 channels at 64 x 64.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MINE = "as it is"
SETTINGS: Mapping[str, Mapping[str, str]] = {
    MINE: {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "all cores": {"OMP_NUM_THREADS": str(CORES)},
    "all, passive": {"OMP_NUM_THREADS": str(CORES), "OMP_WAIT_POLICY": "passive"},
}
CHOICES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
ALONE, SHARED = 1.25, 2.5  # the most that the default may take: of the best setting alone, of a fair share
AUTOGROUP = Path("/proc/self/autogroup")
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # goes with whoever started it
Table = Mapping[tuple[str, int, str], float]


def tasks() -> dict[str, Callable[[], object]]:
    """The tasks by name; what they need is made at once."""
    import torch
    from PIL import Image

    import photoswap
    from models.threads import suited_threads
    from models.unet import UNet
    from train.learn import learn

    model = photoswap.load("miniature")
    source = photoswap.invert(model, Image.new("RGB", (128, 128), "green"), "a photo of a dog", steps=20)
    method = photoswap.Photoswap.scaled(20)
    config = photoswap.dreambooth_config("miniature", "cat", steps=3, prior_weight=0, batch=8)
    pictures = [Image.new("RGB", (128, 128), colour) for colour in ("green", "red", "blue")]

    wide = replace(model.config.unet, channels=320, multipliers=(1, 1, 1, 1), res_blocks=1, head_channels=64)
    with torch.device("meta"):
        unet = UNet(wide)
    unet = unet.to_empty(device="cpu").requires_grad_(False).eval()
    for parameter in unet.parameters():
        parameter.normal_(std=0.02)
    large = replace(model, unet=unet, config=replace(model.config, unet=wide, native_size=512))

    def wide_call() -> None:
        with suited_threads(large), torch.no_grad():
            unet(torch.ones(1, 4, 64, 64), 500, torch.ones(1, 77, wide.context_channels))

    return {
        "sample": lambda: photoswap.generate_latents(model, "a photo of a dog", 0, 20, 3.0),
        "swap": lambda: photoswap.swap(model, source, "a photo of a cat", method),
        "learn": lambda: learn(model, pictures, config, progress=False),
        "large": wide_call,
    }


def work() -> None:
    """Do the tasks that come on standard input, one a line; answer with the seconds that each took."""
    known = tasks()
    for task in known.values():
        task()  # what is made once is not measured
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        known[line.strip()]()
        print(json.dumps(time.perf_counter() - start), flush=True)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    time.sleep(0.3)
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


class Worker:
    """A process of one setting."""

    def __init__(self, setting: Mapping[str, str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in CHOICES} | dict(setting)
        command = [sys.executable, "-m", "tests.benchmarks.threads", "--work"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def __enter__(self) -> "Worker":
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"
        return self

    def seconds(self, task: str) -> float:
        """Have it do a task."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{task}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def measure(names: Sequence[str], beside: Sequence[int], rounds: int) -> Table:
    """Median seconds by task, neighbours and setting; the settings take turns."""
    found: dict[tuple[str, int, str], list[float]] = {}
    with ExitStack() as stack:
        workers = {name: Worker(setting) for name, setting in SETTINGS.items()}
        for worker in workers.values():
            stack.enter_context(worker)
        for i in range(rounds):
            for count in beside:
                with neighbours(count):
                    for task in names:
                        for name, worker in workers.items():
                            found.setdefault((task, count, name), []).append(worker.seconds(task))
                print(f"round {i + 1} of {rounds}, beside {count}", file=sys.stderr, flush=True)
    return {key: statistics.median(values) for key, values in found.items()}


def fair(table: Table, task: str, count: int) -> float:
    """Seconds that the best setting alone would take with its share of the cores."""
    return min(table[task, 0, name] for name in SETTINGS) * max(1.0, (count + 1) / CORES)


def report(table: Table, names: Sequence[str], beside: Sequence[int]) -> tuple[str, bool]:
    """The table in Markdown, and whether the default is never far from the best."""
    heads = ["task", "threads", *("alone" if n == 0 else f"beside {n}" for n in beside)]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    good = True
    for task in names:
        for name in SETTINGS:
            cells = []
            for count in beside:
                seconds = table[task, count, name]
                ratio = seconds / fair(table, task, count)
                cells.append(f"{seconds:.2f} s ({ratio:.2f})")
                good &= name != MINE or ratio <= (SHARED if count else ALONE)
            lines.append(f"| {' | '.join([task, name, *cells])} |")
    return "\n".join(lines), good


def run_first(arguments: Sequence[str]) -> int:
    """Run this in a session that the scheduler prefers to every other program's."""
    command = [sys.executable, "-m", "tests.benchmarks.threads", *arguments]
    return subprocess.call(command, start_new_session=True, preexec_fn=lambda: AUTOGROUP.write_text("-20"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", default=["sample", "swap", "learn", "large"])
    parser.add_argument("--first", action="store_true", help="ahead of every other program")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return 0
    if arguments.first:
        return run_first([argument for argument in sys.argv[1:] if argument != "--first"])
    beside = sorted({0, *arguments.neighbours})
    told, good = report(measure(arguments.tasks, beside, arguments.rounds), arguments.tasks, beside)
    print(f"{CORES} cores; medians of {arguments.rounds}; in brackets the ratio to a fair share\n\n{told}\n")
    print(f"'{MINE}' within {ALONE} of the best alone and {SHARED} of a fair share beside others: {good}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
