"""Where the subject is in a result, told without any network: wherever the picture is not the empty scene.

The world can draw a scene without its subjects. A pixel whose colour is further than SEEN from that, with the shadows
of the source's subjects and with those of the truth's, belongs to a subject. So a background that a swap has lost
counts as a shape that is wrong, and a subject of the ground's own colour is not seen.

`python -m photoswap.benchmark.shapes` says how true that is, on pictures whose masks are known, and how true the masks
are that the words' attention gives (`photoswap mask`), which no score goes by.
"""

import argparse
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from models.images import to_image, to_tensor
from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.scores import inside, overlap
from photoswap.benchmark.tasks import SPLITS, Task, draw_task, plain_caption
from photoswap.masks import box_of, find_subjects
from photoswap.sizes import Box
from train.miniature.data import SCENE_KINDS
from train.world import Scene, backdrop
from weights.load import load

SEEN = 35.0  # levels, the length of a difference of three colours; the best of 20 to 80 on the development stream


def seen_shape(picture: Image.Image, task: Task, threshold: float = SEEN) -> NDArray[np.bool_]:
    """Where a result of the task shows a subject, (h w)."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    empty = [_empty(scene, picture.width) for scene in (task.scene, task.true_scene)]
    apart = np.minimum(*(np.sqrt(np.square(pixels - one).sum(axis=2)) for one in empty))
    return np.asarray(apart > threshold)


@lru_cache(maxsize=8)
def _empty(scene: Scene, size: int) -> NDArray[np.float64]:
    return np.asarray(backdrop(scene, size), dtype=np.float64)


def true_shape(task: Task) -> NDArray[np.bool_]:
    """Where the newcomers are in the truth, all of them, (h w)."""
    return np.asarray(np.logical_or.reduce([inside(mask) for mask in task.truth.masks]))


def box_overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


@torch.no_grad()
def carried(model: StableDiffusion, picture: Image.Image) -> Image.Image:
    """A picture through the autoencoder and back: the most that any swap by this model can reach."""
    return to_image(model.decode(model.encode_image(to_tensor(picture)[None]))[0])


def by_words(model: StableDiffusion, task: Task, scale: int | None = None) -> list[tuple[float, float]]:
    """For each newcomer of the truth, how far the mask and the box that its word finds overlap with its own."""
    words = [newcomer.look.species for newcomer in task.newcomers]
    found = find_subjects(model, task.truth.image, plain_caption(task.true_scene), words, scale=scale)
    return [
        (overlap(inside(guess.mask), inside(mask)), box_overlap(guess.box, box_of(mask)))
        for guess, mask in zip(found, task.truth.masks, strict=True)
    ]


def report_shapes(model: StableDiffusion, split: str, count: int, scales: Sequence[int]) -> None:
    """Print the overlap (IoU) of every kind of mask with the true one, for each kind of task."""
    print(f"{count} tasks of each kind, split {split}: IoU with the true mask, mean and least")
    size = model.config.native_size
    for kind in SCENE_KINDS:
        tasks = [draw_task(split, kind, i, size) for i in range(count)]
        by_colour = ("colour, in the truth", "colour, in the autoencoder's truth")
        rows: dict[str, list[float]] = {name: [] for name in by_colour}
        for task in tqdm(tasks, kind):
            for name, picture in zip(by_colour, (task.truth.image, carried(model, task.truth.image)), strict=True):
                rows[name].append(overlap(seen_shape(picture, task), true_shape(task)))
            for scale in scales or (None,):
                found = by_words(model, task, scale)
                for what, rate in zip(("mask", "box"), np.mean(found, axis=0), strict=True):
                    rows.setdefault(f"words, {what}" + f", scale {scale}" * (scale is not None), []).append(float(rate))
        for name, rates in rows.items():
            print(f"{kind:<8} {name:<36} {np.mean(rates):.3f} {min(rates):.3f}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tasks", type=int, default=8, help="of each kind")
    parser.add_argument("--split", choices=tuple(SPLITS), default="dev")
    parser.add_argument("--scales", type=int, nargs="*", default=[], help="of the layers read (default: the model's)")
    args = parser.parse_args(arguments)
    report_shapes(load(args.model, args.device, torch.float32), args.split, args.tasks, args.scales)


if __name__ == "__main__":
    main()
