"""Draw a picture of a prompt.

examples:
  photoswap generate "a photo of a striped red cat on a wooden floor" --out cat.png
  photoswap generate "a photo of a sks cat in snow" --concept my-cat/concept.safetensors
  photoswap generate "a photo of a castle" --model sd21-base --device cuda --dtype bfloat16 --seed 7
"""

import argparse

from photoswap.commands.arguments import prompt
from photoswap.commands.common import add_common, add_sampling, guidance_for, load_model, refuse, seed_for, steps_for
from photoswap.commands.outputs import check_file, check_free, say, write_together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap generate`."""
    parser.add_argument("prompt", type=prompt, help="what to draw")
    parser.add_argument("--negative", type=prompt, metavar="PROMPT", help="what to keep away from")
    add_sampling(parser)
    add_common(parser, "generated.png", "the picture")


def run(arguments: argparse.Namespace) -> None:
    """Draw and write it."""
    check_file(arguments.out)
    check_free(
        [arguments.out],
        [arguments.model, arguments.config, *(file.path for file in arguments.concept)],
        arguments.overwrite,
    )
    if arguments.guidance == 1:
        refuse(arguments, "at guidance 1, which asks the prompt alone", "negative")
    from photoswap.drawing import generate

    model = load_model(arguments)
    picture = generate(
        model,
        arguments.prompt,
        seed_for(arguments.seed),
        steps_for(arguments.steps),
        guidance_for(model, arguments.guidance),
        arguments.size,
        arguments.negative or "",
        progress=not arguments.quiet,
    )
    write_together({arguments.out: picture})
    say(arguments.out)
