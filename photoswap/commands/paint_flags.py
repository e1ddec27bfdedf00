"""The flags of `photoswap paint`: who paints, where, and what; and which of them go together."""

import argparse
from typing import TYPE_CHECKING

from photoswap.commands import arguments as types
from photoswap.commands.common import STEPS, add_common, add_concepts, refuse
from photoswap.commands.outputs import check_folder, check_free
from photoswap.commands.swap_files import GRID, result_names

if TYPE_CHECKING:
    from photoswap.paint_methods.network import Sampler

PAINT_RECORD, MOST_PAINTINGS = "paint.json", 64
GUIDANCE_BY = {"reference": 5.0, "prompt": 7.5}  # as in the scripts that came with the weights
MODEL_BY = {"reference": "paint-by-example", "prompt": "sd2-inpainting"}
NETWORK = "network"
# As photoswap.paint_methods has them, which this answers before torch is there; a test compares both.
WANTED = {
    NETWORK: (),
    "blended-text": ("prompt",),
    "blended-image": ("reference",),
    "paste-harmonise": ("reference",),
    "paste-denoise": ("reference",),
}
HEEDED = {
    NETWORK: ("reference", "prompt", "negative"),
    "blended-text": ("negative",),
    "blended-image": ("prompt", "negative"),
    "paste-harmonise": ("reference_mask",),
    "paste-denoise": ("reference_mask", "prompt", "negative"),
}
WITHOUT_NETWORKS = ("paste-harmonise",)
OF_NETWORKS, OF_READERS = ("model", "config", "prediction", "steps", "guidance", "size"), ("device", "dtype", "seed")
# settings that --set leaves to their own flags
OWN_FLAGS = {"guidance_scale": "guidance", "keep": "redraw"}
OWN_FLAGS |= {name: name for name in ("steps", "crop", "size", "sampler", "eta")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap paint`."""
    parser.add_argument("picture", type=types.path, help="the picture to paint in")
    where = parser.add_argument_group("where").add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--mask", type=types.path, metavar="FILE", help="a picture of its size, white where it is to be repainted"
    )
    where.add_argument(
        "--box",
        nargs=4,
        type=types.whole(0, types.SIDE),
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="a box in pixels, as `photoswap mask` prints it",
    )
    where.add_argument("--word", type=types.words, metavar="WORDS", help="where that is, by a model's attention: dog")
    parser.add_argument(
        "--word-model", metavar="MODEL", help="the model that finds --word (default: miniature, which is for trying)"
    )
    what = parser.add_argument_group("what")
    what.add_argument("--reference", type=types.path, metavar="FILE", help="a picture of the subject, filling it")
    what.add_argument("--prompt", type=types.words, help="what to paint, in words")
    what.add_argument("--negative", type=types.prompt, metavar="PROMPT", help="what to keep away from (with --prompt)")
    what.add_argument(
        "--reference-mask", type=types.path, metavar="FILE", help="where it shows the subject, for what is pasted"
    )
    group = parser.add_argument_group("painting")
    group.add_argument(
        "--method", choices=tuple(WANTED), default=NETWORK, help="who paints (default: a network trained to)"
    )
    group.add_argument(
        "--set",
        dest="settings",
        type=types.setting,
        action="append",
        default=[],
        metavar="SETTING=VALUE",
        help="a setting of the method, such as t0=0.4; may be repeated (docs/paint.md has them all)",
    )
    group.add_argument(
        "--features",
        type=types.path,
        metavar="FILE",
        help="what blended-image steers by: CLIP ViT-B/32's weights (default: the drawn world's recogniser)",
    )
    group.add_argument(
        "--crop",
        action=argparse.BooleanOptionalAction,
        help="work on an enlarged crop around the mask (default: if small)",
    )
    group.add_argument("--redraw", action="store_true", help="leave nothing of the picture outside the mask untouched")
    group.add_argument(
        "--sampler", choices=("plms", "ddim"), help="(default: plms with --reference, ddim with --prompt, as published)"
    )
    group.add_argument(
        "--eta",
        type=types.number(0, 1),
        metavar="ETA",
        help="how much noise ddim draws afresh (default: 0, with --prompt 1, as published)",
    )
    group.add_argument(
        "--steps", type=types.whole(1, types.MOST_STEPS), metavar="N", help=f"of the sampler (default: {STEPS})"
    )
    group.add_argument(
        "--guidance",
        type=types.number(0, 100),
        metavar="SCALE",
        help="how strongly a network's reference or the prompt steers (default: 5 for a reference, 7.5 for a prompt)",
    )
    group.add_argument("--size", type=types.size, metavar="WxH", help="pixels to work at (default: by model, picture)")
    group.add_argument(
        "--count",
        type=types.whole(1, MOST_PAINTINGS),
        default=1,
        metavar="N",
        help="results, from one seed after another",
    )
    add_concepts(group)
    add_common(parser, "photoswap-painting", "the folder for result.png, grid.png and paint.json", painters=True)


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for flags that would change nothing, and for what may not be written."""
    if arguments.word is None:
        refuse(arguments, "without --word, which it finds", "word_model")
    check_what(arguments)
    if arguments.box and (arguments.box[0] >= arguments.box[2] or arguments.box[1] >= arguments.box[3]):
        raise ValueError(f"--box {' '.join(map(str, arguments.box))} is empty; want LEFT TOP RIGHT BOTTOM, in pixels")
    check_folder(arguments.out)
    read = [arguments.picture, arguments.mask, arguments.reference, arguments.model, arguments.config]
    read += [
        arguments.reference_mask,
        arguments.features,
        arguments.word_model,
        *(file.path for file in arguments.concept),
    ]
    names = [*result_names(arguments.count), GRID, PAINT_RECORD]
    check_free([arguments.out / name for name in names], read, arguments.overwrite)


def check_what(arguments: argparse.Namespace) -> None:
    """Raise ValueError for what the method cannot be told, and for what it lacks."""
    method, network = arguments.method, arguments.method == NETWORK
    if network and arguments.reference and arguments.prompt:
        raise ValueError("--prompt is not allowed with --reference: a network is told by one; see --method for others")
    if lacking := [name for name in WANTED[method] if getattr(arguments, name) is None]:
        raise ValueError(f"--method {method} is told by a {lacking[0]}: give --{lacking[0]}")
    if network and not arguments.reference and not arguments.prompt:
        raise ValueError("one of the arguments --reference --prompt is required: what is to be painted?")
    told = ("reference", "prompt", "negative", "reference_mask")
    refuse(arguments, f"with --method {method}", *set(told).difference(WANTED[method], HEEDED[method]))
    if arguments.prompt is None:
        refuse(arguments, "without --prompt", "negative")
        if arguments.concept:
            raise ValueError("--concept changes nothing without --prompt, whose words it gives a meaning; leave it out")
        refuse(arguments, "without --prompt, by which it is guided", *() if network else ("guidance",))
    if method in WITHOUT_NETWORKS:
        refuse(arguments, f"with --method {method}, which runs no network", *OF_NETWORKS)
        if arguments.word is None:
            refuse(arguments, f"with --method {method}, which runs no network", *OF_READERS)
        if arguments.count > 1:
            raise ValueError(f"--count changes nothing with --method {method}, which draws no noise; leave it out")
    if method != "blended-image":
        refuse(arguments, "without --method blended-image, which it steers", "features")
    if not network:
        refuse(arguments, f"with --method {method}", "sampler", "eta")
    elif arguments.eta and (arguments.sampler or usual_sampler(arguments)) == "plms":
        refuse(arguments, "with plms, which draws no noise: say --sampler ddim", "eta")
    if arguments.guidance == 1:
        refuse(arguments, "at guidance 1, which asks the prompt alone", "negative")


def asked_by(arguments: argparse.Namespace) -> str:
    """Whether a network is told by a "reference" or by a "prompt"."""
    return "reference" if arguments.reference else "prompt"


def usual_sampler(arguments: argparse.Namespace) -> "Sampler":
    """The published one."""
    return "plms" if arguments.reference else "ddim"
