"""How two sides are compared: in one process, alternating, several rounds, medians and their spread; and peaks."""

import cProfile
import pstats
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

Job = Callable[[], Any]


@dataclass(frozen=True)
class Figure:
    """One line of the table. low, high: the smallest and largest of the rounds. most: what it may at most be."""

    part: str
    what: str
    value: float
    unit: str = "x"
    low: float | None = None
    high: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        return self.most is None or self.value <= self.most

    def cells(self) -> list[str]:
        spread = "" if self.low is None or self.high is None else f"{_short(self.low)} to {_short(self.high)}"
        bound = "" if self.most is None else f"{_short(self.most)}{'' if self.holds else ' MISSED'}"
        return [self.what, f"{_short(self.value)} {self.unit}", spread, bound]

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class Clock:
    """Seconds of a job: on the wall, or of this process on the processor, which a busy neighbour disturbs less."""

    def __init__(self, kind: str = "wall") -> None:
        self.now = {"wall": time.perf_counter, "cpu": time.process_time}[kind]

    def of(self, job: Job) -> float:
        start = self.now()
        job()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self.now() - start

    def ratios(self, jobs: Sequence[Job], base: Job, rounds: int) -> list[tuple[float, float, float]]:
        """Each job over the base: (median, smallest, largest) of the rounds, in each of which every side runs once.

        One round more comes first and is not counted: it is where files are read and kernels chosen.
        """
        found: list[list[float]] = [[] for _ in jobs]
        for counted in (False, *[True] * rounds):
            below = self.of(base)
            for job, ratios in zip(jobs, found, strict=True):
                ratio = self.of(job) / below
                if counted:
                    ratios.append(ratio)
        return [(statistics.median(each), min(each), max(each)) for each in found]

    def seconds(self, job: Job, rounds: int) -> tuple[float, float, float]:
        """(median, smallest, largest) of the rounds, after one that is not counted."""
        job()
        found = [self.of(job) for _ in range(rounds)]
        return statistics.median(found), min(found), max(found)


def shares(job: Job, functions: Sequence[Callable[..., Any]]) -> list[float]:
    """Which share of a job's time goes into each of these functions, and what they call."""
    profile = cProfile.Profile()
    profile.runcall(job)
    spent = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    codes = [function.__code__ for function in functions]
    keys = [(code.co_filename, code.co_firstlineno, code.co_name) for code in codes]
    whole = max(entry[3] for entry in spent.values())
    return [spent[key][3] / whole if key in spent else 0.0 for key in keys]


def peak_bytes(job: Job) -> int:
    """By how many bytes tensors rise, at their highest, above what there was before, on the CPU or the GPU.

    Every allocation and release of torch's own allocator is counted; the working memory of the libraries below is not.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        job()
    held = highest = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _short(value: float) -> str:
    if value != 0 and abs(value) < 1e-2:
        return f"{value:.1e}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
