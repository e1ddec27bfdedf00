"""Paint what a reference shows into a picture, inside a mask; nothing is learnt.

The subject of --reference takes the place that the mask covers, in the
picture's light and perspective (Paint by Example). With --prompt, what it says
is painted there instead, by an inpainting checkpoint of Stable Diffusion.

The mask is a picture of the source's size, white where it is to be repainted
(--mask), or a box in pixels (--box), or it is found by a word: what --word
names in the picture, as `photoswap mask` finds it with a model that reads
(--word-model). A mask whose box covers less than 2 % of what the model sees is
worked on in an enlarged crop, because the models never learnt with smaller
ones; --crop always does, and --no-crop never. Outside the mask every pixel
stays the source's, at the source's own resolution; with --redraw it is what
the model made of it, as in the published scripts.

The folder --out receives result.png, grid.png (picture with mask, what the
model was shown of it, reference, result), and paint.json, which holds every
setting. --count makes as many results, from one seed after another.

examples:
  photoswap paint room.jpg --mask sofa-mask.png --reference my-dog.jpg
  photoswap paint room.jpg --box 120 200 420 480 --reference my-dog.jpg --count 4
  photoswap paint street.jpg --word car --word-model sd21-base --reference my-car.jpg
  photoswap paint room.jpg --mask sofa-mask.png --prompt "a red velvet sofa" --model sd2-inpainting
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from photoswap.commands import arguments as types
from photoswap.commands.common import (
    STEPS,
    add_common,
    add_concepts,
    load_kind,
    load_model,
    put_concepts,
    read_concepts,
    refuse,
    seed_for,
)
from photoswap.commands.outputs import check_folder, check_free, say, write_together
from photoswap.commands.swap_files import GRID, plain, result_names

if TYPE_CHECKING:
    from PIL import Image

    from photoswap.painters import PaintResult, PaintSettings, Sampler

PAINT_RECORD, MOST_PAINTINGS = "paint.json", 64
GUIDANCE_BY = {"reference": 5.0, "prompt": 7.5}  # as in the scripts that came with the weights
MODEL_BY = {"reference": "paint-by-example", "prompt": "sd2-inpainting"}


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
    what = parser.add_argument_group("what").add_mutually_exclusive_group(required=True)
    what.add_argument("--reference", type=types.path, metavar="FILE", help="a picture of the subject, filling it")
    what.add_argument("--prompt", type=types.words, help="what to paint, in words")
    parser.add_argument(
        "--negative", type=types.prompt, metavar="PROMPT", help="what to keep away from (with --prompt)"
    )
    group = parser.add_argument_group("painting")
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
        help="how strongly reference or prompt steers (default: 5 for a reference, 7.5 for a prompt)",
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


def run(arguments: argparse.Namespace) -> None:
    """Find the mask if need be, paint, and write the files. Every mistake is found before the long part begins."""
    check(arguments)
    from models.images import load_image
    from models.stable_diffusion import LatentDiffusion
    from photoswap.painters import check_told, paint, where_to_work

    picture = load_image(arguments.picture)
    told = load_image(arguments.reference) if arguments.reference else arguments.prompt
    settings, mask = make_settings(arguments), make_mask(arguments, picture)
    concepts = read_concepts(arguments.concept)
    arguments.model = arguments.model or MODEL_BY[_by(arguments)]
    model = load_kind(arguments, LatentDiffusion)
    check_told(model, told, arguments.negative)
    if concepts:
        put_concepts(model, concepts)  # type: ignore[arg-type]  # told by a prompt, so its context is text
    where_to_work(model, picture, mask, settings)
    first = seed_for(arguments.seed)
    painted = [
        paint(
            model,
            picture,
            mask,
            told,
            settings,
            negative_prompt=arguments.negative,
            seed=first + i,
            progress=not arguments.quiet,
        )
        for i in range(arguments.count)
    ]
    write_painted(arguments, picture, mask, told, painted)


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for flags that would change nothing, and for what may not be written."""
    if arguments.word is None:
        refuse(arguments, "without --word, which it finds", "word_model")
    if arguments.reference:
        refuse(arguments, "with --reference: Paint by Example knows no words", "negative")
        if arguments.concept:
            raise ValueError(
                "--concept changes nothing with --reference: Paint by Example knows no words; leave it out"
            )
    if arguments.guidance == 1:
        refuse(arguments, "at guidance 1, which asks the prompt alone", "negative")
    if arguments.box and (arguments.box[0] >= arguments.box[2] or arguments.box[1] >= arguments.box[3]):
        raise ValueError(f"--box {' '.join(map(str, arguments.box))} is empty; want LEFT TOP RIGHT BOTTOM, in pixels")
    if arguments.eta and (arguments.sampler or _usual_sampler(arguments)) == "plms":
        refuse(arguments, "with plms, which draws no noise: say --sampler ddim", "eta")
    check_folder(arguments.out)
    read = [arguments.picture, arguments.mask, arguments.reference, arguments.model, arguments.config]
    read += [arguments.word_model, *(file.path for file in arguments.concept)]
    names = [*result_names(arguments.count), GRID, PAINT_RECORD]
    check_free([arguments.out / name for name in names], read, arguments.overwrite)


def make_settings(arguments: argparse.Namespace) -> "PaintSettings":
    """The published settings, for a reference or for a prompt, with the flags that were given."""
    from photoswap.painters import PaintSettings

    sampler: Sampler = arguments.sampler or _usual_sampler(arguments)
    usual_eta = 1.0 if sampler == "ddim" and arguments.prompt else 0.0
    return PaintSettings(
        steps=arguments.steps or STEPS,
        guidance_scale=GUIDANCE_BY[_by(arguments)] if arguments.guidance is None else arguments.guidance,
        sampler=sampler,
        eta=usual_eta if arguments.eta is None else arguments.eta,
        crop=arguments.crop,
        keep=not arguments.redraw,
        size=arguments.size,
    )


def make_mask(arguments: argparse.Namespace, picture: "Image.Image") -> "Image.Image":
    """The mask from its file, the box, or a word, of the picture's size."""
    from PIL import Image

    from models.images import load_mask
    from models.prompts import article
    from photoswap.masks import find_subject
    from photoswap.sizes import check_mask

    if arguments.mask:
        mask = load_mask(arguments.mask)
        check_mask(mask, picture.size)
        return mask
    if arguments.box:
        box = tuple(arguments.box)
        if box[2] > picture.width or box[3] > picture.height:
            raise ValueError(
                f"--box {' '.join(map(str, box))} reaches beyond the picture, which is {picture.width} x "
                f"{picture.height} pixels"
            )
        mask = Image.new("L", picture.size, 0)
        mask.paste(255, box)
        return mask
    reader = copy(arguments)  # the model that finds the word, as if it had been asked for
    reader.model, reader.config, reader.prediction = arguments.word_model or "miniature", None, None
    model = load_model(reader, concepts=())
    prompt = f"a photo of {article(arguments.word)} {arguments.word}"
    seed, shown = seed_for(arguments.seed), not arguments.quiet
    return find_subject(model, picture, prompt, arguments.word, seed=seed, progress=shown).mask


def write_painted(
    arguments: argparse.Namespace,
    picture: "Image.Image",
    mask: "Image.Image",
    told: "Image.Image | str",
    painted: "Sequence[PaintResult]",
) -> None:
    """Put the files into --out, and say so."""
    files: dict[str, Any] = dict(zip(result_names(len(painted)), (one.result for one in painted), strict=True))
    files[GRID] = paint_grid(picture, mask, told, painted)
    files[PAINT_RECORD] = json.dumps(paint_record(arguments, painted), indent=2) + "\n"
    write_together({arguments.out / name: content for name, content in files.items()})
    for name in files:
        say(arguments.out / name)


def paint_grid(
    picture: "Image.Image", mask: "Image.Image", told: "Image.Image | str", painted: "Sequence[PaintResult]"
) -> "Image.Image":
    """The picture with its mask, what the model was shown of it, the reference if there is one, and the results."""
    from PIL import ImageOps

    from models.images import grid
    from photoswap.masks import overlaid

    size = painted[0].painted.size
    shown = [overlaid(picture, mask), painted[0].seen]
    labels = ["picture and mask", "what it sees"]
    if not isinstance(told, str):
        shown.append(told)
        labels.append("reference")
    results = [one.result for one in painted]
    labels += ["result"] if len(results) == 1 else [f"result {i}" for i in range(1, len(results) + 1)]
    return grid([ImageOps.pad(one, size, color="white") for one in [*shown, *results]], labels)


def paint_record(arguments: argparse.Namespace, painted: "Sequence[PaintResult]") -> dict[str, Any]:
    """Every setting, timing and seed: enough to paint the same again."""
    import torch

    flags = {name: plain(value) for name, value in vars(arguments).items() if name not in ("run", "command")}
    return {
        "command": arguments.command,
        "arguments": flags,
        "seeds": [one.seed for one in painted],
        "settings": {**painted[0].settings, "box": list(painted[0].box)},
        "seconds": [{stage: round(spent, 3) for stage, spent in one.timings.items()} for one in painted],
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "platform": sys.platform},
    }


def _by(arguments: argparse.Namespace) -> str:
    return "reference" if arguments.reference else "prompt"


def _usual_sampler(arguments: argparse.Namespace) -> "Sampler":
    return "plms" if arguments.reference else "ddim"
