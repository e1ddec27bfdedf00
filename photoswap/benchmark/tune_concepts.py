"""Find settings of each way of learning on the development stream: python -m photoswap.benchmark.tune_concepts

As `python -m photoswap.benchmark.tune` does for methods: one setting after another is tried at a few values
(LEARNING_GRIDS), beginning with the model's preset (train/presets.py), and the best kept, by the mean PSNR of the whole
picture to the truth. Every trial learns the subjects of the tasks and swaps them in by Photoswap as published. What is
found goes into photoswap/benchmark/tuned.json; a preset is then changed by hand.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from photoswap.benchmark.entries import Entry
from photoswap.benchmark.run import Benchmark
from photoswap.benchmark.tune import SettingsGrid, climb, keep_best, run_tuning, task_scores, tuning_parser
from photoswap.benchmark.workbench import Workbench

LEARNING_GRIDS: dict[str, SettingsGrid] = {
    "dreambooth": {"learning_rate": (1.5e-4, 6e-4), "text_learning_rate": (4.5e-4, 1.8e-3)},
    "lora": {"rate_schedule": ("linear",), "learning_rate": (5e-4, 2e-3), "prior_weight": (0.0,)},
    "textual-inversion": {"rate_schedule": ("linear",), "learning_rate": (5e-3, 2e-2)},
    "custom-diffusion": {"rate_schedule": ("linear",), "learning_rate": (5e-4, 2e-3)},
}


def swap_scores(benchmark: Benchmark, way: str, changes: dict[str, Any], progress: bool = True) -> list[float]:
    """The aim of each task, its subject learnt by that way with changes to the preset."""
    plan = replace(benchmark.plan, entries=(Entry("photoswap", concept=way),))
    shelf = replace(benchmark.shelf, changes={**benchmark.shelf.changes, **changes})
    told = "+".join([way, *(f"{name}={value}" for name, value in changes.items())])
    run = replace(benchmark, plan=plan, shelf=shelf, out=benchmark.out / told)
    return task_scores(run, lambda index: Workbench(run.base, shelf, plan, run.task(index)), told, progress)


def tune_ways(benchmark: Benchmark, ways: Sequence[str], file: Path) -> None:
    """Tune the ways of learning one by one; the file is written after each."""
    for way in ways:
        trials = climb(LEARNING_GRIDS[way], partial(swap_scores, benchmark, way))
        keep_best(way, "concepts", trials, benchmark, file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune; 0, or after one sentence 2 for what cannot be done and 130 when interrupted."""
    parser = tuning_parser(__doc__, tuple(LEARNING_GRIDS), "concepts")
    return run_tuning(parser, lambda args, one: tune_ways(one, args.concepts, args.file), arguments)


if __name__ == "__main__":
    sys.exit(main())
