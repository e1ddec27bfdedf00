"""Learn a subject from a few pictures of it, so that a word means it.

3 to 5 pictures, the subject alone in each, differing in pose, light and
background, serve best; with SD 2.1 up to 20. What learns, --method says
(docs/learn.md): dreambooth, all weights; lora, a few megabytes beside them that
other tools open too; textual-inversion, what a new word means, a few kilobytes;
custom-diffusion, keys and values of the cross-attention and a new word, for
several subjects at once too. The folder --out receives what was learnt, a file
that `generate`, `invert` and `swap` take as --concept, and with
--checkpoint-every, or on Ctrl-C, a checkpoint from which --resume goes on.

examples:
  photoswap learn cat-photos/ --class cat --out my-cat
  photoswap learn cat-photos/ --class cat --method lora --rank 8 --model sd21-base --out my-cat-lora
  photoswap learn cat-photos/ --class cat --method textual-inversion --tokens-per-word 2
  photoswap learn cats/ --class cat --method custom-diffusion --also dogs/ dog "<new2>"
  photoswap learn a.jpg b.jpg c.jpg --class dog --token sks --steps 400 --sample-every 100
  photoswap learn cat-photos/ --class cat --model sd21-base --dtype bfloat16 --gradient-checkpointing
  photoswap learn --class cat --model sd21-base --dry-run
  photoswap learn cat-photos/ --class cat --model sd21-base --low-memory
  photoswap learn cat-photos/ --class cat --mask-word cat --mask-loss --attention-loss 0.01
  photoswap learn --each folder-of-folders/ --class cat --out concepts
"""

import argparse
from dataclasses import dataclass, fields
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

from photoswap.commands.common import add_common, load_model, refuse, seed_for
from photoswap.commands.learn_each import run_each
from photoswap.commands.learn_flags import CHECKPOINT, CONCEPTS, FOUND_MASKS, OF_CLASS, OWN, SAMPLES, add_learning
from photoswap.commands.outputs import check_folder, check_free, say

if TYPE_CHECKING:
    from PIL import Image

    from models.stable_diffusion import StableDiffusion
    from train.config import LearnConfig
    from train.parallel import Team

NEXT_INIT = ("pll", "ucd")  # what the words of a second and a third subject begin with, in Custom Diffusion's script


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap learn`; those left out take the value that suits the model (train/presets.py)."""
    add_learning(parser)
    add_common(parser, "concept", "the folder for the concept")


def run(arguments: argparse.Namespace) -> None:
    """Learn and write the concept, or each concept of a folder; or say how much memory it would take."""
    if arguments.dry_run:
        rehearse(arguments)
        return
    if arguments.each is not None:
        check_each(arguments)
        run_each(arguments)
        return
    check(arguments)
    from train.parallel import Team

    lesson = read_lesson(arguments)
    model = load_model(arguments, "float32")  # --dtype bfloat16 is autocast: the weights stay float32
    learn_lesson(arguments, model, lesson, Team.join(model.device, arguments.shard))


def rehearse(arguments: argparse.Namespace) -> None:
    """Print how much memory it would take; nothing is loaded or written. References need not be given."""
    from photoswap.commands.learn_memory import model_asked_for, tell_memory

    if arguments.shard:
        raise ValueError(
            "--dry-run counts a process that holds all; leave --shard out, with which each of N would hold 1 / N of "
            "the networks that learn, of their gradients and moments"
        )
    if arguments.each is not None:
        check_each(arguments)
    else:
        check(arguments)
    pictures = len(read_lesson(arguments).pictures) if arguments.references else 0
    model = model_asked_for(arguments)
    tell_memory(arguments, model, configure(arguments, model.name), pictures)


@dataclass(frozen=True)
class Lesson:
    """What is learnt from: the subject's pictures, their masks where files have them, more subjects by their words."""

    pictures: "list[Image.Image]"
    masks: "list[Image.Image] | None"
    more: "dict[str, list[Image.Image]]"


def read_lesson(arguments: argparse.Namespace) -> Lesson:
    """Read it, before anything that takes long."""
    from train.data import read_pictures
    from train.reference_masks import read_masks

    references = arguments.references[0] if len(arguments.references) == 1 else arguments.references
    pictures, masks = read_pictures(references), None
    if _wants_masks(arguments) and not arguments.mask_word:
        masks = read_masks(references, arguments.masks)
    return Lesson(pictures, masks, {word: read_pictures(folder) for folder, _, word in arguments.also or ()})


def learn_lesson(arguments: argparse.Namespace, model: "StableDiffusion", lesson: Lesson, team: "Team") -> None:
    """Learn with this model, and say where the concept is. team: the processes that learn it together."""
    from train.learn import CLASS_FOLDER, learn
    from train.prior import class_picture_folder

    config, pictures, masks = configure(arguments, model.config.name), lesson.pictures, lesson.masks
    kept: list[Image.Image] = []
    if arguments.mask_word:
        masks = kept = team.gather(_found_masks(arguments, model, pictures) if team.leads else None)[0]
    shared = class_picture_folder(arguments.out / CLASS_FOLDER) if config.prior_weight else None
    try:
        learn(
            model,
            {config.token: pictures, **lesson.more} if lesson.more else pictures,
            config,
            arguments.out,
            progress=not arguments.quiet,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            keep_checkpoint=arguments.keep_checkpoint,
            class_folder=arguments.class_folder or shared,
            masks=masks,
            on_step=lambda step, _: _keep_masks(arguments, kept) if step == 1 else None,  # nothing is refused any more
            team=team,
        )
    except KeyboardInterrupt:
        stopped = (arguments.out / CHECKPOINT).is_file()
        how = "" if arguments.each else " with --resume"
        goes_on = f"interrupted; what was learnt is in {arguments.out}: the same command{how} goes on"
        raise KeyboardInterrupt(*[goes_on] * stopped) from None
    if team.leads:
        say(arguments.out / CONCEPTS[arguments.method])


def check_each(arguments: argparse.Namespace) -> None:
    """Raise ValueError for what does not go with --each."""
    if arguments.references or arguments.also:
        raise ValueError("--each takes its pictures from the folders in its folder; leave the others out")
    if arguments.resume:
        raise ValueError("--each goes on by itself with what was interrupted; leave --resume out")
    if arguments.shard:
        raise ValueError("with --each every process learns concepts of its own; leave --shard out")
    if arguments.masks:
        raise ValueError("--each looks for masks beside the pictures (cat.mask.png); leave --masks out")
    check_folder(arguments.out)


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for flags that would change nothing, and for what may not be written."""
    if not arguments.references and not arguments.dry_run:
        raise ValueError("there are no references: give a folder of pictures, or pictures, or --each with a folder")
    if arguments.dtype == "float16":
        raise ValueError("steps of the optimizer round to nothing in float16; learn with --dtype bfloat16 or float32")
    strange = [flag for flag, methods in OWN.items() if arguments.method not in methods]
    refuse(arguments, f"with --method {arguments.method}", *strange)
    if arguments.method == "textual-inversion":
        refuse(arguments, "with --method textual-inversion, which moves no weight", "prior_weight", *OF_CLASS)
    if arguments.train_text_encoder is False:
        refuse(arguments, "where the text encoder does not learn", "text_learning_rate")
    if arguments.prior_weight == 0:
        refuse(arguments, "with --prior-weight 0, which learns without them", *OF_CLASS)
    if not _wants_masks(arguments):
        refuse(arguments, "without --mask-loss or --attention-loss, which look at them", "masks", "mask_word")
    if arguments.masks and arguments.mask_word:
        raise ValueError("--masks and --mask-word both say where the subject is; leave one of them out")
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume goes on from what --overwrite would replace; leave one of them out")
    check_folder(arguments.out)
    again = arguments.overwrite or arguments.resume
    if not again and (arguments.out / CHECKPOINT).is_file():
        raise ValueError(f"{arguments.out} has a run to go on from: say --resume, or --overwrite to begin anew")
    outputs = [
        arguments.out / CONCEPTS[arguments.method],
        arguments.out / CHECKPOINT,
        *sorted((arguments.out / SAMPLES).glob("*.png")),
        *sorted((arguments.out / FOUND_MASKS).glob("*.png")),
    ]
    folders = [folder for folder, *_ in arguments.also or ()]
    read = [*arguments.references, *folders, arguments.masks, arguments.model, arguments.config]
    check_free(outputs, read, again)


def _wants_masks(arguments: argparse.Namespace) -> bool:
    return bool(arguments.mask_loss or arguments.attention_loss)


def _found_masks(
    arguments: argparse.Namespace, model: "StableDiffusion", pictures: "list[Image.Image]"
) -> "list[Image.Image]":
    """The mask of the word in each picture; a resumed run takes those it began with."""
    from models.images import load_mask
    from models.prompts import article
    from photoswap.masks import find_subject

    word, masks = arguments.mask_word, []
    for i, picture in enumerate(pictures):
        file = _mask_file(arguments, i)
        if arguments.resume and file.is_file():
            masks.append(load_mask(file))
        else:
            masks.append(find_subject(model, picture, f"a photo of {article(word)} {word}", word).mask)
    return masks


def _keep_masks(arguments: argparse.Namespace, masks: "list[Image.Image]") -> None:
    """Write the masks that were found, for looking at and for a resumed run."""
    from weights.atomic import atomic

    for i, mask in enumerate(masks):
        with atomic(_mask_file(arguments, i)) as place:
            mask.save(place, format="PNG")


def _mask_file(arguments: argparse.Namespace, number: int) -> Path:
    return arguments.out / FOUND_MASKS / f"{number:02}.png"


def configure(arguments: argparse.Namespace, model: str) -> "LearnConfig":
    """The preset asked for, or the model's, or the published one where it has none, with the flags that were given."""
    from train.config import CONFIGS, Beside, learn_config
    from train.presets import PRESETS

    names = {field.name for field in fields(CONFIGS[arguments.method])} - {"class_word"}
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    given |= {"bfloat16": arguments.dtype == "bfloat16", "seed": seed_for(arguments.seed)}
    if arguments.low_memory:
        given = {"moments": "8bit", "gradient_checkpointing": True, **given}
    if arguments.also:
        starts = chain(NEXT_INIT, repeat("ktn"))
        given["also"] = tuple(Beside(word, kind, next(starts)) for _, kind, word in arguments.also)
    preset = arguments.preset or (model if model in PRESETS[arguments.method] else "sd21")
    config = learn_config(arguments.method, preset, arguments.class_word, **given)
    if not config.prior_weight:
        refuse(arguments, "without a --prior-weight, which this preset does not have", *OF_CLASS)
    if not getattr(config, "token_steps", 0):
        refuse(arguments, "without --token-steps, which it is for", "token_learning_rate")
    if not getattr(config, "train_text_encoder", True):
        refuse(arguments, "where the text encoder does not learn (--train-text-encoder)", "text_learning_rate")
    return config
