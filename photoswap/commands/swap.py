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
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from photoswap.commands.common import (
    GUIDANCE,
    guidance_for,
    load_model,
    read_concepts,
    seed_for,
)
from photoswap.commands.invert import inversion_for
from photoswap.commands.subjects import check_masked, check_words, find_masks, make_rounds, seen
from photoswap.commands.swap_files import Swapped, write_results
from photoswap.commands.swap_flags import INVERSION_SUFFIX, add_arguments, check, check_wants, make_method

if TYPE_CHECKING:
    from PIL import Image

    from models.stable_diffusion import StableDiffusion
    from photoswap.inversion import Inversion
    from photoswap.method import Method
    from photoswap.sizes import Box
    from photoswap.staging import Reference
    from photoswap.turns import Turn

__all__ = ["add_arguments", "run"]


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
    """Swap one subject in a box of the picture, for each of its targets.

    mask: of the picture's size.
    """
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
    return [Swapped(inversion, *three) for three in zip(results, [box] * len(results), complete, strict=True)]


def invert_reference(
    arguments: argparse.Namespace,
    model: "StableDiffusion",
    source: "Inversion",
    picture: "Image.Image | None",
    mask: "Image.Image | None",
) -> "Reference | None":
    """The reference, if there is one, inverted at the source's size and in as many steps."""
    from photoswap.inversion import invert_image
    from photoswap.staging import Reference, decoded_size

    if picture is None or mask is None:
        return None
    told, size = arguments.reference_prompt or "", decoded_size(model, source)
    found = invert_image(model, picture, told, "direct", source.steps, size=size, progress=not arguments.quiet)
    return Reference(found, mask)


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
