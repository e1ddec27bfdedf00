"""One swap at every point of a grid of settings: the paper's figures 8 and 9 (Photoswap, arXiv:2305.18286).

Runs that begin alike share the work (`photoswap.side_by_side`): lambdas only say until which step something is
injected, so the runs of a grid are a tree over steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from models.images import grid
from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.scores import inside, outside, palette_match, psnr, ssim
from photoswap.benchmark.tasks import Task
from photoswap.pipeline import SwapRequest, SwapResult, rows_alone, swap_all
from photoswap.side_by_side import Moment

RUNS_AT_ONCE = 16  # runs in one tree, which bounds its memory: two rows a run at the end
MOST_CELLS = 400
# What curves show: of the scores, these, each with its axis.
SCORES = {
    "background": "background kept, dB",
    "subject": "subject to the truth, dB",
    "subject ssim": "subject to the truth, SSIM",
    "palette": "subject's colours",
}


@dataclass(frozen=True, eq=False)
class Cell:
    """One point of the grid: what was set there, and the swap."""

    settings: dict[str, Any]
    result: SwapResult

    def label(self, names: Sequence[str]) -> str:
        """What some settings are here: "phi 5, M 10"."""
        return ", ".join(f"{name} {self.settings[name]}" for name in names)


@dataclass(frozen=True, eq=False)
class Sweep:
    """All cells, the last setting changing fastest; the rows of the network they took, and what they take apart.

    varied: the values of each setting; those with one value come first.
    """

    varied: dict[str, tuple[Any, ...]]
    cells: tuple[Cell, ...]
    row_calls: int
    row_calls_apart: int

    @property
    def names(self) -> list[str]:
        """The settings with several values, or all where there is none."""
        return [name for name, values in self.varied.items() if len(values) > 1] or list(self.varied)


def points(varied: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values. Raises ValueError for none, and for too many to be meant."""
    if not varied or not all(varied.values()):
        raise ValueError("nothing varies: give a setting several values, such as phi 0, 5 and 10")
    found = [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]
    if len(found) > MOST_CELLS:
        raise ValueError(f"{len(found)} combinations are asked for; want at most {MOST_CELLS}: give fewer values")
    return found


def sweep(
    model: StableDiffusion,
    request: SwapRequest,
    varied: Mapping[str, Sequence[Any]],
    *,
    at_once: int = RUNS_AT_ONCE,
    progress: bool = False,
    on_moment: Callable[[Moment], None] | None = None,
) -> Sweep:
    """Swap at every combination of the values of some settings of the request's method.

    at_once: runs in one tree; more share more and want more memory. progress, on_moment: as in `swap_all`, once for
    each tree. Every result is that of its settings alone but for rounding. Raises ValueError for a request without a
    method, and for settings that the method refuses.
    """
    if request.method is None:
        raise ValueError("the request names no method whose settings could vary: give it one")
    varied = dict(sorted(varied.items(), key=lambda item: len(item[1]) > 1))
    cells = points(varied)
    requests = [replace(request, method=replace(request.method, **settings)) for settings in cells]
    results, rows = [], 0
    for first in range(0, len(requests), at_once):
        done = swap_all(model, requests[first : first + at_once], progress=progress, on_moment=on_moment)
        rows += done[0].settings["row_calls"]
        results += done
    apart = sum(rows_alone(model, one) for one in requests)
    made = tuple(Cell(settings, result) for settings, result in zip(cells, results, strict=True))
    return Sweep({name: tuple(values) for name, values in varied.items()}, made, rows, apart)


def scores_of(task: Task, result: Image.Image) -> dict[str, float]:
    """How near a swap of the task's first subject comes to the truth; the background, to the source."""
    ground, body = outside([task.source.mask, task.truth.mask]), inside(task.truth.mask)
    return {
        "background": psnr(result, task.source.image, ground),
        "subject": psnr(result, task.truth.image, body),
        "subject ssim": ssim(result, task.truth.image, body),
        "palette": palette_match(result, task.truth.image, body),
    }


def sweep_grid(found: Sweep, source: Image.Image, truth: Image.Image | None = None, side: int = 160) -> Image.Image:
    """A row for each value of all settings but the last, which runs along it; source first, truth last."""
    columns = len(list(found.varied.values())[-1])
    images: list[Image.Image] = []
    labels: list[str] = []
    for first in range(0, len(found.cells), columns):
        row = found.cells[first : first + columns]
        images += [source, *(cell.result.result for cell in row), *([truth] if truth else [])]
        told = (cell.label(found.names).replace(", ", "\n") for cell in row)
        labels += ["source", *told, *(["truth"] if truth else [])]
    small = [image.convert("RGB").resize(_fitted(image.size, side), Image.Resampling.LANCZOS) for image in images]
    return grid(small, labels, columns=columns + 1 + (truth is not None))


def lines(found: Sweep, scores: Sequence[Mapping[str, float]], score: str) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """The curves of one score: over which setting, and the values along it for each combination of the others.

    Over the setting with most values; of settings with one value nothing is said. Infinite scores are NaN.
    """
    axis = max(found.varied, key=lambda name: len(found.varied[name]))
    others = [name for name in found.names if name != axis]
    curves: dict[str, tuple[list[Any], list[float]]] = {}
    for cell, one in zip(found.cells, scores, strict=True):
        x, y = curves.setdefault(cell.label(others), ([], []))
        x.append(cell.settings[axis])
        y.append(one[score] if np.isfinite(one[score]) else float("nan"))
    return axis, dict(curves)


def draw_curves(found: Sweep, scores: Sequence[Mapping[str, float]]) -> Any:
    """All scores over the setting with most values, a matplotlib figure. Raises ValueError where that is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("curves want matplotlib: pip install 'photoswap[plots]'") from None
    figure = Figure(figsize=(3.2 * len(SCORES), 3), layout="constrained", dpi=100)
    for place, (score, title) in zip(figure.subplots(1, len(SCORES)), SCORES.items(), strict=True):
        axis, curves = lines(found, scores, score)
        for name, (x, y) in curves.items():
            place.plot([str(value) if isinstance(value, str | bool) else value for value in x], y, "o-", label=name)
        place.set_xlabel(axis)
        place.set_title(title, fontsize="medium")
        if len(curves) > 1:
            place.legend(fontsize="x-small")
    return figure


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
