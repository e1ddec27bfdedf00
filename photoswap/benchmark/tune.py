"""Find settings of each method on the development stream: python -m photoswap.benchmark.tune --tasks 4

One setting after another is tried at a few values (GRIDS), the others staying as they are, and the best kept: by the
mean PSNR of the whole picture to the truth, which punishes a lost background as well as a subject that stays. Every
trial is a cell like the benchmark's, so a stopped tuning goes on where it was, and subjects are learnt once. What is
found goes into photoswap/benchmark/tuned.json, with the tasks and the scores, for `photoswap evaluate --settings
tuned`; methods that were tuned before and are not named now keep what was found for them.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from models.precision import full_float32
from photoswap.benchmark.cells import read_record, write_json
from photoswap.benchmark.entries import NOT_INVERTED, NOTHING_LEARNT, OFFICIAL, TUNED_FILE, Entry, method_kind
from photoswap.benchmark.judge import Judge
from photoswap.benchmark.plan import RunPlan
from photoswap.benchmark.run import Benchmark, clear_earlier
from photoswap.benchmark.shelf import ConceptShelf
from photoswap.benchmark.workbench import Workbench
from photoswap.guidance import GUIDANCE_OF
from weights.load import load

AIM = "overall_psnr"
GUIDANCE_SCALES = (2.0, 3.0, 5.0)
SettingsGrid = Mapping[str, tuple[Any, ...]]  # by setting, what is tried beside what it has
Trial = tuple[dict[str, Any], list[float]]  # changes, and the aim of each task
GRIDS: Mapping[str, SettingsGrid] = {
    "photoswap": {"phi": (0, 5, 20), "M": (0, 15, 40), "A": (0, 10, 40), "guidance_scale": GUIDANCE_SCALES},
    OFFICIAL: {"phi": (0, 5, 20), "M": (0, 15, 40), "A": (0, 10, 40), "guidance_scale": GUIDANCE_SCALES},
    "prompt-to-prompt": {
        "cross_replace_steps": (0.2, 0.4, 1.0),
        "self_replace_steps": (0.0, 0.2, 0.8),
        "guidance_scale": GUIDANCE_SCALES,
    },
    "plug-and-play": {
        "pnp_attn_t": (0.0, 0.25, 0.8),
        "pnp_f_t": (0.0, 0.4, 0.6),
        "negative_prompt": ("",),
        "guidance_scale": GUIDANCE_SCALES,
    },
    "masactrl": {"step": (10, 25), "layer": (6, 13), "guidance_scale": GUIDANCE_SCALES},
    "free-prompt-editing": {"self_replace_steps": (0.2, 0.4, 0.6), "guidance_scale": GUIDANCE_SCALES},
    "swap-anything": {
        "latents": (15, 40, 50),
        "phi": (0, 20),
        "M": (0, 40),
        "adain": (False,),
        "guidance_scale": GUIDANCE_SCALES,
    },
    "plain": {"guidance_scale": GUIDANCE_SCALES},
    "sdedit": {"t0": (0.3, 0.7, 0.9), "guidance_scale": GUIDANCE_SCALES},
    "diffedit": {
        "inpaint_strength": (0.6, 1.0),
        "mask_thresholding_ratio": (2.0, 4.0),
        "guidance_scale": GUIDANCE_SCALES,
    },
    "blended-latent-diffusion": {"blending_start_percentage": (0.0, 0.5), "guidance_scale": GUIDANCE_SCALES},
    "inversion-free": {
        "cross_replace_steps": (0.3, 1.0),
        "self_replace_steps": (0.3, 1.0),
        "steps": (25,),
        "guidance_scale": (1.5, 3.0),
    },
    "reference-attention": {"self_replace_steps": (0.0, 0.3), "start_step": (10, 20), "start_layer": (6, 13)},
}


@dataclass(frozen=True, eq=False)
class Tuning:
    """Where trials are kept, and what they are compared on."""

    benchmark: Benchmark
    progress: bool = True
    benches: dict[int, Workbench] = field(default_factory=dict)

    def bench(self, index: int) -> Workbench:
        """A task, with its subject learnt and its source inverted once for all trials."""
        one = self.benchmark
        if index not in self.benches:
            self.benches[index] = Workbench(one.base, one.shelf, one.plan, one.task(index))
        return self.benches[index]

    def scores(self, entry: Entry) -> list[float]:
        """The aim of each task; minus infinity for settings that contradict each other."""
        try:
            plan = replace(self.benchmark.plan, entries=(entry,))
        except ValueError:
            return [float("-inf")] * self.benchmark.plan.tasks
        return task_scores(replace(self.benchmark, plan=plan), self.bench, entry.key, self.progress)

    def tune(self, method: str) -> Iterator[Trial]:
        """What is tried, the published settings first, and its scores; the best mean of them is the answer."""
        kind = method_kind(method)
        entry = Entry(
            method,
            "direct" if kind.inverts else NOT_INVERTED,
            NOTHING_LEARNT if "reference" in kind.wants else "dreambooth",
            "tuned",
        )
        return climb(GRIDS[method], lambda changes: self.scores(replace(entry, changes=tuple(changes.items()))))


def task_scores(run: Benchmark, bench: Callable[[int], Workbench], told: str, progress: bool) -> list[float]:
    """Make what is not there yet of a run of one entry; the aim of each task, minus infinity where one is refused.

    bench: a task by its number. told: what the progress bar says.
    """
    (entry,), tasks = run.plan.entries, range(run.plan.tasks)
    for index in tqdm(tasks, told, leave=False, disable=not progress):
        run.fill(bench(index), entry)
    found = run.records().get(entry.key, {})
    if any("refused" in record for record in found.values()):
        return [float("-inf")] * len(tasks)
    return [found[index]["scores"][AIM] for index in tasks]


def climb(grid: SettingsGrid, scores: Callable[[dict[str, Any]], list[float]]) -> Iterator[Trial]:
    """Try one setting after another, the others as they are by then; the better mean stays. No change comes first."""
    kept: dict[str, Any] = {}
    best = scores(kept)
    yield kept, best
    for name, values in grid.items():
        for value in values:
            tried = {**kept, name: value}
            found = scores(tried)
            yield tried, found
            if np.mean(found) > np.mean(best) + 1e-9:
                kept, best = tried, found


def keep_best(what: str, kind: str, trials: Iterable[Trial], benchmark: Benchmark, file: Path) -> None:
    """Print the trials as they come, and put the best into the file, among others of its kind ("methods", "concepts").

    Beside the best settings' mean it says what the best trial of each task by itself comes to: nobody who chooses among
    these settings picture by picture, without knowing the truth, can reach more.
    """
    done: list[Trial] = []
    for changes, scores in trials:
        done.append((changes, scores))
        print(f"{what} {changes}: {np.mean(scores):.3f} dB")
    best, reached = max(done, key=lambda trial: float(np.mean(trial[1])))
    plan = benchmark.plan
    told = {
        "settings": best,
        "tasks": [benchmark.task(i).name for i in range(plan.tasks)],
        "model": benchmark.shelf.base_mark,
        "guidance_scale": plan.guidance_scale,
        "seed": plan.seed,
        f"{AIM} before": round(float(np.mean(done[0][1])), 4),
        f"{AIM} after": round(float(np.mean(reached)), 4),
        f"{AIM} best of each task": round(float(np.mean(np.max([scores for _, scores in done], axis=0))), 4),
        "trials": len(done),
    }
    known = read_record(file) or {}
    write_json(file, {"aim": AIM, "methods": {}, **known, kind: {**known.get(kind, {}), what: told}})


def tune_all(tuning: Tuning, methods: Sequence[str], file: Path) -> None:
    """Tune the methods one by one; the file is written after each."""
    for method in methods:
        keep_best(method, "methods", tuning.tune(method), tuning.benchmark, file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune; 0, or after one sentence 2 for what cannot be done and 130 when interrupted."""
    parser = tuning_parser(__doc__, tuple(GRIDS), "methods")
    return run_tuning(parser, lambda args, one: tune_all(Tuning(one), args.methods, args.file), arguments)


def tuning_parser(about: str | None, known: Sequence[str], what: str) -> argparse.ArgumentParser:
    """The flags of a tuning; --what names which of those known, all by default."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tasks", type=int, default=4, help="of the development stream")
    parser.add_argument(f"--{what}", nargs="+", choices=known, default=list(known))
    parser.add_argument(
        "--guidance",
        type=float,
        default=GUIDANCE_OF["miniature"],
        help="of the published settings (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("tuning"), help="where trials are kept")
    parser.add_argument("--cache", type=Path, help="where learnt subjects are kept (default: concepts/ in --out)")
    parser.add_argument("--file", type=Path, default=TUNED_FILE, help="where the answer goes")
    parser.add_argument("--overwrite", action="store_true", help="do trials anew that were made otherwise or before")
    return parser


def run_tuning(
    parser: argparse.ArgumentParser,
    tune: Callable[[argparse.Namespace, Benchmark], None],
    arguments: Sequence[str] | None,
) -> int:
    """Do what the flags say by `tune`, which is given them and a benchmark of the model; the exit status."""
    args = parser.parse_args(arguments)
    try:
        if args.overwrite:
            clear_earlier(args.out)
        model = load(args.model, args.device, torch.float32)
        plan = RunPlan((Entry("plain"),), args.tasks, guidance_scale=args.guidance)
        shelf = ConceptShelf(model, args.cache or args.out / "concepts")
        with full_float32():
            tune(args, Benchmark(model, plan, args.out, Judge(), shelf))
    except KeyboardInterrupt:
        print(f"interrupted; what is finished is in {args.out}: the same command goes on", file=sys.stderr)
        return 130
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
