"""Swap the subject of a picture for another, keeping pose and background.

The source is a picture, or an inversion from `photoswap invert`; left out, a
picture is drawn from --prompt and --seed. In the prompt, the words --subject
give way to the concept's ("sks cat"), or to --target. The folder --out receives
result.png, grid.png (source, reconstruction, swap), and swap.json, which holds
every setting.

How much of the source is kept is a matter of three lambdas, counted in steps
from the first: so long the target takes the source's self-attention output phi
(--phi), its self-attention map M (--M) and its cross-attention map A (--A).
More of them keep more of the source's layout; fewer leave the new subject more
freedom. The defaults are the paper's: 10, 25 and 20 of 50 steps, and in
proportion where there are more or fewer. --preset official does as the code
does that the paper's authors released: other counts, M at fewer layers, and a
blend (README.md; its inversion is --inversion null-text). --method names
another method; `photoswap methods` lists them with their settings, which --set
changes.

examples:
  photoswap swap dog.jpg --prompt "a photo of a dog" --subject dog --concept my-cat/concept.safetensors
  photoswap swap dog.jpg --prompt "a photo of a dog" --subject dog --target "red fox" --mask dog-mask.png
  photoswap swap inversion.safetensors --subject dog --concept my-cat/concept.safetensors --blend
  photoswap swap dog.jpg --prompt "a photo of a dog" --subject dog --concept my-dog/concept.safetensors \\
    --preset official --inversion null-text
"""

import argparse
import json
import platform
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photoswap.commands import arguments as types
from photoswap.commands.common import (
    GUIDANCE,
    add_common,
    add_sampling,
    guidance_for,
    load_model,
    refuse,
    seed_for,
    steps_for,
)
from photoswap.commands.invert import add_inversion, inversion_for
from photoswap.commands.outputs import check_folder, check_free, say, write_together
from photoswap.commands.settings import settings_of

if TYPE_CHECKING:
    from PIL import Image

    from models.stable_diffusion import StableDiffusion
    from photoswap.inversion import Inversion
    from photoswap.method import Method
    from photoswap.pipeline import SwapResult
    from train.concepts import Concept

INVERSION = ".safetensors"
RESULT, GRID, RECORD = "result.png", "grid.png", "swap.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap swap`."""
    parser.add_argument(
        "source", nargs="?", type=types.path, help="the picture, or its inversion; without it, one is drawn"
    )
    parser.add_argument("--prompt", type=types.words, help="what is in the picture (an inversion knows its own)")
    parser.add_argument(
        "--subject", type=types.words, required=True, metavar="WORDS", help="what in the prompt is to be swapped: dog"
    )
    parser.add_argument(
        "--target", type=types.words, metavar="WORDS", help="what takes its place (default: the concept's subject)"
    )
    parser.add_argument(
        "--target-prompt", type=types.words, metavar="PROMPT", help="(default: --prompt, with --target for --subject)"
    )
    parser.add_argument(
        "--mask", type=types.path, metavar="FILE", help="a picture of the source's size, white where it may change"
    )
    add_inversion(parser)
    group = parser.add_argument_group("the swap")
    group.add_argument(
        "--method",
        default="photoswap",
        metavar="NAME",
        help="of those that `photoswap methods` lists (default: %(default)s)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        type=types.setting,
        metavar="SETTING=VALUE",
        dest="settings",
        help="a setting of the method by its published name; may be repeated",
    )
    group.add_argument(
        "--preset",
        choices=("paper", "official"),
        help="where the settings come from that no flag gives (default: paper)",
    )
    group.add_argument(
        "--fractions",
        nargs=3,
        type=types.number(0, 1),
        metavar=("A", "PHI", "M"),
        help="how long to swap, as the released code says it: shares of the steps, M's after phi's (with --preset "
        "official; default: 0.4 0.2 0.3)",
    )
    for name, default in (("phi", 10), ("M", 25), ("A", 20)):
        group.add_argument(
            f"--{name}",
            type=types.whole(0, types.STEPS),
            metavar="N",
            help=f"lambda of {name}: its steps (default: {default} of 50)",
        )
    group.add_argument(
        "--align",
        choices=("tokens", "index"),
        help="how A's columns are matched: by the prompts' common tokens, or one by one as the paper's formula reads "
        "(default: tokens)",
    )
    group.add_argument(
        "--blend",
        type=types.number(0, 1),
        nargs="?",
        const=0.3,
        metavar="SHARE",
        help="keep the source wherever attention to the subject is below this share of its maximum (default: off, "
        "in official on; 0.3)",
    )
    add_sampling(parser)
    add_common(parser, "photoswap-result", "the folder for result.png, grid.png and swap.json")


@dataclass(frozen=True)
class Prompts:
    """Source and target prompt, and the words of the subject in each."""

    source: str
    target: str
    source_word: str
    target_word: str


def run(arguments: argparse.Namespace) -> None:
    """Invert if need be, swap, and write the three files. Every mistake is found before the long part begins."""
    check(arguments)
    from models.images import load_image, load_mask
    from photoswap.inversion import Inversion
    from photoswap.methods import Photoswap
    from photoswap.pipeline import swap
    from train.concepts import load_concept

    given = arguments.source
    inversion = Inversion.load(given) if given and given.suffix == INVERSION else None
    picture = load_image(given) if given and inversion is None else None
    mask = load_mask(arguments.mask) if arguments.mask else None
    method = make_method(arguments, inversion, GUIDANCE)
    if arguments.M and isinstance(method, Photoswap) and method.phi >= method.M:
        warnings.warn(f"--M {method.M} changes nothing: phi, {method.phi} steps long, carries M with it", stacklevel=1)
    concept = load_concept(arguments.concept) if arguments.concept else None
    prompts = make_prompts(arguments, inversion, concept)
    start = time.perf_counter()
    model = load_model(arguments, concept=concept)
    timings = {"load": time.perf_counter() - start}
    check_words(model, prompts)
    method = make_method(arguments, inversion, guidance_for(model, arguments.guidance))
    start = time.perf_counter()
    inversion = inversion or invert(model, picture, prompts.source, method, arguments)
    timings["invert"] = time.perf_counter() - start
    result = swap(
        model,
        inversion,
        prompts.target,
        method,
        source_prompt=prompts.source,
        source_word=prompts.source_word,
        target_word=prompts.target_word,
        mask=mask,
        size=arguments.size,
        seed=seed_for(arguments.seed),
        progress=not arguments.quiet,
    )
    seed = seed_for(arguments.seed) if method.draws else inversion.seed
    write(arguments, inversion, result, timings | result.timings, seed)


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for flags that would change nothing, and for what may not be written."""
    if arguments.source is None:
        refuse(arguments, "without a picture", "inversion")
    elif arguments.source.suffix == INVERSION:
        refuse(arguments, "where there is an inversion already", "inversion")
    if arguments.A == 0:
        refuse(arguments, "with --A 0, which swaps no A", "align")
    if arguments.fractions is not None:
        refuse(arguments, "beside --fractions, which says the same", "phi", "M", "A")
    check_folder(arguments.out)
    read = [arguments.source, arguments.mask, arguments.model, arguments.config, arguments.concept]
    check_free([arguments.out / name for name in (RESULT, GRID, RECORD)], read, arguments.overwrite)


def make_method(arguments: argparse.Namespace, inversion: "Inversion | None", guidance_scale: float) -> "Method":
    """The method, or Photoswap's preset, at this number of steps, with the settings that were given.

    An inversion brings its own number of steps, and its guidance where it was made for one. guidance_scale: elsewhere.
    Raises ValueError for an unknown method, and for settings it does not have.
    """
    from photoswap.methods import METHODS, official

    if arguments.method not in METHODS:
        raise ValueError(f"no method {arguments.method!r}; want one of {', '.join(METHODS)}")
    kind = METHODS[arguments.method]
    steps = inversion.steps if inversion and arguments.steps is None else steps_for(arguments.steps)
    fitted = inversion is not None and inversion.made_under_guidance and arguments.guidance is None
    given = settings_of(arguments, kind)
    given = {"guidance_scale": inversion.guidance_scale if inversion and fitted else guidance_scale} | given
    official_wanted = arguments.preset == "official"
    if arguments.preset and arguments.method != "photoswap":
        raise ValueError(f"presets belong to photoswap; leave out --preset with {arguments.method}")
    if arguments.source and not kind.draws:
        refuse(arguments, f"for a picture: the seed is of one drawn, and {arguments.method} draws no noise", "seed")
    if arguments.fractions is not None and not official_wanted:
        raise ValueError("fractions belong to the preset official; the paper counts steps: give those")
    shares = {} if arguments.fractions is None else {"shares": tuple(arguments.fractions)}
    return official(steps, **shares, **given) if official_wanted else kind.scaled(steps, **given)


def make_prompts(arguments: argparse.Namespace, inversion: "Inversion | None", concept: "Concept | None") -> Prompts:
    """Both prompts. Raises ValueError when one is missing, or lacks its subject."""
    from photoswap.tokens import replace_word

    source = arguments.prompt or (inversion.prompt if inversion else None)
    if not source:
        raise ValueError('say with --prompt what is in the picture: --prompt "a photo of a dog on grass"')
    target_word = arguments.target or (concept.subject if concept else None)
    if not target_word:
        raise ValueError("say with --concept or --target what takes the subject's place")
    target = arguments.target_prompt or replace_word(source, arguments.subject, target_word)
    return Prompts(source, target, arguments.subject, target_word)


def check_words(model: "StableDiffusion", prompts: Prompts) -> None:
    """Raise ValueError, before the inversion, when a prompt lacks its subject."""
    from photoswap.tokens import subject_tokens

    subject_tokens(model.tokenizer, prompts.source, prompts.source_word)
    subject_tokens(model.tokenizer, prompts.target, prompts.target_word)


def invert(
    model: "StableDiffusion",
    picture: "Image.Image | None",
    prompt: str,
    method: "Method",
    arguments: argparse.Namespace,
) -> "Inversion":
    """The inversion of a picture, or of one drawn from the seed."""
    from photoswap.inversion import invert_image, synthesize

    settings = (method.steps, method.guidance_scale, arguments.size, not arguments.quiet)
    if picture is None:
        return synthesize(model, prompt, seed_for(arguments.seed), *settings)
    return invert_image(model, picture, prompt, inversion_for(arguments.inversion), *settings)


def write(
    arguments: argparse.Namespace,
    inversion: "Inversion",
    result: "SwapResult",
    timings: dict[str, float],
    seed: int | None,
) -> None:
    """Put the three files into --out, and say so."""
    record = make_record(arguments, result, timings, seed)
    files: dict[str, Any] = {
        RESULT: result.result,
        GRID: make_grid(inversion, result),
        RECORD: json.dumps(record, indent=2) + "\n",
    }
    write_together({arguments.out / name: content for name, content in files.items()})
    for name in files:
        say(arguments.out / name)


def make_grid(inversion: "Inversion", result: "SwapResult") -> "Image.Image":
    """Source, reconstruction and swap side by side, at the size worked on."""
    from models.images import grid
    from photoswap.sizes import take

    side = result.target.size
    source = take(inversion.source, side) if inversion.source else result.reconstruction
    return grid([source, result.reconstruction, take(result.result, side)], ["source", "reconstruction", "swap"])


def make_record(
    arguments: argparse.Namespace, result: "SwapResult", timings: dict[str, float], seed: int | None
) -> dict[str, Any]:
    """Every setting, timing and seed (of noise that was drawn): enough to repeat the swap."""
    import torch

    flags = {name: _plain(value) for name, value in vars(arguments).items() if name not in ("run", "command")}
    return {
        "command": arguments.command,
        "arguments": flags,
        "seed": seed,
        "settings": {"preset": arguments.preset or "paper", **result.settings},
        "seconds": {stage: round(seconds, 3) for stage, seconds in timings.items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "platform": sys.platform},
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
