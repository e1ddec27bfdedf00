"""Learn a subject from a few pictures of it, so that a word means it.

3 to 5 pictures, the subject alone in each, differing in pose, light and
background, serve best; with SD 2.1 up to 20. Of the methods, dreambooth moves
all weights and is closest to the subject; lora learns a few megabytes beside
them that other tools open too (docs/learn.md). The folder --out receives
concept.safetensors, or lora.safetensors, which `generate`, `invert` and `swap`
take as --concept, and with --checkpoint-every, or on Ctrl-C, a checkpoint from
which --resume goes on.

examples:
  photoswap learn cat-photos/ --class cat --out my-cat
  photoswap learn cat-photos/ --class cat --method lora --rank 8 --model sd21-base --out my-cat-lora
  photoswap learn a.jpg b.jpg c.jpg --class dog --token sks --steps 400 --sample-every 100
  photoswap learn cat-photos/ --class cat --model sd21-base --dtype bfloat16 --gradient-checkpointing
  photoswap learn cat-photos/ --class cat --mask-word cat --mask-loss --attention-loss 0.01
"""

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

from photoswap.commands import arguments as types
from photoswap.commands.common import add_common, load_model, refuse, seed_for
from photoswap.commands.outputs import check_folder, check_free, say

if TYPE_CHECKING:
    from PIL import Image

    from models.stable_diffusion import StableDiffusion
    from train.config import LearnConfig

MOST_LEARNING_STEPS = 1_000_000  # some thousand times what a concept takes
MOST_AT_ONCE = 1024  # pictures; a handful at 512 px fill a GPU of 80 GB
MOST_PICTURES = 10_000  # of the class, where the papers have 200 to 1000
CHECKPOINT, SAMPLES, FOUND_MASKS = "checkpoint.safetensors", "samples", "found-masks"
CONCEPTS = {"dreambooth": "concept.safetensors", "lora": "lora.safetensors"}  # by method: what it writes
# Flags that only some methods have a use for. The configurations say the same; a test compares.
OWN = {
    "rank": ("lora",),
    "alpha": ("lora",),
    "layers": ("lora",),
    "train_text_encoder": ("dreambooth", "lora"),
    "text_learning_rate": ("dreambooth", "lora"),
    "token_steps": ("dreambooth",),
    "token_learning_rate": ("dreambooth",),
}
OF_CLASS = ("class_pictures", "class_folder")
PRESET_NAMES = ("sd21", "sd21-base", "sd15", "script", "miniature")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap learn`; those left out take the value that suits the model (train/config.py)."""
    parser.add_argument(
        "references", nargs="+", type=types.path, help="a folder of pictures of the subject, or the pictures"
    )
    parser.add_argument(
        "--class",
        dest="class_word",
        type=types.words,
        required=True,
        metavar="WORD",
        help="what it is: cat, for instance",
    )
    parser.add_argument("--token", type=types.words, metavar="WORD", help="the word that will mean it (default: sks)")
    parser.add_argument(
        "--method", choices=tuple(CONCEPTS), default="dreambooth", help="what learns (default: %(default)s)"
    )
    parser.add_argument(
        "--preset",
        choices=PRESET_NAMES,
        help="whose numbers to learn with: a model's, or the published training script's (default: the model's)",
    )
    _add_of_methods(parser)
    _add_of_masks(parser)
    group = parser.add_argument_group("learning")
    every = types.whole(0, MOST_LEARNING_STEPS)
    group.add_argument("--steps", type=types.whole(1, MOST_LEARNING_STEPS), metavar="N", help="of the optimizer")
    group.add_argument("--batch", type=types.whole(1, MOST_AT_ONCE), metavar="N", help="pictures in one step")
    group.add_argument(
        "--accumulate",
        type=types.whole(1, MOST_AT_ONCE),
        metavar="N",
        help="steps of --batch pictures added up before the weights move",
    )
    group.add_argument("--learning-rate", type=types.number(0, 1, above=True), metavar="RATE", help="of AdamW")
    group.add_argument(
        "--scale-learning-rate",
        action=argparse.BooleanOptionalAction,
        help="multiply the rates by the pictures that one step sees",
    )
    group.add_argument(
        "--prior-weight",
        type=types.number(0, 100),
        metavar="W",
        help="how much the rest of the class is held on to; 0 for not at all",
    )
    group.add_argument(
        "--class-pictures",
        type=types.whole(1, MOST_PICTURES),
        metavar="N",
        help="how many pictures of the class the model draws for that",
    )
    group.add_argument(
        "--class-folder",
        type=types.path,
        metavar="DIR",
        help="where they are kept for other concepts of the class (default: a folder for all, docs/sharper.md)",
    )
    group.add_argument("--size", type=types.whole(8, 2048), metavar="N", help="side of the squares learnt from")
    group.add_argument("--mirror", action=argparse.BooleanOptionalAction, help="learn from mirror images too")
    group.add_argument("--random-crop", action=argparse.BooleanOptionalAction, help="cut another square each time")
    group.add_argument(
        "--gradient-checkpointing", action=argparse.BooleanOptionalAction, help="less memory, a third slower"
    )
    group.add_argument(
        "--min-snr",
        type=types.number(0, 1e6, above=True),
        metavar="GAMMA",
        help="weigh timesteps with little noise down; 5 in its paper",
    )
    group.add_argument("--sample-every", type=every, metavar="N", help="steps between sample pictures in samples/")
    group.add_argument("--checkpoint-every", type=every, metavar="N", help="steps between checkpoints")
    group.add_argument("--concept-dtype", choices=("float32", "float16"), help="of the concept's file")
    group.add_argument(
        "--keep-checkpoint", action="store_true", help="leave the checkpoint when done, for more steps with --resume"
    )
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, bit for bit")
    add_common(parser, "concept", "the folder for the concept")


def _add_of_masks(parser: argparse.ArgumentParser) -> None:
    """The flags that tell learning where the subject is."""
    group = parser.add_argument_group("masks")
    group.add_argument(
        "--mask-loss", action=argparse.BooleanOptionalAction, help="what is outside the subject's mask is no error"
    )
    group.add_argument(
        "--attention-loss",
        type=types.number(0, 1000, above=True),
        metavar="W",
        help="hold the token's attention to the mask, with this weight; 0.01 as published",
    )
    group.add_argument(
        "--masks",
        type=types.path,
        metavar="DIR",
        help="a folder with a mask for each picture, named as it (default: cat.mask.png beside cat.jpg)",
    )
    group.add_argument(
        "--mask-word", type=types.words, metavar="WORD", help="find the masks by a word, and write them to found-masks/"
    )


def _add_of_methods(parser: argparse.ArgumentParser) -> None:
    """The flags that only some methods have."""
    group = parser.add_argument_group("methods")
    group.add_argument("--rank", type=types.whole(1, 1024), metavar="N", help="lora: of what is added to a layer")
    group.add_argument(
        "--alpha",
        type=types.number(0, 1e6, above=True),
        metavar="A",
        help="lora: A / rank is the scale (default: the rank)",
    )
    group.add_argument(
        "--layers", choices=("attention", "linear"), help="lora: attention alone, or all that is linear in transformers"
    )
    group.add_argument(
        "--train-text-encoder", action=argparse.BooleanOptionalAction, help="dreambooth, lora: the text encoder too"
    )
    group.add_argument(
        "--text-learning-rate",
        type=types.number(0, 1, above=True),
        metavar="RATE",
        help="dreambooth, lora: of the text encoder (default: --learning-rate)",
    )
    group.add_argument(
        "--token-steps",
        type=types.whole(0, MOST_LEARNING_STEPS),
        metavar="N",
        help="dreambooth: of all steps, how many at first teach the token alone",
    )
    group.add_argument(
        "--token-learning-rate", type=types.number(0, 1, above=True), metavar="RATE", help="dreambooth: of those steps"
    )


def run(arguments: argparse.Namespace) -> None:
    """Learn and write the concept."""
    check(arguments)
    from train.data import read_pictures
    from train.learn import CLASS_FOLDER, learn
    from train.prior import class_picture_folder
    from train.reference_masks import read_masks

    references = arguments.references[0] if len(arguments.references) == 1 else arguments.references
    pictures, masks = read_pictures(references), None
    if _wants_masks(arguments) and not arguments.mask_word:
        masks = read_masks(references, arguments.masks)
    model = load_model(arguments, "float32")  # --dtype bfloat16 is autocast: the weights stay float32
    config = configure(arguments, model.config.name)
    if arguments.mask_word:
        masks = _found_masks(arguments, model, pictures)
    try:
        learn(
            model,
            pictures,
            config,
            arguments.out,
            progress=not arguments.quiet,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            keep_checkpoint=arguments.keep_checkpoint,
            class_folder=arguments.class_folder or class_picture_folder(arguments.out / CLASS_FOLDER),
            masks=masks,
        )
    except KeyboardInterrupt:
        kept = (arguments.out / CHECKPOINT).is_file()
        goes_on = f"interrupted; what was learnt is in {arguments.out}: the same command with --resume goes on"
        raise KeyboardInterrupt(*[goes_on] * kept) from None
    say(arguments.out / CONCEPTS[arguments.method])


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for flags that would change nothing, and for what may not be written."""
    if arguments.dtype == "float16":
        raise ValueError("steps of the optimizer round to nothing in float16; learn with --dtype bfloat16 or float32")
    strange = [flag for flag, methods in OWN.items() if arguments.method not in methods]
    refuse(arguments, f"with --method {arguments.method}", *strange)
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
    read = [*arguments.references, arguments.masks, arguments.model, arguments.config]
    check_free(outputs, read, again)


def _wants_masks(arguments: argparse.Namespace) -> bool:
    return bool(arguments.mask_loss or arguments.attention_loss)


def _found_masks(
    arguments: argparse.Namespace, model: "StableDiffusion", pictures: "list[Image.Image]"
) -> "list[Image.Image]":
    """The mask of the word in each picture, kept in --out for looking at; a resumed run takes those it began with."""
    from models.images import load_mask
    from models.prompts import article
    from photoswap.masks import find_subject
    from weights.atomic import atomic

    word, masks = arguments.mask_word, []
    for i, picture in enumerate(pictures):
        file = arguments.out / FOUND_MASKS / f"{i:02}.png"
        if not (arguments.resume and file.is_file()):
            found = find_subject(model, picture, f"a photo of {article(word)} {word}", word)
            with atomic(file) as place:
                found.mask.save(place, format="PNG")
        masks.append(load_mask(file))
    return masks


def configure(arguments: argparse.Namespace, model: str) -> "LearnConfig":
    """The preset asked for, or the model's, or the published one where it has none, with the flags that were given."""
    from train.config import CONFIGS, learn_config
    from train.presets import PRESETS

    names = {field.name for field in fields(CONFIGS[arguments.method])} - {"class_word"}
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    given |= {"bfloat16": arguments.dtype == "bfloat16", "seed": seed_for(arguments.seed)}
    preset = arguments.preset or (model if model in PRESETS[arguments.method] else "sd21")
    config = learn_config(arguments.method, preset, arguments.class_word, **given)
    if not config.prior_weight:
        refuse(arguments, "without a --prior-weight, which this preset does not have", *OF_CLASS)
    if not getattr(config, "token_steps", 0):
        refuse(arguments, "without --token-steps, which it is for", "token_learning_rate")
    if not getattr(config, "train_text_encoder", True):
        refuse(arguments, "where the text encoder does not learn (--train-text-encoder)", "text_learning_rate")
    return config
