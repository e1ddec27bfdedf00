"""Who is swapped for whom, and where: the prompts of each swap, its mask, and the box to work on."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from models.stable_diffusion import StableDiffusion
    from photoswap.inversion import Inversion
    from photoswap.method import Method
    from photoswap.sizes import Box
    from photoswap.turns import Turn
    from train.concepts import Concept


def check_masked(arguments: argparse.Namespace, method: "Method") -> None:
    """Raise ValueError where something goes by a mask and there is none."""
    masked = arguments.mask or arguments.mask_word or len(arguments.subject) > 1
    for what, wanted in (("--adain", arguments.adain), (f"--method {arguments.method}", "mask" in method.wants)):
        if wanted and not masked:
            raise ValueError(f"{what} goes by a mask of the subject: give --mask FILE, or --mask-word to have it found")


def make_rounds(
    arguments: argparse.Namespace, inversion: "Inversion | None", concepts: "Sequence[Sequence[Concept]]"
) -> "list[list[Turn]]":
    """The prompts of every swap: for each subject its targets, which are swapped in one run.

    concepts: those of every subject. Raises ValueError when a prompt is missing, or lacks its subject.
    """
    from photoswap.turns import Swapping, Turn, turns

    prompt = arguments.prompt or (inversion.prompt if inversion else None)
    if not prompt:
        raise ValueError('say with --prompt what is in the picture: --prompt "a photo of a dog on grass"')
    if not arguments.target and not any(concepts):
        raise ValueError("say with --concept or --target what takes the subject's place")
    targets = arguments.target or [_subject(several) for several in concepts]
    first = arguments.subject[0]
    if arguments.target_prompt:
        words = targets * len(arguments.target_prompt) if len(targets) == 1 else targets
        return [[Turn(prompt, told, first, word) for told, word in zip(arguments.target_prompt, words, strict=True)]]
    if len(arguments.subject) == 1:
        return [[turn for word in targets for turn in turns(prompt, [Swapping(first, word, word)])]]
    classes = [next((one.class_word for one in several if one.class_word), "") for several in concepts]
    plain = [known or target for known, target in zip(classes or targets, targets, strict=True)]
    every = turns(prompt, [Swapping(*one) for one in zip(arguments.subject, targets, plain, strict=True)])
    return [[turn] for turn in every]


def _subject(concepts: "Sequence[Concept]") -> str:
    """What the concepts of one swap call their subject. Raises ValueError unless one of them does."""
    from weights.records import listed, quoted

    subjects = list(dict.fromkeys(concept.subject for concept in concepts if concept.subject))
    if len(subjects) == 1:
        return subjects[0]
    if subjects:
        raise ValueError(f"the concepts are of {listed(subjects)}: say with --target what takes the subject's place")
    triggers = [concept.settings.get("modelspec.trigger_phrase") for concept in concepts]
    known = "".join(f"; it was made for {quoted(phrase)}" for phrase in triggers[:1] if phrase)
    raise ValueError(
        f"{quoted(concepts[0].title)} has no word for its subject: say with --target what takes the subject's place"
        f"{known}"
    )


def check_words(model: "StableDiffusion", turns: "Sequence[Turn]") -> None:
    """Raise ValueError, before the inversion, when a prompt lacks its subject."""
    from photoswap.tokens import subject_tokens

    for turn in turns:
        subject_tokens(model.tokenizer, turn.source, turn.source_word)
        subject_tokens(model.tokenizer, turn.target, turn.target_word)


def seen(model: "StableDiffusion", inversion: "Inversion") -> "Image.Image":
    """The picture of an inversion."""
    from photoswap.drawing import decoded

    return inversion.source or decoded(model, inversion.trajectory[:1].to(model.device))


def find_masks(
    arguments: argparse.Namespace,
    model: "StableDiffusion",
    picture: "Image.Image",
    turns: "Sequence[Turn]",
    masks: "list[Image.Image]",
) -> "tuple[list[Image.Image | None], list[Box]]":
    """The mask of every swap, None for one without, and the box of the picture to work on.

    Words are looked for by the first model, in the picture before any swap, so that masks of several keep apart.
    """
    from photoswap.crop import crop_around
    from photoswap.masks import box_of, find_subjects
    from photoswap.sizes import check_mask

    for mask in masks:
        check_mask(mask, picture.size)
    whole = (0, 0, *picture.size)
    masked = bool(masks or arguments.mask_word or len(turns) > 1)
    if not masks and (masked or arguments.crop):
        words = [arguments.mask_word or turns[0].source_word, *(turn.source_word for turn in turns[1:])]
        found = find_subjects(model, picture, turns[0].source, words, progress=not arguments.quiet)
        masks = [one.mask for one in found]
    if not arguments.crop:
        return [*masks] if masked else [None], [whole] * len(turns)
    boxes = [crop_around(box_of(mask), picture.size) for mask in masks]
    return [*masks] if masked else [None], boxes
