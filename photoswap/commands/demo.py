"""Learn a subject and swap it into a scene, on the built-in miniature.

It needs no arguments and no network. It draws references of a subject that the
miniature never saw, learns it, inverts a source scene, swaps, and writes one
grid: references, source, reconstruction, swap, and the true answer. It prints
how well the background was kept, how close the subject came to the truth, and
the seconds of each stage.

example:
  photoswap demo
"""

import argparse

from photoswap.commands.common import add_common, seed_for
from photoswap.commands.outputs import check_file, check_free


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap demo`."""
    add_common(parser, "demo.png", "the grid picture", dtypes=False)


def run(arguments: argparse.Namespace) -> None:
    """Run the demo, which says itself what it does."""
    check_file(arguments.out)
    check_free([arguments.out], [arguments.model, arguments.config], arguments.overwrite)
    from photoswap.commands.common import load_model
    from photoswap.demo import run_demo

    run_demo(
        load_model(arguments, "float32"), arguments.out, seed=seed_for(arguments.seed), progress=not arguments.quiet
    )
