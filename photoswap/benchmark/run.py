"""Do a plan: every entry on every task, each cell once, wherever an earlier run or another process has not been.

Shards part the tasks: process i of n does those whose number leaves i when divided by n, so no two of them ever do the
same, and all may write into one folder. Whoever finds everything there writes the tables.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.cells import CELLS, ResultCell, read_record, write_json
from photoswap.benchmark.entries import BASELINES, NOTHING_LEARNT, Entry
from photoswap.benchmark.facts import facts_of
from photoswap.benchmark.judge import Judge
from photoswap.benchmark.painted import Easel
from photoswap.benchmark.plan import RunPlan
from photoswap.benchmark.shelf import ConceptShelf
from photoswap.benchmark.tasks import DEMO_SPLIT, SPLITS, Task, draw_task
from photoswap.benchmark.workbench import Workbench
from train.miniature.data import SCENE_KINDS
from weights.atomic import clear

TASKS = "tasks"


class Shard(NamedTuple):
    """Which part of the tasks a process does: those whose number leaves `number` when divided by `total`."""

    number: int = 0
    total: int = 1

    @classmethod
    def of_torchrun(cls) -> "Shard":
        """This process among the ones torchrun started; all of them where it started none."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def __contains__(self, task: object) -> bool:
        return isinstance(task, int) and task % self.total == self.number


ALL = Shard()


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A plan, the model that does it, who judges, the folder of its cells, and what painters need beside."""

    base: StableDiffusion = field(repr=False)
    plan: RunPlan
    out: Path
    judge: Judge = field(repr=False)
    shelf: ConceptShelf
    easel: Easel = field(default_factory=Easel, repr=False)
    drawn: dict[int, Task] = field(default_factory=dict, repr=False)

    def task(self, index: int) -> Task:
        """A task of the plan, drawn at the model's own size, once."""
        if index not in self.drawn:
            self.drawn[index] = draw_task(self.plan.split, self.plan.kind, index, self.base.config.native_size)
        return self.drawn[index]

    def cell(self, task: Task, entry: Entry) -> ResultCell:
        """Where an entry's result on a task goes."""
        learnt = entry.method not in BASELINES and entry.concept != NOTHING_LEARNT
        keys = [self.shelf.key(newcomer, entry.concept) for newcomer in task.newcomers] if learnt else []
        made_by = self.plan.made_by(entry, self.shelf.base_mark, keys)
        if entry.paints:
            method = self.easel.method(entry, self.plan.guidance_scale, self.plan.steps)
            made_by |= {"method": {"name": entry.method, **method.record()}, **self.easel.known_by(entry)}
        return ResultCell(self.out, task.name, entry, made_by)

    def facts_file(self, task: Task) -> Path:
        """What the gates go by, beside the task's cells."""
        return self.out / TASKS / f"{task.name}.json"

    def run(self, shard: Shard = ALL, progress: bool = True) -> None:
        """Do the shard's part of what is not done. Ctrl-C leaves every finished cell, and the same call goes on."""
        own = [i for i in range(self.plan.tasks) if i in shard]
        clear(self.out, self.out / CELLS, self.out / TASKS)  # of what a killed run left half written
        columns = sorted(self.plan.columns, key=lambda entry: entry.concept)
        with tqdm(total=len(own) * (len(columns) + 1), desc="benchmark", disable=not progress) as bar:
            for index in own:
                bench = Workbench(self.base, self.shelf, self.plan, self.task(index), self.easel)
                for entry in columns:
                    bar.set_postfix_str(f"{bench.task.name} {entry.key}", refresh=True)
                    self.fill(bench, entry)
                    bar.update()
                self._learn_facts(bench)
                bar.update()

    def records(self) -> dict[str, dict[int, dict[str, Any]]]:
        """By entry's key and task's number, what is there of the plan; scored by the judge as it is now."""
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for index in range(self.plan.tasks):
            task = self.task(index)
            for entry in self.plan.columns:
                if (record := self.cell(task, entry).read()) is not None:
                    found.setdefault(entry.key, {})[index] = record
        return found

    def facts(self) -> dict[int, dict[str, Any]]:
        """By task's number, what the gates go by."""
        found = {index: read_record(self.facts_file(self.task(index))) for index in range(self.plan.tasks)}
        return {index: facts for index, facts in found.items() if facts is not None}

    def fill(self, bench: Workbench, entry: Entry) -> None:
        """Make the entry's cell on a task, or score it anew where it was scored by another judge."""
        cell = self.cell(bench.task, entry)
        record = cell.read()
        if record is None:
            try:
                done = bench.do(entry)
            except ValueError as error:
                return cell.write({"refused": str(error)})
            told = {"seconds": done.seconds, "row_calls": done.row_calls, "settings": done.settings}
            return cell.write({**told, **self._scored(done.picture, bench)}, done.picture)
        if "refused" not in record and record["judge"] != self.judge.known_by:
            known = {name: record[name] for name in ("seconds", "row_calls", "settings")}
            cell.write({**known, **self._scored(cell.picture(), bench)})
        return None

    def _scored(self, picture: Any, bench: Workbench) -> dict[str, Any]:
        return {
            "judge": self.judge.known_by,
            "scores": self.judge.scores(picture, bench.task),
            "scores_against_autoencoder": self.judge.scores(picture, bench.task, bench.carried),
        }

    def _learn_facts(self, bench: Workbench) -> None:
        file = self.facts_file(bench.task)
        before = read_record(file) or {}
        if (after := facts_of(bench, self.judge, before)) != before:
            write_json(file, after)


def clear_earlier(out: Path) -> None:
    """Remove the cells that an earlier run left in the folder; what was learnt stays, and whatever is not ours."""
    names = [f"{split}-{kind}-[0-9]*" for split in (*SPLITS, DEMO_SPLIT) for kind in SCENE_KINDS]
    for file in (file for name in names for file in (*out.glob(f"{CELLS}/{name}"), *out.glob(f"{TASKS}/{name}"))):
        if file.suffix in (".json", ".png"):
            file.unlink()
