"""What a finished run leaves: results.json, table.md, table.html, grid.png."""

import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from models.images import grid
from photoswap.benchmark.cells import write_json
from photoswap.benchmark.entries import BASELINES, Entry
from photoswap.benchmark.gates import Gate, gates_of
from photoswap.benchmark.results import Results, duel_records
from photoswap.benchmark.run import Benchmark, Shard, clear_earlier
from photoswap.benchmark.table import ReportPart, as_html, as_markdown, parts_of
from weights.atomic import atomic

RESULTS, MARKDOWN, PAGE, GRID_FILE = "results.json", "table.md", "table.html", "grid.png"
REPORT_FILES = (RESULTS, MARKDOWN, PAGE, GRID_FILE)
GRID_ROWS, GRID_SIDE = 12, 128


def run_and_report(
    benchmark: Benchmark, shard: Shard, *, overwrite: bool = False, progress: bool = True
) -> Iterator[str]:
    """Do a shard of the plan and write the report if nothing is missing; what is to be said, line by line.

    overwrite: begin anew, but for what was learnt. Raises KeyboardInterrupt, saying that the same command goes on.
    """
    if overwrite:
        clear_earlier(benchmark.out)
    try:
        benchmark.run(shard, progress)
    except KeyboardInterrupt:
        kept = f"interrupted; what is finished is in {benchmark.out}: the same command goes on"
        raise KeyboardInterrupt(kept) from None
    if missing := missing_cells(benchmark):
        yield f"{missing} results are still missing, of other shards: the last one to finish writes the tables"
        return
    _, parts = write_report(benchmark)
    yield as_markdown(parts)
    yield from map(str, report_paths(benchmark.out))


def missing_cells(benchmark: Benchmark) -> int:
    """How many cells, and facts of tasks, of the plan are not there yet."""
    plan, records = benchmark.plan, benchmark.records()
    there = sum(len(found) for found in records.values()) + len(benchmark.facts())
    return plan.tasks * (len(plan.columns) + 1) - there


def write_report(benchmark: Benchmark) -> tuple[list[Gate], list[ReportPart]]:
    """Write the files; the gates, and everything that the tables say. Every cell has to be there."""
    plan, records = benchmark.plan, benchmark.records()
    facts = list(benchmark.facts().values())
    exact, carried = (Results(plan, records, against) for against in ("scores", "scores_against_autoencoder"))
    gates = gates_of(plan, facts)
    parts = parts_of(plan, exact, carried, gates, facts)
    write_json(benchmark.out / RESULTS, _all(benchmark, exact, carried, gates, facts))
    for name, text in ((MARKDOWN, as_markdown(parts)), (PAGE, as_html(parts, GRID_FILE))):
        with atomic(benchmark.out / name) as place:
            place.write_text(text, encoding="utf-8")
    with atomic(benchmark.out / GRID_FILE) as place:
        results_grid(benchmark, exact).save(place, format="PNG")
    return gates, parts


def results_grid(benchmark: Benchmark, results: Results) -> Image.Image:
    """A row for each of the first tasks: a reference of each newcomer, the source, every entry's result, the truth."""
    entries = [entry for entry in results.shown if entry.method not in BASELINES]
    pictures: list[Image.Image] = []
    labels: list[str] = []
    for index in range(min(benchmark.plan.tasks, GRID_ROWS)):
        task = benchmark.task(index)
        row = {f"learnt {i}": newcomer.references[0] for i, newcomer in enumerate(task.newcomers, 1)}
        row |= {task.name: task.source.image}
        row |= {results.label(entry).replace(", ", "\n"): benchmark.cell(task, entry).picture() for entry in entries}
        row |= {"truth": task.truth.image}
        labels += row.keys()
        pictures += [picture.resize((GRID_SIDE, GRID_SIDE), Image.Resampling.LANCZOS) for picture in row.values()]
    return grid(pictures, labels, columns=len(pictures) // min(benchmark.plan.tasks, GRID_ROWS))


def _all(benchmark: Benchmark, exact: Results, carried: Results, gates: list[Gate], facts: list[Any]) -> dict[str, Any]:
    """Everything, as JSON holds it."""
    return {
        "plan": asdict(benchmark.plan),
        "model": {"name": benchmark.base.config.name, "fingerprint": benchmark.shelf.base_mark},
        "judge": benchmark.judge.known_by,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "gates": [{**gate._asdict(), "sentence": gate.sentence} for gate in gates],
        "entries": [_entry(entry, exact, carried) for entry in exact.shown],
        "refused": exact.refused,
        "table 1": duel_records(exact),
        "facts": facts,
    }


def _entry(entry: Entry, exact: Results, carried: Results) -> dict[str, Any]:
    costs = {} if entry.method in BASELINES else {name: exact.cost(entry, name) for name in ("seconds", "row_calls")}
    return {
        "label": exact.label(entry),
        "entry": asdict(entry),
        "scores": {name: exact.mean(entry, name)._asdict() for name in exact.names},
        "against autoencoder": {name: carried.mean(entry, name)._asdict() for name in carried.names},
        "by task": {name: exact.values(entry, name) for name in exact.names},
        **costs,
    }


def report_paths(out: Path) -> list[Path]:
    """The files that a report consists of."""
    return [out / name for name in REPORT_FILES]
