"""Learn a subject from a few pictures of it, so that a word means it.

This is DreamBooth. 3 to 5 pictures, the subject alone in each, differing in
pose, light and background, serve best; with SD 2.1 up to 20. The folder --out
receives concept.safetensors, which `generate`, `invert` and `swap` take as
--concept, and with --checkpoint-every, or on Ctrl-C, a checkpoint from which
--resume goes on.

examples:
  photoswap learn cat-photos/ --class cat --out my-cat
  photoswap learn a.jpg b.jpg c.jpg --class dog --token sks --steps 400 --sample-every 100
  photoswap learn cat-photos/ --class cat --model sd21-base --dtype bfloat16 --checkpointing
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from photoswap.commands.common import add_common, check_folder, load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap learn`; those left out take the value that suits the model (train/config.py)."""
    parser.add_argument("references", nargs="+", type=Path, help="a folder of pictures of the subject, or the pictures")
    parser.add_argument(
        "--class", dest="class_word", required=True, metavar="WORD", help="what it is: cat, for instance"
    )
    parser.add_argument("--token", default="sks", help="the rare word that will mean it (default: %(default)s)")
    group = parser.add_argument_group("learning")
    whole: dict[str, Any] = {"type": int, "metavar": "N"}
    group.add_argument("--steps", help="of the optimizer", **whole)
    group.add_argument("--batch", help="pictures in one step", **whole)
    group.add_argument("--accumulate", help="steps of --batch pictures added up before the weights move", **whole)
    group.add_argument("--learning-rate", type=float, metavar="RATE", help="of AdamW")
    group.add_argument(
        "--prior-weight", type=float, metavar="W", help="how much the rest of the class is held on to; 0 for not at all"
    )
    group.add_argument("--class-pictures", help="how many pictures of the class the model draws for that", **whole)
    group.add_argument(
        "--class-folder", type=Path, metavar="DIR", help="where to keep them for other concepts to share"
    )
    group.add_argument("--size", type=int, metavar="N", help="side of the squares learnt from")
    group.add_argument("--mirror", action=argparse.BooleanOptionalAction, help="learn from mirror images too")
    group.add_argument("--random-crop", action=argparse.BooleanOptionalAction, help="cut another square each time")
    group.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, help="less memory, a third slower")
    group.add_argument("--sample-every", help="steps between sample pictures in samples/", **whole)
    group.add_argument("--checkpoint-every", help="steps between checkpoints", **whole)
    group.add_argument("--concept-dtype", choices=("float32", "float16"), help="of concept.safetensors")
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, bit for bit")
    add_common(parser, "concept", "the folder for the concept")


def run(arguments: argparse.Namespace) -> None:
    """Learn and write the concept."""
    check_folder(arguments.out)
    if arguments.dtype == "float16":
        raise ValueError("steps of the optimizer round to nothing in float16; learn with --dtype bfloat16 or float32")
    from train.data import read_pictures
    from train.dreambooth import CHECKPOINT_FILE, CONCEPT_FILE, learn

    alone = len(arguments.references) == 1
    pictures = read_pictures(arguments.references[0] if alone else arguments.references)
    model = load_model(arguments, "float32")  # --dtype bfloat16 is autocast: the weights stay float32
    config = configure(arguments, model.config.name)
    show, resume, classes = not arguments.quiet, arguments.resume, arguments.class_folder
    try:
        learn(model, pictures, config, arguments.out, progress=show, resume=resume, class_folder=classes)
    except KeyboardInterrupt:
        kept = (arguments.out / CHECKPOINT_FILE).is_file()
        goes_on = f"interrupted; what was learnt is in {arguments.out}: the same command with --resume goes on"
        raise KeyboardInterrupt(*[goes_on] * kept) from None
    print(arguments.out / CONCEPT_FILE)


def configure(arguments: argparse.Namespace, model: str) -> Any:
    """The preset of the model, the published one where it has none, with the flags that were given."""
    from train.config import PRESETS, DreamBoothConfig

    names = {field.name for field in fields(DreamBoothConfig)} - {"class_word"}
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    given["bfloat16"] = arguments.dtype == "bfloat16"
    return DreamBoothConfig(arguments.class_word, **{**PRESETS.get(model, {}), **given})
