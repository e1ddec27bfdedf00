"""Compare the masks of words with the drawn world's own: python -m photoswap.evaluate_masks

Every scene has one subject and a caption that names it. Printed are, for each scale of the layers read, the share of
mask and truth that both have (IoU), its mean and its quartiles, and how near the boxes come; beside them the whole
picture taken for the mask. A scale is chosen on the development stream; the test stream is for telling, once.
"""

import argparse
from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.scores import inside, overlap
from photoswap.benchmark.tasks import SPLITS
from photoswap.masks import box_of, find_subject
from photoswap.sizes import Box
from train.miniature.data import STREAMS, scene_at
from train.world import SMALL, Rendering, Scene, caption, render
from weights.load import load


def box_overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def scenes(split: str, count: int) -> Iterable[tuple[Scene, Rendering]]:
    """So many scenes of one subject of a split, and how they are drawn."""
    for i in range(count):
        scene = scene_at(SMALL, STREAMS[SPLITS[split]], i)
        yield scene, render(scene)


def measured(model: StableDiffusion, split: str, count: int, scale: int | None) -> list[tuple[float, float]]:
    """The overlap of the masks and of the boxes for each scene. scale: None for the model's own."""
    found = []
    for scene, drawn in tqdm(scenes(split, count), f"scale {scale or 'default'}", count):
        guess = find_subject(model, drawn.image, caption(scene), scene.look.species, scale=scale)
        found.append((overlap(inside(guess.mask), inside(drawn.mask)), box_overlap(guess.box, box_of(drawn.mask))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--split", choices=tuple(SPLITS), default="dev")
    parser.add_argument("--scales", type=int, nargs="*", default=[], help="of the layers read (default: the model's)")
    args = parser.parse_args()
    model = load(args.model, args.device, torch.float32)
    print(f"{args.scenes} scenes of the {args.split} stream   IoU of masks: mean, quartiles   of boxes")
    for scale in args.scales or [None]:
        masks, boxes = np.array(measured(model, args.split, args.scenes, scale)).T
        low, middle, high = np.quantile(masks, (0.25, 0.5, 0.75))
        name = f"scale {scale or 'default'}"
        print(f"{name:<34} {masks.mean():>8.2f} {low:>8.2f} {middle:.2f} {high:.2f} {boxes.mean():>8.2f}")
    everything = [(Image.new("L", r.mask.size, 255), r.mask) for _, r in scenes(args.split, args.scenes)]
    whole, whole_box = (np.mean([rate(*pair) for pair in everything]) for rate in (_mask_rate, _box_rate))
    print(f"{'the whole picture':<34} {whole:>8.2f} {'':>18} {whole_box:>8.2f}")


def _mask_rate(a: Image.Image, b: Image.Image) -> float:
    return overlap(inside(a), inside(b))


def _box_rate(a: Image.Image, b: Image.Image) -> float:
    return box_overlap(box_of(a), box_of(b))


if __name__ == "__main__":
    main()
