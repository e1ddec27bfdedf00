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

--method takes another way than a network that was trained to paint: by a model
that draws whole pictures (blended-text, blended-image, paste-denoise), or by
none (paste-harmonise). docs/paint.md compares them.

The folder --out receives result.png, grid.png (picture with mask, what the
model was shown of it, reference, result), and paint.json, which holds every
setting. --count makes as many results, from one seed after another.

examples:
  photoswap paint room.jpg --mask sofa-mask.png --reference my-dog.jpg
  photoswap paint room.jpg --box 120 200 420 480 --reference my-dog.jpg --count 4
  photoswap paint street.jpg --word car --word-model sd21-base --reference my-car.jpg
  photoswap paint room.jpg --mask sofa-mask.png --prompt "a red velvet sofa" --model sd2-inpainting
  photoswap paint room.jpg --mask sofa-mask.png --reference my-dog.jpg --reference-mask my-dog-mask.png \\
    --method paste-denoise --prompt "a dog on a sofa" --set t0=0.4
"""

import argparse
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from photoswap.commands.common import load_kind, load_model, put_concepts, read_concepts, seed_for
from photoswap.commands.paint_files import write_painted
from photoswap.commands.paint_flags import (
    GUIDANCE_BY,
    MODEL_BY,
    NETWORK,
    OWN_FLAGS,
    WITHOUT_NETWORKS,
    add_arguments,
    asked_by,
    check,
    usual_sampler,
)
from photoswap.commands.settings import set_by_name
from photoswap.guidance import GUIDANCE_OF

if TYPE_CHECKING:
    from PIL import Image

    from models.stable_diffusion import LatentDiffusion
    from photoswap.paint_method import PaintMethod, Told
    from photoswap.paint_methods.network import Sampler

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> None:
    """Find the mask if need be, paint, and write the files. Every mistake is found before the long part begins."""
    check(arguments)
    from models.images import load_image
    from photoswap.painters import check_told, paint, where_to_work

    picture, told = load_image(arguments.picture), make_told(arguments)
    method, mask = make_paint_method(arguments), make_mask(arguments, picture)
    concepts = read_concepts(arguments.concept)
    model = load_painter(arguments)
    method = fitted(method, arguments, model)
    check_told(model, told, method)
    if concepts:
        put_concepts(model, concepts)  # type: ignore[arg-type]  # told by a prompt, so its context is text
    where_to_work(model, picture, mask, method)
    first = seed_for(arguments.seed)
    painted = [
        paint(model, picture, mask, told, method, seed=first + i, progress=not arguments.quiet)
        for i in range(arguments.count)
    ]
    write_painted(arguments, picture, mask, told, painted)


def make_told(arguments: argparse.Namespace) -> "Told":
    """What is to be painted."""
    from models.images import load_image, load_mask
    from photoswap.paint_method import Told

    reference = load_image(arguments.reference) if arguments.reference else None
    mask = load_mask(arguments.reference_mask) if arguments.reference_mask else None
    return Told(reference, arguments.prompt, mask, arguments.negative)


def load_painter(arguments: argparse.Namespace) -> "LatentDiffusion | None":
    """The model asked for, or the method's usual one; None where it runs none."""
    from models.stable_diffusion import LatentDiffusion
    from photoswap.paint_methods import PAINT_METHODS

    if arguments.method in WITHOUT_NETWORKS:
        return None
    usual = (
        MODEL_BY[asked_by(arguments)] if arguments.method == NETWORK else PAINT_METHODS[arguments.method].usual_model
    )
    arguments.model = arguments.model or usual
    return load_kind(arguments, LatentDiffusion)


def make_paint_method(arguments: argparse.Namespace) -> "PaintMethod":
    """The method at its published settings, with the flags that were given."""
    from photoswap.paint_methods import PAINT_METHODS

    kind = PAINT_METHODS[arguments.method]
    given: dict[str, Any] = {"crop": arguments.crop, "keep": not arguments.redraw, "size": arguments.size}
    given |= {} if arguments.steps is None else {"steps": arguments.steps}
    if arguments.method == NETWORK:
        sampler: Sampler = arguments.sampler or usual_sampler(arguments)
        usual_eta = 1.0 if sampler == "ddim" and arguments.prompt else 0.0
        given |= {"sampler": sampler, "eta": usual_eta if arguments.eta is None else arguments.eta}
        given["guidance_scale"] = GUIDANCE_BY[asked_by(arguments)]
    given |= {} if arguments.guidance is None else {"guidance_scale": arguments.guidance}
    return kind(**given, **set_by_name(arguments.settings, kind, arguments.method, given, OWN_FLAGS))


def fitted(method: "PaintMethod", arguments: argparse.Namespace, model: "LatentDiffusion | None") -> "PaintMethod":
    """The method with the guidance that suits the model, where nobody said it, and with what it steers by."""
    from photoswap.paint_methods import BlendedByImage

    if model is None:
        return method
    if arguments.guidance is None and model.config.name in GUIDANCE_OF:
        method = replace(method, guidance_scale=GUIDANCE_OF[model.config.name])
    if not isinstance(method, BlendedByImage):
        return method
    from photoswap.benchmark.features import find_features

    return replace(method, embed=find_features(arguments.features, model.device).embed)


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
