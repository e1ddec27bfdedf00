"""How many threads a model's work is worth on a CPU.

A layer's work is split over a team of threads that wait for each other at its end, hundreds of times in a call of the
network. Where the layers are small a team brings little; and where other programs want the cores too, one of its
threads always waits for its turn and all others wait for that one, so that a call may take a hundred times as long.
Measured by `python -m tests.benchmarks.threads`; docs/scale.md has the table.

The number goes by the model and the cores that there are, never by how busy they are: what a run computes, to the last
bit, may depend on it.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from models.config import AnyConfig
from models.stable_diffusion import LatentDiffusion

Function = TypeVar("Function", bound=Callable[..., Any])
WORTH_A_TEAM = 2e9  # operations; the miniature has 5e6, SD 2.1 has 8e9, and at 3e8 a team still breaks down
CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by whom starts the program
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container, in Linux's control groups: microseconds, of how many


def layer_work(config: AnyConfig) -> float:
    """Operations of one 3 x 3 convolution of the U-Net's first level, for one row of the model's own size.

    The layers of the deeper levels have about as many: twice the channels, a quarter of the places.
    """
    side = config.native_size // config.vae.factor
    return 18.0 * config.unet.channels**2 * side**2


def suited(model: LatentDiffusion, present: int) -> int:
    """The number of threads that this model's work is worth: one, or all that may run, where torch has `present`.

    Where somebody has chosen a number it is that one: by OMP_NUM_THREADS or MKL_NUM_THREADS, or by a call of
    torch.set_num_threads with another number than torch takes by itself (the same one cannot be told from none).
    On another device than the CPU it is torch's too.
    """
    chosen = any(name in os.environ for name in CHOSEN_BY) or present not in usual_numbers()
    if chosen or model.device.type != "cpu":
        return present
    return 1 if layer_work(model.config) < WORTH_A_TEAM else cores_allowed(present)


def spare_cores(model: LatentDiffusion) -> int:
    """How many cores are idle while this model is computed with by one thread, where that is all it is worth.

    None where somebody has chosen a number of threads, where the work is worth a team, and on another device.
    """
    with _SCOPES.lock:
        present = _SCOPES.outside if _SCOPES.open else torch.get_num_threads()
    return cores_allowed(present) - 1 if suited(model, present) == 1 < present else 0


def usual_numbers() -> set[int]:
    """What torch takes where nobody chooses: the cores that the process may run on, or its hardware threads."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    places = [Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in allowed]
    return {len(allowed), len({place.read_text() if place.exists() else str(place) for place in places})}


def cores_allowed(most: int) -> int:
    """How many cores the process' container may keep busy, where it is limited, and at most this many."""
    try:
        quota, period = QUOTA.read_text().split()
        return min(most, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # not in a container, or "max", which is no limit
        return most


class _Scopes:
    """The scopes open in this process: torch's number outside them all, and how deep each thread is in its own."""

    def __init__(self) -> None:
        self.lock, self.open, self.outside = threading.Lock(), 0, 1
        self.here = threading.local()


_SCOPES = _Scopes()


@contextmanager
def suited_threads(model: LatentDiffusion) -> Iterator[None]:
    """Compute with as many threads as suit this model, and put back afterwards what was there.

    Several threads may be within scopes of their own at once; one that enters while another is within does not take
    that one's number for torch's. Scopes within a scope go by their own model.
    """
    depth = getattr(_SCOPES.here, "depth", 0)
    with _SCOPES.lock:
        if _SCOPES.open == 0:
            _SCOPES.outside = torch.get_num_threads()
        before = torch.get_num_threads() if depth else _SCOPES.outside
        _SCOPES.open += 1
        _take(suited(model, _SCOPES.outside))
    _SCOPES.here.depth = depth + 1
    try:
        yield
    finally:
        _SCOPES.here.depth = depth
        with _SCOPES.lock:
            _SCOPES.open -= 1
            _take(before)


def _take(number: int) -> None:
    if torch.get_num_threads() != number:  # each change empties the caches of torch's kernels
        torch.set_num_threads(number)


def in_suited_threads(function: Function) -> Function:
    """Have a function, whose first argument is the model, run within `suited_threads` of it."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with suited_threads(args[0] if args else kwargs["model"]):
            return function(*args, **kwargs)

    return cast(Function, run)
