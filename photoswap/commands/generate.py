"""Draw a picture of a prompt.

examples:
  photoswap generate "a photo of a striped red cat on a wooden floor" --out cat.png
  photoswap generate "a photo of a sks cat in snow" --concept my-cat/concept.safetensors
  photoswap generate "a photo of a castle" --model sd21-base --device cuda --dtype bfloat16 --seed 7
"""

import argparse

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
    """The flags of `photoswap generate`."""
    parser.add_argument("prompt", help="what to draw")
    parser.add_argument("--negative", default="", metavar="PROMPT", help="what to keep away from")
    add_sampling(parser)
    add_common(parser, "generated.png", "the picture")


def run(arguments: argparse.Namespace) -> None:
    """Draw and write it."""
    check_file(arguments.out)
    from photoswap.swap import generate

    model = load_model(arguments)
    picture = generate(
        model,
        arguments.prompt,
        arguments.seed,
        steps_for(arguments.steps),
        guidance_for(model, arguments.guidance),
        arguments.size,
        arguments.negative,
        progress=not arguments.quiet,
    )
    write_picture(picture, arguments.out)
    print(arguments.out)
