"""The flags of `photoswap learn`, and which of them belong to which method."""

import argparse

from photoswap.commands import arguments as types

MOST_LEARNING_STEPS = 1_000_000  # some thousand times what a concept takes
MOST_AT_ONCE = 1024  # pictures; a handful at 512 px fill a GPU of 80 GB
MOST_PICTURES = 10_000  # of the class, where the papers have 200 to 1000
CHECKPOINT, SAMPLES, FOUND_MASKS = "checkpoint.safetensors", "samples", "found-masks"
CONCEPTS = {  # by method: what it writes
    "dreambooth": "concept.safetensors",
    "lora": "lora.safetensors",
    "textual-inversion": "learned_embeds.safetensors",
    "custom-diffusion": "delta.bin",
}
# Flags that only some methods have a use for. The configurations say the same; a test compares.
OWN = {
    "rank": ("lora",),
    "alpha": ("lora",),
    "layers": ("lora",),
    "train_text_encoder": ("dreambooth", "lora"),
    "text_learning_rate": ("dreambooth", "lora"),
    "token_steps": ("dreambooth",),
    "token_learning_rate": ("dreambooth",),
    "init_word": ("textual-inversion", "custom-diffusion"),
    "tokens_per_word": ("textual-inversion",),
    "zoom": ("custom-diffusion",),
    "also": ("custom-diffusion",),
    "whole_attention": ("custom-diffusion",),
}
OF_CLASS = ("class_pictures", "class_folder")
PRESET_NAMES = ("sd21", "sd21-base", "sd15", "script", "official", "miniature")


def add_learning(parser: argparse.ArgumentParser) -> None:
    """All flags of `photoswap learn` but the common ones; those left out take the value of the preset."""
    parser.add_argument(
        "references", nargs="*", type=types.path, help="a folder of pictures of the subject, or the pictures"
    )
    parser.add_argument(
        "--each",
        type=types.path,
        metavar="DIR",
        help="instead: learn a concept from each folder in DIR, into a folder of --out each (docs/scale.md)",
    )
    parser.add_argument(
        "--class",
        dest="class_word",
        type=types.words,
        required=True,
        metavar="WORD",
        help="what it is: cat, for instance",
    )
    parser.add_argument(
        "--token",
        type=types.words,
        metavar="WORD",
        help="the word that will mean it (default: sks; <new1> where a word is learnt)",
    )
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
        "--rate-schedule", choices=("constant", "linear"), help="whether the rates stay, or fall to zero over --steps"
    )
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
        "--gradient-checkpointing",
        action=argparse.BooleanOptionalAction,
        help="less memory, slower by a third or more (default: where it would not fit otherwise)",
    )
    group.add_argument(
        "--low-memory",
        action="store_true",
        help="recompute activations and keep AdamW's moments in a byte each: dreambooth in 16 GB (docs/learn.md)",
    )
    group.add_argument(
        "--dry-run", action="store_true", help="say how much memory it would take, and what would make it fit; no more"
    )
    group.add_argument(
        "--min-snr",
        type=types.number(0, 1e6, above=True),
        metavar="GAMMA",
        help="weigh timesteps with little noise down; 5 in its paper",
    )
    group.add_argument(
        "--shard",
        action="store_true",
        help="under torchrun: each process holds only its part of the networks that learn (docs/scale.md)",
    )
    group.add_argument("--sample-every", type=every, metavar="N", help="steps between sample pictures in samples/")
    group.add_argument("--checkpoint-every", type=every, metavar="N", help="steps between checkpoints")
    group.add_argument("--concept-dtype", choices=("float32", "float16"), help="of the concept's file")
    group.add_argument(
        "--keep-checkpoint", action="store_true", help="leave the checkpoint when done, for more steps with --resume"
    )
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, bit for bit")


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
        "--init-word",
        type=types.words,
        metavar="WORD",
        help="textual-inversion, custom-diffusion: what the new word means at first (default: the class; ktn)",
    )
    group.add_argument(
        "--tokens-per-word",
        type=types.whole(1, 70),
        metavar="N",
        help="textual-inversion: rows of the new word, each a token of the prompt",
    )
    group.add_argument(
        "--zoom",
        action=argparse.BooleanOptionalAction,
        help="custom-diffusion: show each picture at another size each time, and say so in its prompt",
    )
    group.add_argument(
        "--also",
        nargs=3,
        type=types.words,
        action="append",
        metavar=("DIR", "CLASS", "WORD"),
        help="custom-diffusion: another subject in the same run; may be repeated",
    )
    group.add_argument(
        "--whole-attention",
        action=argparse.BooleanOptionalAction,
        help="custom-diffusion: queries and outputs of the cross-attention too, for faces; cannot be merged",
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
