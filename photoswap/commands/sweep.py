"""Swap at every point of a grid of settings, to see what each of them does.

Each of --phi, --M and --A takes several values, as does --set for any setting
of the method: all combinations are swapped over one inversion, and runs that
begin alike share the work, which is counted. The folder --out receives
sweep.png, a labelled grid, and sweep.json. What is not given stands where
`photoswap swap` has it.

--task takes a task of the drawn world, demo-0 or dev-single-3, in place of a
picture: its truth is known, so sweep.json has scores, and curves.png shows them
over the setting with most values (with matplotlib: pip install
'photoswap[plots]'). The concept is to be one learnt from the task's references.

examples:
  photoswap sweep inversion.safetensors --subject dog --concept my-cat/concept.safetensors --phi 0,5,10,20 --M 0 --A 0
  photoswap sweep dog.jpg --prompt "a photo of a dog" --subject dog --target fox --phi 0,10 --M 10,25 --A 10,20,30
  photoswap sweep --task demo-0 --concept my-cat/concept.safetensors --phi 0,5,10,20,40
"""

import argparse
import json
import warnings
from typing import TYPE_CHECKING, Any

from photoswap.commands import arguments as types
from photoswap.commands.common import (
    add_common,
    add_sampling,
    guidance_for,
    load_model,
    read_concepts,
    refuse,
    seed_for,
    steps_for,
)
from photoswap.commands.invert import add_inversion
from photoswap.commands.outputs import check_folder, check_free, say, write_together
from photoswap.commands.settings import settings_of
from photoswap.commands.sources import GivenSource, check_source, open_source, prompt_of, read_by
from photoswap.commands.subjects import check_words, make_rounds, seen

if TYPE_CHECKING:
    from PIL import Image

    from photoswap.benchmark.tasks import Task
    from photoswap.figures.sweep import Sweep
    from photoswap.method import Method

SWEEP_GRID, SWEEP_RECORD, CURVES = "sweep.png", "sweep.json", "curves.png"
LAMBDAS = ("phi", "M", "A")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap sweep`."""
    parser.add_argument(
        "source", nargs="?", type=types.path, help="the picture, or its inversion; without it, one is drawn"
    )
    parser.add_argument("--task", type=types.words, metavar="NAME", help="a task of the world: demo-0, dev-single-3")
    parser.add_argument("--prompt", type=types.words, help="what is in the picture (an inversion knows its own)")
    parser.add_argument("--subject", type=types.words, metavar="WORDS", help="what in the prompt is to be swapped: dog")
    parser.add_argument(
        "--target", type=types.words, metavar="WORDS", help="what takes its place (default: the concept's subject)"
    )
    parser.add_argument(
        "--method",
        default="photoswap",
        metavar="NAME",
        help="of those that `photoswap methods` lists (default: %(default)s)",
    )
    for name in LAMBDAS:
        parser.add_argument(
            f"--{name}",
            type=types.list_of(types.whole(0, types.MOST_STEPS)),
            metavar="N,N",
            help=f"values of lambda of {name}",
        )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=types.setting_values,
        metavar="SETTING=VALUE,VALUE",
        dest="settings",
        help="values of any setting of the method; may be repeated",
    )
    parser.add_argument(
        "--at-once",
        type=types.whole(1, 1000),
        metavar="N",
        help="runs side by side: more share more work and want more memory (default: 16)",
    )
    add_inversion(parser)
    add_sampling(parser)
    add_common(parser, "sweep", "the folder for sweep.png, sweep.json and curves.png")


def run(arguments: argparse.Namespace) -> None:
    """Invert if need be, swap at every point, and write grid, numbers and curves together."""
    check(arguments)
    from photoswap.figures.sweep import RUNS_AT_ONCE, points, sweep
    from photoswap.pipeline import SwapRequest
    from photoswap.turns import Turn

    task = open_task(arguments)
    source = GivenSource(task.source.image) if task else open_source(arguments)
    varied = values_of(arguments)
    cells = points(varied)
    concepts = read_concepts(arguments.concept)
    if task:
        turn: Turn = task.turns()[0]
    else:
        asked = argparse.Namespace(prompt=prompt_of(arguments, source), target_prompt=None)
        asked.subject, asked.target = [arguments.subject], arguments.target and [arguments.target]
        turn = make_rounds(asked, None, [[concept for concept, _ in concepts]])[0][0]
    model = load_model(arguments, concepts=concepts)
    check_words(model, [turn])
    base = make_base(arguments, source, guidance_for(model, arguments.guidance), cells)
    inversion = source.inverted(arguments, model, turn.source)
    request = SwapRequest(
        inversion,
        turn.target,
        base,
        source_prompt=turn.source,
        source_word=turn.source_word,
        target_word=turn.target_word,
        seed=seed_for(arguments.seed),
    )
    found = sweep(model, request, varied, at_once=arguments.at_once or RUNS_AT_ONCE, progress=not arguments.quiet)
    write_sweep(arguments, found, seen(model, inversion), task)


def write_sweep(arguments: argparse.Namespace, found: "Sweep", source: "Image.Image", task: "Task | None") -> None:
    """Put the files into --out, and say so, and what was saved."""
    from photoswap.figures.sweep import draw_curves, scores_of, sweep_grid

    scores = [scores_of(task, cell.result.result) for cell in found.cells] if task else []
    sheet = sweep_grid(found, source, task.truth.image if task else None)
    contents: dict[Any, Any] = {arguments.out / SWEEP_GRID: sheet}
    record = {"varied": found.varied, "task": task and task.name, "row_calls": found.row_calls}
    record |= {"row_calls_apart": found.row_calls_apart, "settings": found.cells[0].result.settings}
    cells: list[dict[str, Any]] = [{"settings": cell.settings} for cell in found.cells]
    for cell, own in zip(cells if scores else [], scores, strict=True):
        cell["scores"] = {name: round(value, 4) for name, value in own.items()}
    contents[arguments.out / SWEEP_RECORD] = json.dumps(record | {"cells": cells}, indent=2) + "\n"
    if scores:
        try:
            figure = draw_curves(found, scores)
            contents[arguments.out / CURVES] = lambda place: figure.savefig(place, format="png")
        except ValueError as missing:
            warnings.warn(f"no {CURVES}: {missing}", stacklevel=1)
    write_together(contents)
    for path in contents:
        say(path)
    share = 1 - found.row_calls / found.row_calls_apart
    rows = f"{found.row_calls} rows of the network, {found.row_calls_apart} apart"
    say(f"{len(found.cells)} swaps: {rows}, {share:.0%} saved")


def values_of(arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """The values of each setting, in the order the flags have. Raises ValueError for one that is given twice."""
    given = {name: getattr(arguments, name) for name in LAMBDAS}
    varied = {name: values for name, values in given.items() if values is not None}
    for name, values in arguments.settings:
        if name in varied:
            raise ValueError(f"{name} is given twice; say all its values at once")
        varied[name] = values
    return varied


def make_base(
    arguments: argparse.Namespace, source: GivenSource, guidance_scale: float, cells: "list[dict[str, Any]]"
) -> "Method":
    """The method without what varies. guidance_scale: unless the inversion was made for one, or the method wants less.

    Raises ValueError for a setting that the method lacks, or refuses.
    """
    from photoswap.methods import METHODS

    if arguments.method not in METHODS:
        raise ValueError(f"no method {arguments.method!r}; want one of {', '.join(METHODS)}")
    kind = METHODS[arguments.method]
    if "reference" in kind.wants or "mask" in kind.wants:
        raise ValueError(f"{arguments.method} wants a {kind.wants[0]}, which a sweep has not: use `photoswap swap`")
    steps, usual, inversion = steps_for(arguments.steps), kind().guidance_scale, source.inversion
    scale: Any = guidance_scale
    if arguments.guidance is None and not isinstance(usual, tuple):
        scale = min(guidance_scale, usual)
    if inversion is not None:
        steps = inversion.steps
        scale = inversion.guidance_scale if inversion.made_under_guidance and arguments.guidance is None else scale
    for settings in cells:
        told = argparse.Namespace(method=arguments.method, settings=list(settings.items()), align=None, blend=None)
        told.phi = told.M = told.A = None
        kind.scaled(steps, guidance_scale=scale, **settings_of(told, kind))
    return kind.scaled(steps, guidance_scale=scale)


def open_task(arguments: argparse.Namespace) -> "Task | None":
    """The task that is asked for. Raises ValueError for a name of none."""
    if arguments.task is None:
        return None
    from photoswap.benchmark.tasks import draw_task, make_task

    parts = arguments.task.split("-")
    if not parts[-1].isdecimal() or len(parts[-1]) > 6:
        raise ValueError(f"no task {arguments.task!r}; want demo-0, or split-kind-number such as dev-single-3")
    if parts[:-1] == ["demo"]:
        return make_task(int(parts[-1]))
    if len(parts) != 3:
        raise ValueError(f"no task {arguments.task!r}; want demo-0, or split-kind-number such as dev-single-3")
    return draw_task(parts[0], parts[1], int(parts[2]))


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for flags that would change nothing, and for what may not be written."""
    if arguments.task is not None:
        if arguments.source is not None:
            raise ValueError("--task has a picture of its own; leave out the other")
        refuse(arguments, "with --task, which says so itself", "prompt", "subject", "target", "seed")
    else:
        check_source(arguments, swaps=True)
        if arguments.subject is None:
            raise ValueError("say with --subject what in the prompt is to be swapped: --subject dog")
    check_folder(arguments.out)
    names = [SWEEP_GRID, SWEEP_RECORD, *([CURVES] if arguments.task else [])]
    check_free([arguments.out / name for name in names], read_by(arguments), arguments.overwrite)
