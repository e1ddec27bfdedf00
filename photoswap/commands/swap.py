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

With --mask, or --mask-word, which finds the mask, nothing changes outside it;
--crop works on an enlarged crop around the subject and puts it back; --adain
gives the subject the source's light. Several subjects of one picture are
swapped one after another, each in a mask: repeat --subject and --concept, or
--target, in the same order. Several --target for one subject are several swaps
of the same picture in one run, which share its rows: result-1.png and so on.

examples:
  photoswap swap dog.jpg --prompt "a photo of a dog" --subject dog --concept my-cat/concept.safetensors
  photoswap swap dog.jpg --prompt "a photo of a dog" --subject dog --target "red fox" --mask dog-mask.png
  photoswap swap inversion.safetensors --subject dog --concept my-cat/concept.safetensors --blend
  photoswap swap dog.jpg --prompt "a photo of a dog" --subject dog --target "red fox" --mask-word dog --crop
  photoswap swap dog.jpg --prompt "a photo of a dog" --subject dog --target "red fox" --target cat
  photoswap swap two.jpg --prompt "a photo of a dog and a cat" --subject dog --concept my-dog/concept.safetensors \\
    --subject cat --concept my-cat/concept.safetensors
  photoswap swap dog.jpg --prompt "a photo of a dog" --subject dog --concept my-dog/concept.safetensors \\
    --preset official --inversion null-text
"""

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    read_concepts,
    refuse,
    seed_for,
)
from photoswap.commands.invert import add_inversion, inversion_for
from photoswap.commands.outputs import check_folder, check_free, say, write_together
from photoswap.commands.settings import settings_of
from photoswap.commands.subjects import check_masked, check_words, find_masks, make_rounds, seen

if TYPE_CHECKING:
    from PIL import Image

    from models.stable_diffusion import StableDiffusion
    from photoswap.inversion import Inversion
    from photoswap.method import Method
    from photoswap.pipeline import Reference, SwapResult
    from photoswap.sizes import Box
    from photoswap.turns import Turn

INVERSION_SUFFIX = ".safetensors"
RESULT, GRID, RECORD = "result.png", "grid.png", "swap.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap swap`."""
    parser.add_argument(
        "source", nargs="?", type=types.path, help="the picture, or its inversion; without it, one is drawn"
    )
    parser.add_argument("--prompt", type=types.words, help="what is in the picture (an inversion knows its own)")
    parser.add_argument(
        "--subject",
        type=types.words,
        action="append",
        required=True,
        metavar="WORDS",
        help="what in the prompt is to be swapped: dog; repeated for several, as are --target, --concept and --mask",
    )
    parser.add_argument(
        "--target",
        type=types.words,
        action="append",
        metavar="WORDS",
        help="what takes its place (default: the concept's subject; a LoRA of other tools has none); repeated for "
        "several results",
    )
    parser.add_argument(
        "--target-prompt",
        type=types.words,
        action="append",
        metavar="PROMPT",
        help="(default: --prompt, with --target for --subject); repeated for several results",
    )
    parser.add_argument(
        "--mask",
        type=types.path,
        action="append",
        metavar="FILE",
        help="a picture of the source's size, white where it may change (default for several subjects: by their words)",
    )
    parser.add_argument(
        "--mask-word", type=types.words, metavar="WORDS", help="find the mask as `photoswap mask` does: where that is"
    )
    parser.add_argument(
        "--crop", action="store_true", help="work on an enlarged crop around the mask, or the subject, and put it back"
    )
    parser.add_argument(
        "--adain", action="store_true", help="inside the mask, give the latents the source's mean and deviation"
    )
    parser.add_argument(
        "--reference",
        type=types.path,
        metavar="FILE",
        help="a picture of what takes its place, for methods that want one",
    )
    parser.add_argument(
        "--reference-mask", type=types.path, metavar="FILE", help="a picture of its size, white where the subject is"
    )
    parser.add_argument(
        "--reference-prompt", type=types.words, metavar="PROMPT", help="what is in it (default: it is told nothing)"
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
            type=types.whole(0, types.MOST_STEPS),
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


def run(arguments: argparse.Namespace) -> None:
    """Invert if need be, swap, and write the three files. Every mistake is found before the long part begins."""
    check(arguments)
    from models.images import load_image, load_mask
    from photoswap.inversion import Inversion
    from photoswap.methods import Photoswap

    given = arguments.source
    inversion = Inversion.load(given) if given and given.suffix == INVERSION_SUFFIX else None
    picture = load_image(given) if given and inversion is None else None
    given_masks = [load_mask(mask) for mask in arguments.mask or ()]
    method = make_method(arguments, inversion, GUIDANCE)
    check_masked(arguments, method)
    check_wants(arguments, method)
    shown = load_image(arguments.reference) if arguments.reference else None
    shown_mask = load_mask(arguments.reference_mask) if arguments.reference_mask else None
    if arguments.M and isinstance(method, Photoswap) and method.phi >= method.M:
        warnings.warn(f"--M {method.M} changes nothing: phi, {method.phi} steps long, carries M with it", stacklevel=1)
    concepts = read_concepts(arguments.concept)
    # one subject takes all of them together; several take one each
    taken = [concepts] if len(arguments.subject) == 1 else [[one] for one in concepts]
    every = make_rounds(arguments, inversion, [[concept for concept, _ in several] for several in taken])
    clock = {"load": 0.0, "invert": 0.0}
    with timed(clock, "load"):
        model = load_model(arguments, concepts=taken[0] if taken else ())
    check_words(model, [turn for turns in every for turn in turns])
    method = make_method(arguments, inversion, guidance_for(model, arguments.guidance))
    if picture is None:
        with timed(clock, "invert"):
            inversion = inversion or invert_source(model, None, every[0][0].source, method, arguments)
        picture = seen(model, inversion)
    masks, boxes = find_masks(arguments, model, picture, [turns[0] for turns in every], given_masks)
    done: list[Swapped] = []
    for i, turns in enumerate(every):
        if i and concepts:
            del model  # so that there is room for the next
            with timed(clock, "load"):
                model = load_model(arguments, concepts=taken[i])
        before = done[-1].picture if done else picture
        with timed(clock, "invert"):
            ready = None if i else inversion
            ready = ready or invert_source(model, before.crop(boxes[i]), turns[0].source, method, arguments)
        with timed(clock, "invert"):
            reference = invert_reference(arguments, model, ready, shown, shown_mask)
        found = swap_round(arguments, model, ready, turns, method, before, masks[i], boxes[i], reference)
        for stage, spent in found[0].result.timings.items():
            clock[stage] = clock.get(stage, 0.0) + spent
        done += found
    seed = seed_for(arguments.seed) if method.draws else done[0].inversion.seed
    write_results(arguments, done, len(every[0]) > 1, clock, seed)


@dataclass(frozen=True, eq=False)
class Swapped:
    """One swap: what it started from, what came out, where, and the complete picture behind it."""

    inversion: "Inversion"
    result: "SwapResult"
    box: "Box"
    picture: "Image.Image"


def swap_round(
    arguments: argparse.Namespace,
    model: "StableDiffusion",
    inversion: "Inversion",
    turns: "Sequence[Turn]",
    method: "Method",
    picture: "Image.Image",
    mask: "Image.Image | None",
    box: "Box",
    reference: "Reference | None",
) -> list[Swapped]:
    """Swap one subject in a box of the picture, for each of its targets. mask: of the picture's size."""
    from photoswap.crop import put_back
    from photoswap.pipeline import SwapRequest, swap_all

    inside = mask and mask.crop(box)
    requests = [
        SwapRequest(
            inversion,
            turn.target,
            method,
            source_prompt=turn.source,
            source_word=turn.source_word,
            target_word=turn.target_word,
            mask=inside,
            adain=arguments.adain,
            reference=reference,
            seed=seed_for(arguments.seed),
        )
        for turn in turns
    ]
    results = swap_all(model, requests, size=arguments.size, progress=not arguments.quiet)
    complete = [put_back(one.result, picture, box) if arguments.crop else one.result for one in results]
    return [Swapped(inversion, result, box, final) for result, final in zip(results, complete, strict=True)]


def invert_reference(
    arguments: argparse.Namespace,
    model: "StableDiffusion",
    source: "Inversion",
    picture: "Image.Image | None",
    mask: "Image.Image | None",
) -> "Reference | None":
    """The reference, if there is one, inverted at the source's size and in as many steps."""
    from photoswap.inversion import invert_image
    from photoswap.pipeline import Reference, decoded_size

    if picture is None or mask is None:
        return None
    told, size = arguments.reference_prompt or "", decoded_size(model, source)
    found = invert_image(model, picture, told, "direct", source.steps, size=size, progress=not arguments.quiet)
    return Reference(found, mask)


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for flags that would change nothing, and for what may not be written."""
    if arguments.source is None:
        refuse(arguments, "without a picture", "inversion")
    elif arguments.source.suffix == INVERSION_SUFFIX:
        refuse(arguments, "where there is an inversion already", "inversion")
    if arguments.A == 0:
        refuse(arguments, "with --A 0, which swaps no A", "align")
    if arguments.fractions is not None:
        refuse(arguments, "beside --fractions, which says the same", "phi", "M", "A")
    alone = len(arguments.subject) == 1
    for name in ("mask",) if alone else ("target", "concept", "mask"):  # one takes any number of targets and concepts
        given = len(getattr(arguments, name) or ())
        if given not in (0, len(arguments.subject)):
            raise ValueError(
                f"there are {len(arguments.subject)} --subject and {given} --{name}; want as many, or none"
            )
    words, prompts = len(arguments.target or ()), len(arguments.target_prompt or ())
    if alone and prompts and words > 1 and words != prompts:
        raise ValueError(f"there are {words} --target and {prompts} --target-prompt; want as many, or one --target")
    if not alone:
        refuse(arguments, "for several subjects, whose prompts follow from their words", "target_prompt")
        refuse(arguments, "for several subjects, each found by its own word", "mask_word")
    if arguments.mask:
        refuse(arguments, "beside --mask, which says the same", "mask_word")
    if arguments.crop and (arguments.source is None or arguments.source.suffix == INVERSION_SUFFIX):
        raise ValueError(
            "--crop wants a picture: what is drawn or inverted already is worked on as it is; leave it out"
        )
    check_folder(arguments.out)
    read = [
        arguments.source,
        *(arguments.mask or ()),
        arguments.model,
        arguments.config,
        *(file.path for file in arguments.concept),
    ]
    read += [arguments.reference, arguments.reference_mask]
    names = [*result_names(max(words, prompts, 1) if alone else 1), GRID, RECORD]
    check_free([arguments.out / name for name in names], read, arguments.overwrite)


def result_names(count: int) -> list[str]:
    """What the results are called: result.png where it is one, else numbered."""
    return [RESULT] if count == 1 else [f"result-{i}.png" for i in range(1, count + 1)]


def make_method(arguments: argparse.Namespace, inversion: "Inversion | None", guidance_scale: float) -> "Method":
    """The method, or Photoswap's preset, at this number of steps, with the settings that were given.

    An inversion brings its own number of steps, and its guidance where it was made for one. guidance_scale: elsewhere.
    Raises ValueError for an unknown method, and for settings it does not have.
    """
    from photoswap.methods import METHODS, official

    if arguments.method not in METHODS:
        raise ValueError(f"no method {arguments.method!r}; want one of {', '.join(METHODS)}")
    kind = METHODS[arguments.method]
    usual = kind()
    steps = inversion.steps if inversion and arguments.steps is None else arguments.steps or usual.steps
    if arguments.guidance is None and not isinstance(usual.guidance_scale, tuple):
        guidance_scale = min(guidance_scale, usual.guidance_scale)  # the miniature's is lower than the published
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


def check_wants(arguments: argparse.Namespace, method: "Method") -> None:
    """Raise ValueError for what the method wants and was not given, and for what it would ignore."""
    if "reference" not in method.wants:
        refuse(arguments, f"with {arguments.method}", "reference", "reference_mask", "reference_prompt")
    elif arguments.reference is None or arguments.reference_mask is None:
        raise ValueError(f"{arguments.method} wants a picture of the subject: give --reference and --reference-mask")
    if not method.inverts:
        refuse(arguments, f"with {arguments.method}, which inverts nothing", "inversion")


@contextmanager
def timed(clock: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds of what is done within to those of a stage."""
    start = time.perf_counter()
    yield
    clock[stage] = clock.get(stage, 0.0) + time.perf_counter() - start


def invert_source(
    model: "StableDiffusion",
    picture: "Image.Image | None",
    prompt: str,
    method: "Method",
    arguments: argparse.Namespace,
) -> "Inversion":
    """The inversion of a picture, or of one drawn from the seed."""
    from photoswap.inversion import encode, invert_image, synthesize

    settings = (method.steps, method.guidance_scale, arguments.size, not arguments.quiet)
    if picture is None:
        return synthesize(model, prompt, seed_for(arguments.seed), *settings)
    if not method.inverts:
        return encode(model, picture, prompt, method.steps, arguments.size)
    return invert_image(model, picture, prompt, inversion_for(arguments.inversion), *settings)


def write_results(
    arguments: argparse.Namespace,
    done: "Sequence[Swapped]",
    several: bool,
    clock: dict[str, float],
    seed: int | None,
) -> None:
    """Put the files into --out, and say so. several: whether each swap is a result, not a step to the last."""
    results = done if several else done[-1:]
    files: dict[str, Any] = dict(zip(result_names(len(results)), (one.picture for one in results), strict=True))
    files[GRID] = make_grid(done, several)
    files[RECORD] = json.dumps(make_record(arguments, done, clock, seed), indent=2) + "\n"
    write_together({arguments.out / name: content for name, content in files.items()})
    for name in files:
        say(arguments.out / name)


def make_grid(done: "Sequence[Swapped]", several: bool) -> "Image.Image":
    """Source, reconstruction and swap at the size worked on: a row for each swap, or one for several of one source."""
    from models.images import grid
    from photoswap.sizes import take

    rows: list[list[Image.Image]] = []
    for one in done:
        side = one.result.target.size
        source = take(one.inversion.source, side) if one.inversion.source else one.result.reconstruction
        rows.append([source, one.result.reconstruction, take(one.result.result, side)])
    if not several:
        return grid([each for row in rows for each in row], ["source", "reconstruction", "swap"] * len(rows), columns=3)
    numbered = [f"swap {i}" for i in range(1, len(rows) + 1)]
    return grid([*rows[0][:2], *(row[2] for row in rows)], ["source", "reconstruction", *numbered])


def make_record(
    arguments: argparse.Namespace, done: "Sequence[Swapped]", clock: dict[str, float], seed: int | None
) -> dict[str, Any]:
    """Every setting, timing and seed (of noise that was drawn): enough to repeat the swap.

    Settings are of the first swap; where there are several, "swaps" has those of each, in order.
    """
    import torch

    flags = {name: _plain(value) for name, value in vars(arguments).items() if name not in ("run", "command")}
    settings = [{**one.result.settings, "box": list(one.box) if arguments.crop else None} for one in done]
    return {
        "command": arguments.command,
        "arguments": flags,
        "seed": seed,
        "settings": {"preset": arguments.preset or "paper", **settings[0]},
        **({"swaps": settings} if len(done) > 1 else {}),
        "seconds": {stage: round(spent, 3) for stage, spent in clock.items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "platform": sys.platform},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path | types.ScaledFile) else value
