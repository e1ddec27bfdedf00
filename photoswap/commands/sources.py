"""A source that figures are of: a picture, an inversion, or what a prompt and a seed draw."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from photoswap.commands.common import guidance_for, refuse, seed_for, steps_for
from photoswap.commands.invert import GUIDED, inversion_for
from photoswap.commands.swap_flags import INVERSION_SUFFIX

if TYPE_CHECKING:
    from PIL import Image

    from models.stable_diffusion import StableDiffusion
    from photoswap.inversion import Inversion


@dataclass(frozen=True, eq=False)
class GivenSource:
    """A picture or an inversion; neither where one is to be drawn."""

    picture: "Image.Image | None" = None
    inversion: "Inversion | None" = None

    def inverted(self, arguments: argparse.Namespace, model: "StableDiffusion", prompt: str) -> "Inversion":
        """Its inversion, as the flags say; checked against the model where it was there already."""
        from photoswap.inversion import invert_image, synthesize

        if self.inversion is not None:
            self.inversion.check(model, self.inversion.steps)
            return self.inversion
        settings = (
            steps_for(arguments.steps),
            guidance_for(model, arguments.guidance),
            arguments.size,
            not arguments.quiet,
        )
        if self.picture is None:
            return synthesize(model, prompt, seed_for(arguments.seed), *settings)
        return invert_image(model, self.picture, prompt, inversion_for(arguments.inversion), *settings)


def open_source(arguments: argparse.Namespace) -> GivenSource:
    """What `source` names, read."""
    from models.images import load_image
    from photoswap.inversion import Inversion

    if arguments.source is None:
        return GivenSource()
    if arguments.source.suffix == INVERSION_SUFFIX:
        return GivenSource(inversion=Inversion.load(arguments.source))
    return GivenSource(picture=load_image(arguments.source))


def prompt_of(arguments: argparse.Namespace, source: GivenSource) -> str:
    """What is in it. Raises ValueError where nobody says."""
    prompt: str | None = arguments.prompt or (source.inversion.prompt if source.inversion else None)
    if not prompt:
        raise ValueError('say with --prompt what is in the picture: --prompt "a photo of a dog on grass"')
    return prompt


def check_source(arguments: argparse.Namespace, swaps: bool = False) -> None:
    """Raise ValueError for flags that would change nothing. swaps: whether it is swapped too, which takes guidance."""
    if arguments.source is None:
        refuse(arguments, "without a picture", "inversion")
    elif arguments.source.suffix == INVERSION_SUFFIX:
        refuse(arguments, "where there is an inversion already", "inversion", "steps", "size", "seed")
        if not swaps:
            refuse(arguments, "where there is an inversion already", "guidance")
    else:
        refuse(arguments, "for a picture: the seed is of one drawn", "seed")
        if arguments.inversion not in GUIDED and not swaps:
            refuse(arguments, f"but for inversions by {', '.join(GUIDED)}", "guidance")


def read_by(arguments: argparse.Namespace) -> list[Path | str | None]:
    """The files that are read, which no output may be."""
    return [arguments.source, arguments.model, arguments.config, *(file.path for file in arguments.concept)]
