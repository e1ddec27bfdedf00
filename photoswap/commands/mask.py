"""Find what a word names in a picture, and write its mask.

The model's own attention says where the subject is, from three calls of its
U-Net; nobody paints. The mask is written to --out, white where the subject is,
and beside it the picture with the mask laid over it (NAME-overlay.png). The
subject's box is printed: left, top, right, bottom, in pixels. `photoswap swap
--mask FILE` takes the mask, repainted or as it is; `--mask-word` finds it on
the way.

examples:
  photoswap mask dog.jpg --word dog
  photoswap mask dog.jpg --word dog --prompt "a photo of a dog on grass" --out dog-mask.png
"""

import argparse
from pathlib import Path

from photoswap.commands import arguments as types
from photoswap.commands.common import add_common, load_model, seed_for
from photoswap.commands.outputs import check_file, check_free, say, write_together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap mask`."""
    parser.add_argument("picture", type=types.path, help="the picture to look at")
    parser.add_argument("--word", type=types.words, required=True, metavar="WORDS", help="what to find: dog")
    parser.add_argument(
        "--prompt", type=types.words, help='what is in the picture, the word among it (default: "a photo of a WORD")'
    )
    parser.add_argument(
        "--scale",
        type=types.whole(1, 8),
        metavar="N",
        help="read layers N times smaller than the latents (default: 4, or finer where that leaves under 16 places)",
    )
    parser.add_argument("--size", type=types.size, metavar="WxH", help="pixels to work at (default: by model, picture)")
    add_common(parser, "mask.png", "the mask, a PNG")


def run(arguments: argparse.Namespace) -> None:
    """Find the subject; write the mask and the overlay; print the box."""
    overlay = overlay_of(arguments.out)
    check_file(arguments.out, (".png",))
    read = [arguments.picture, arguments.model, arguments.config]
    check_free([arguments.out, overlay], read, arguments.overwrite)
    from models.images import load_image
    from models.prompts import article
    from photoswap.masks import find_subject, overlaid

    picture = load_image(arguments.picture)
    prompt = arguments.prompt or f"a photo of {article(arguments.word)} {arguments.word}"
    model = load_model(arguments)
    found = find_subject(
        model,
        picture,
        prompt,
        arguments.word,
        size=arguments.size,
        scale=arguments.scale,
        seed=seed_for(arguments.seed),
        progress=not arguments.quiet,
    )
    write_together({arguments.out: found.mask, overlay: overlaid(picture, found.mask)})
    say(f"{arguments.out}\n{overlay}\nbox {' '.join(map(str, found.box))}")


def overlay_of(out: Path) -> Path:
    """Where the overlay goes: beside the mask."""
    return out.with_name(f"{out.stem}-overlay.png")
