"""Learn a subject and swap it into a scene, on the built-in miniature.

It needs no arguments and no network. It draws references of a subject that the
miniature never saw, learns it, inverts a source scene, swaps, and writes one
grid: references, source, reconstruction, swap, and the true answer. It prints
how well the background was kept, how close the subject came to the truth, and
the seconds of each stage.

With --paint nothing is learnt: the built-in painter puts what one reference
shows into a box of the same scene, in seconds. Its grid: reference, picture
and mask, what the painter sees, what it painted, and the true answer.

examples:
  photoswap demo
  photoswap demo --paint
"""

import argparse

from photoswap.commands.common import add_common, seed_for
from photoswap.commands.outputs import check_file, check_free


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap demo`."""
    parser.add_argument(
        "--paint", action="store_true", help="paint what one reference shows, without learning (docs/paint.md)"
    )
    add_common(parser, "demo.png", "the grid picture", dtypes=False)


def run(arguments: argparse.Namespace) -> None:
    """Run the demo, which says itself what it does."""
    check_file(arguments.out)
    check_free([arguments.out], [arguments.model, arguments.config], arguments.overwrite)
    if arguments.paint:
        return run_painting(arguments)
    from photoswap.commands.common import load_model
    from photoswap.demo import run_demo

    run_demo(
        load_model(arguments, "float32"), arguments.out, seed=seed_for(arguments.seed), progress=not arguments.quiet
    )


def run_painting(arguments: argparse.Namespace) -> None:
    """The demo without learning."""
    arguments.model = "miniature-paint" if arguments.model == "miniature" else arguments.model
    from models.paint_by_example import PaintByExample
    from photoswap.commands.common import load_kind
    from photoswap.demo_paint import run_paint_demo

    model = load_kind(arguments, PaintByExample, "float32")
    run_paint_demo(model, arguments.out, seed=seed_for(arguments.seed), progress=not arguments.quiet)
