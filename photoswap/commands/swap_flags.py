"""The flags of `photoswap swap`, what they make of a method, and which of them contradict each other."""

import argparse
from typing import TYPE_CHECKING

from photoswap.commands import arguments as types
from photoswap.commands.common import (
    add_common,
    add_sampling,
    refuse,
)
from photoswap.commands.invert import add_inversion
from photoswap.commands.outputs import check_folder, check_free
from photoswap.commands.settings import settings_of
from photoswap.commands.swap_files import GRID, RECORD, result_names

if TYPE_CHECKING:
    from photoswap.inversion import Inversion
    from photoswap.method import Method

INVERSION_SUFFIX = ".safetensors"


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
