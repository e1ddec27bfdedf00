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
from typing import Any

from photoswap.commands import arguments as types
from photoswap.commands.common import add_common, add_sampling, guidance_for, load_model, refuse, seed_for, steps_for
from photoswap.commands.outputs import check_file, check_free, say, write_together

INVERSIONS = ("direct", "null-text", "negative-prompt", "ddim", "edict", "belm")  # as in photoswap.inversions
GUIDED = ("null-text", "edict", "belm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap invert`."""
    parser.add_argument(
        "source", nargs="?", type=types.path, help="the picture; without it, one is drawn from the seed"
    )
    parser.add_argument("--prompt", type=types.words, required=True, help="what is in the picture")
    add_inversion(parser)
    parser.add_argument(
        "--reconstruction", type=types.path, metavar="FILE", help="also write what the inversion leads back to"
    )
    add_sampling(parser)
    add_common(parser, "inversion.safetensors", "the inversion")


def add_inversion(parser: argparse.ArgumentParser) -> None:
    """How a picture is inverted: also a flag of `swap`."""
    parser.add_argument(
        "--inversion",
        choices=INVERSIONS,
        help="direct: exact and quick; null-text: as in the paper, minutes; negative-prompt: quick, nearly as good; "
        "ddim: plain, drifts; edict, belm: exact, inverted under the guidance of the swap "
        f"(default: {INVERSIONS[0]})",
    )


def run(arguments: argparse.Namespace) -> None:
    """Invert, and write the inversion and the reconstruction together."""
    check(arguments)
    from models.images import load_image
    from photoswap.inversion import invert_image, reconstruct, synthesize

    picture = load_image(arguments.source) if arguments.source else None
    model = load_model(arguments)
    settings = (
        steps_for(arguments.steps),
        guidance_for(model, arguments.guidance),
        arguments.size,
        not arguments.quiet,
    )
    if picture:
        inversion = invert_image(model, picture, arguments.prompt, inversion_for(arguments.inversion), *settings)
    else:
        inversion = synthesize(model, arguments.prompt, seed_for(arguments.seed), *settings)
    contents: dict[Any, Any] = {arguments.out: inversion.save}
    if arguments.reconstruction:
        contents[arguments.reconstruction] = reconstruct(model, inversion)
    write_together(contents)
    for path in contents:
        say(path)


def inversion_for(asked: Any) -> Any:
    """The way of inverting asked for, or the usual one."""
    return asked or INVERSIONS[0]


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for flags that would change nothing, and for what may not be written."""
    if arguments.source is None:
        refuse(arguments, "without a picture", "inversion")
    else:
        refuse(arguments, "for a picture: the seed is of one drawn", "seed")
        if arguments.inversion not in GUIDED:
            refuse(arguments, f"but for {', '.join(GUIDED)}; tell it to `photoswap swap`", "guidance")
    outputs = [arguments.out]
    check_file(arguments.out, (".safetensors",))
    if arguments.reconstruction:
        check_file(arguments.reconstruction)
        outputs.append(arguments.reconstruction)
    check_free(
        outputs,
        [arguments.source, arguments.model, arguments.config, *(file.path for file in arguments.concept)],
        arguments.overwrite,
    )
