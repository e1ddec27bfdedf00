"""Show what a painter learns from: python -m train.paint.show --out docs/paint-examples.png

Each row is one box of a picture: the picture with the box, the cut with what is left of it, the mask, and the reference
augmented in four ways. By default scenes of the drawn world.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from models.images import grid, to_image
from models.inpainting import left_of
from models.paint_by_example import CLIP_DEVIATION, CLIP_MEAN
from train.paint.augment import reference_of
from train.paint.examples import BoxedPictures, FolderPictures, WorldPictures, make_example
from weights.atomic import atomic

COLUMN_LABELS = ["picture and box", "what is left", "mask", *["reference"] * 4]


def example_grid(source: BoxedPictures, rows: int, seed: int, side: int = 128) -> Image.Image:
    """So many rows of a source, each of another picture."""
    shown: list[Image.Image] = []
    for i in range(rows):
        rng = np.random.default_rng([seed, i])
        picture, boxes = source[int(rng.integers(len(source)))]
        box = boxes[int(rng.integers(len(boxes)))]
        example = make_example(picture, box, rng, side, side)
        framed = picture.convert("RGB")
        ImageDraw.Draw(framed).rectangle(box, outline="red", width=max(1, min(picture.size) // 64))
        shown += [
            framed.resize((side, side)),
            to_image(left_of(example.image[None], example.mask[None])[0]),
            to_image(example.mask.expand(3, -1, -1) * 2 - 1),
            *(_visible(reference_of(picture, box, rng, side)) for _ in range(4)),
        ]
    return grid(shown, COLUMN_LABELS * rows, columns=len(COLUMN_LABELS))


def _visible(reference: torch.Tensor) -> Image.Image:
    """A reference as the image encoder sees it, in colours again."""
    mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in (CLIP_MEAN, CLIP_DEVIATION))
    return to_image((reference * deviation + mean) * 2 - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder of pictures, with --boxes (default: the drawn world)")
    parser.add_argument("--boxes", type=Path, help="OpenImages' CSV of boxes, or a folder of text files")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("paint-examples.png"))
    args = parser.parse_args()
    source = FolderPictures(args.pictures, args.boxes) if args.pictures else WorldPictures()
    with atomic(args.out) as place:
        example_grid(source, args.rows, args.seed).save(place)
    print(args.out)


if __name__ == "__main__":
    main()
