"""Find the noise that a picture comes from, once, for many swaps.

Leave the picture out, and one is drawn from --prompt and --seed instead. An
inversion serves the model and the concept it was made with: name here the
--concept that will be swapped in.

examples:
  photoswap invert dog.jpg --prompt "a photo of a dog" --concept my-cat/concept.safetensors
  photoswap invert dog.jpg --prompt "a photo of a dog" --inversion null-text --reconstruction again.png
  photoswap invert --prompt "a photo of a dog on grass" --seed 3 --out drawn.safetensors
"""

import argparse
from pathlib import Path

from photoswap.commands.common import (
    add_common,
    add_sampling,
    check_file,
    guidance_for,
    load_model,
    steps_for,
    write_picture,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap invert`."""
    parser.add_argument("source", nargs="?", type=Path, help="the picture; without it, one is drawn from the seed")
    parser.add_argument("--prompt", required=True, help="what is in the picture")
    add_inversion(parser)
    parser.add_argument(
        "--reconstruction", type=Path, metavar="FILE", help="also write what the inversion leads back to"
    )
    add_sampling(parser)
    add_common(parser, "inversion.safetensors", "the inversion")


def add_inversion(parser: argparse.ArgumentParser) -> None:
    """How a picture is inverted: also a flag of `swap`."""
    parser.add_argument(
        "--inversion",
        choices=("direct", "null-text", "ddim"),
        default="direct",
        help="direct: exact and quick; null-text: as in the paper, minutes; ddim: plain, drifts (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Invert and write it."""
    check_file(arguments.out, (".safetensors",))
    if arguments.reconstruction:
        check_file(arguments.reconstruction)
    from models.images import load_image
    from photoswap.inversion import invert_image, reconstruct, synthesize
    from weights.atomic import atomic

    picture = load_image(arguments.source) if arguments.source else None
    model = load_model(arguments)
    settings = (
        steps_for(arguments.steps),
        guidance_for(model, arguments.guidance),
        arguments.size,
        not arguments.quiet,
    )
    if picture:
        inversion = invert_image(model, picture, arguments.prompt, arguments.inversion, *settings)
    else:
        inversion = synthesize(model, arguments.prompt, arguments.seed, *settings)
    again = reconstruct(model, inversion) if arguments.reconstruction else None
    with atomic(arguments.out) as temporary:
        inversion.save(temporary)
    print(arguments.out)
    if again:
        write_picture(again, arguments.reconstruction)
        print(arguments.reconstruction)
