"""`photoswap evaluate --cocoee`: painters over Paint by Example's test bench."""

import argparse
from typing import TYPE_CHECKING

from photoswap.commands import arguments as types
from photoswap.commands.common import load_model, pick_device, refuse, seed_for
from photoswap.commands.easel import make_easel, with_painter
from photoswap.commands.outputs import check_folder, check_free, say

if TYPE_CHECKING:
    from photoswap.benchmark.cocoee import BenchRun, CocoEE
    from photoswap.benchmark.entries import Entry

# As in photoswap.benchmark, which this answers before torch is there; a test compares them.
COCOEE_OUTPUTS = ("cocoee.json", "cocoee.md", "cocoee.png")
OF_COCOEE = ("real", "mixture", "words")
OF_WORLD = ("split", "kind", "inversions", "concepts", "settings", "masks", "learning_steps", "cache", "recogniser")


def add_cocoee(parser: argparse.ArgumentParser) -> None:
    """The flags of the test bench."""
    group = parser.add_argument_group("Paint by Example's test bench, in place of drawn scenes")
    group.add_argument(
        "--cocoee", type=types.path, metavar="DIR", help="COCOEE's folder, with GT_3500, Mask_bbox_3500 and Ref_3500"
    )
    group.add_argument(
        "--real", type=types.path, metavar="DIR", help="real pictures that FID and QS compare with: COCO's test2017"
    )
    group.add_argument(
        "--mixture", type=types.path, metavar="FILE", help="the mixture of QS, if not the one fitted to --real"
    )
    group.add_argument(
        "--words", type=types.path, metavar="FILE", help="a number and a class in each line, for those told by words"
    )


def run_over_cocoee(arguments: argparse.Namespace) -> None:
    """Paint what is not painted, then measure all, unless other shards are still at work."""
    check_cocoee(arguments)
    from photoswap.benchmark.cocoee import CocoEE
    from photoswap.benchmark.cocoee_report import RealPictures, run_cocoee
    from photoswap.benchmark.entries import PAINTER, make_entries
    from photoswap.benchmark.features import find_features
    from photoswap.benchmark.run import Shard

    arguments.methods = arguments.methods or [PAINTER]
    entries = make_entries(arguments.methods, ["direct"], ["dreambooth"], ["published"])
    if swapping := [entry.method for entry in entries if not entry.paints]:
        raise ValueError(f"--cocoee has no prompts to swap by, so {swapping[0]} has no place there; want painters")
    entries, lacking = with_painter(arguments, entries, shipped=False)
    bench = CocoEE.open(arguments.cocoee, arguments.words, arguments.tasks)
    real = RealPictures(arguments.real, arguments.mixture) if arguments.real else None
    if real:
        real.files  # noqa: B018, raises where there are none
    features = find_features(arguments.features, pick_device(arguments.device))
    shard = Shard(*arguments.shard) if arguments.shard else Shard.of_torchrun()
    run = make_run(arguments, entries, bench)
    if not real:
        lacking.append("FID and QS are left out: --real names no pictures to compare with")
    lines = run_cocoee(run, features, real, shard, overwrite=arguments.overwrite, progress=not arguments.quiet)
    for line in (*lacking, *lines):  # all of them once all is done: a mistake is told alone
        say(line)


def check_cocoee(arguments: argparse.Namespace) -> None:
    """Raise ValueError for flags that would change nothing, and for what may not be written."""
    refuse(arguments, "with --cocoee, whose scenes are photos", *OF_WORLD)
    if arguments.real is None:
        refuse(arguments, "without --real, whose pictures it is of", "mixture")
    check_folder(arguments.out)
    read = [arguments.cocoee, arguments.real, arguments.mixture, arguments.words]
    read += [arguments.features, arguments.painter, arguments.model, arguments.config]
    if not any(arguments.out.glob("*/records")):  # else it is a run to go on with, and what it wrote is its own
        check_free([arguments.out / name for name in COCOEE_OUTPUTS], read, arguments.overwrite)


def make_run(arguments: argparse.Namespace, entries: "tuple[Entry, ...]", bench: "CocoEE") -> "BenchRun":
    """The run, its models loaded; the model that draws whole pictures where somebody paints by it."""
    from photoswap.benchmark.cocoee import BenchRun
    from photoswap.benchmark.painted import needs_base
    from weights import fingerprint

    easel = make_easel(arguments, entries, asked_for_features=True)
    for entry in entries:  # those told by words alone want some
        easel.check(entry, bool(bench.words))
    base = load_model(arguments, "float32") if any(map(needs_base, entries)) else None
    mark = None if base is None else fingerprint(base)
    return BenchRun(
        bench, entries, easel, arguments.out, base, mark, arguments.steps, arguments.guidance, seed_for(arguments.seed)
    )
