"""Compare methods on drawn scenes whose right answers are known.

Each task is a subject that the model was never trained on, pictures to learn it
from, a source, and the truth: the same scene with that subject in it. Subjects
are learnt once and kept. --out receives results.json, table.md, table.html and
grid.png, and a cell for each result: stopped and started again, the same
command goes on. Several processes may share the tasks, each with its --shard;
torchrun sets that by itself. docs/benchmark.md says what each score is.

With --cocoee painters paint Paint by Example's test bench instead, and are
measured as there.

examples:
  photoswap evaluate --tasks 8 --methods photoswap prompt-to-prompt plain
  photoswap evaluate --tasks 32 --split test --settings published tuned
  photoswap evaluate --kind pair --tasks 4 --methods photoswap --masks true
  photoswap evaluate --methods photoswap --inversions all --guidance 7.5
  photoswap evaluate --tasks 8 --methods photoswap painters --painter runs/paint/painter.safetensors
  photoswap evaluate --tasks 32 --shard 0/2
  photoswap evaluate --cocoee test_bench/ --painter paint-by-example --real test2017/ \\
    --features clip/open_clip_model.safetensors
"""

import argparse

from photoswap.commands import arguments as types
from photoswap.commands.common import add_common, guidance_for, load_model, refuse, seed_for
from photoswap.commands.easel import make_easel, with_painter
from photoswap.commands.evaluate_cocoee import OF_COCOEE, add_cocoee, run_over_cocoee
from photoswap.commands.outputs import check_folder, check_free, say

MOST_TASKS = 10_000
USUAL = {"tasks": 8, "split": "dev", "kind": "single", "methods": ["all"], "inversions": ["direct"]}
USUAL |= {"concepts": ["dreambooth"], "settings": ["published"], "masks": "words"}
# As in photoswap.benchmark, which this answers before torch is there; a test compares them.
EARLIER, TABLES = "cells", ("results.json", "table.md", "table.html", "grid.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap evaluate`."""
    group = parser.add_argument_group("the tasks")
    group.add_argument(
        "--tasks", type=types.whole(1, MOST_TASKS), metavar="N", help="how many (default: 8, and all of COCOEE)"
    )
    group.add_argument(
        "--split",
        choices=("dev", "test", "demo"),
        help="dev is for choosing, test for telling, once; demo has one subject for all tasks (default: dev)",
    )
    group.add_argument(
        "--kind",
        choices=("single", "pair", "hidden"),
        help="one subject, two, or one behind something (default: single)",
    )
    group.add_argument("--shard", type=types.shard, metavar="I/N", help="do task I, I + N, and so on, counted from 0")
    group = parser.add_argument_group("who takes part: every combination")
    group.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="of `photoswap methods`; official is Photoswap as its authors released it; painters are all of `photoswap "
        "paint --method`, painter a network trained to paint (default: all, which swap)",
    )
    group.add_argument("--inversions", nargs="+", metavar="NAME", help="of `photoswap invert` (default: direct)")
    group.add_argument(
        "--concepts",
        nargs="+",
        metavar="NAME[:PRESET]",
        help="ways of learning; the preset is else the model's, tuned what was found on dev (default: dreambooth)",
    )
    group.add_argument(
        "--settings",
        nargs="+",
        choices=("published", "tuned"),
        help="the methods' own, or those found on dev by python -m photoswap.benchmark.tune (default: published)",
    )
    group.add_argument(
        "--painter", metavar="MODEL", help="the network trained to paint, for painter: a checkpoint, or a name"
    )
    group.add_argument(
        "--features",
        type=types.path,
        metavar="FILE",
        help="what steers blended-image: CLIP ViT-B/32's weights, or a recogniser's (default: the shipped one's)",
    )
    group = parser.add_argument_group("how")
    group.add_argument(
        "--masks",
        choices=("words", "true"),
        help="of methods that want one, and of pairs: found by the words, or the world's own (default: words)",
    )
    group.add_argument(
        "--steps", type=types.whole(1, types.MOST_STEPS), metavar="N", help="of the sampler (default: each method's)"
    )
    group.add_argument(
        "--guidance",
        type=types.number(0, 100),
        metavar="SCALE",
        help="(default: 7.5; 3 for the miniature, 2 for its painter)",
    )
    group.add_argument(
        "--learning-steps", type=types.whole(1, 1_000_000), metavar="N", help="of each concept (default: the preset's)"
    )
    group.add_argument(
        "--cache", type=types.path, metavar="DIR", help="where learnt subjects are kept (default: concepts/ in --out)"
    )
    group.add_argument(
        "--recogniser", type=types.path, metavar="FILE", help="weights of another recogniser than the shipped one"
    )
    add_cocoee(parser)
    add_common(parser, "evaluation", "the folder for the tables, the grid and the cells", dtypes=False)


def run(arguments: argparse.Namespace) -> None:
    """Do what is not done, then write and print the tables, unless other shards are still at work."""
    if arguments.cocoee:
        return run_over_cocoee(arguments)
    refuse(arguments, "without --cocoee", *OF_COCOEE)
    for name, usual in USUAL.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, usual)
    return run_on_the_world(arguments)


def run_on_the_world(arguments: argparse.Namespace) -> None:
    """The same on drawn scenes, whose right answers are known."""
    for folder in (arguments.out, arguments.cache or arguments.out):
        check_folder(folder)
    if not (arguments.out / EARLIER).is_dir():  # else it is a run to go on with, and what it wrote is its own
        read = [arguments.recogniser, arguments.features, arguments.painter, arguments.model, arguments.config]
        check_free([arguments.out / name for name in TABLES], read, arguments.overwrite)
    from photoswap.benchmark.entries import make_entries
    from photoswap.benchmark.judge import find_judge
    from photoswap.benchmark.plan import RunPlan
    from photoswap.benchmark.report import run_and_report
    from photoswap.benchmark.run import Benchmark, Shard
    from photoswap.benchmark.shelf import WAYS_OF_LEARNING, ConceptShelf, check_concept

    concepts = [way for name in arguments.concepts for way in (WAYS_OF_LEARNING if name == "all" else (name,))]
    for concept in concepts:
        check_concept(concept)
    entries = make_entries(arguments.methods, arguments.inversions, concepts, arguments.settings)
    entries, unpainted = with_painter(arguments, entries)
    easel = make_easel(arguments, entries)
    judge, lacking = find_judge(arguments.recogniser)
    model = load_model(arguments, "float32")
    plan = RunPlan(
        entries,
        arguments.tasks,
        arguments.split,
        arguments.kind,
        arguments.steps,
        guidance_for(model, arguments.guidance),
        arguments.masks,
        seed_for(arguments.seed),
    )
    changes = {"steps": arguments.learning_steps} if arguments.learning_steps else {}
    shelf = ConceptShelf(model, arguments.cache or arguments.out / "concepts", changes)
    benchmark = Benchmark(model, plan, arguments.out, judge, shelf, easel)
    shard = Shard(*arguments.shard) if arguments.shard else Shard.of_torchrun()
    for sentence in lacking + unpainted:
        say(sentence)
    for line in run_and_report(benchmark, shard, overwrite=arguments.overwrite, progress=not arguments.quiet):
        say(line)
