"""Two subjects in one picture, and one partly behind something: python -m photoswap.evaluate_several

The paper's figures 6a and 6b on the drawn world, where the truth is known. Species are swapped by their words alone, so
nothing is learnt: what is looked at is whether each swap stays in its place. Both subjects of a pair are swapped in
turn, each in the mask found by its word, or in the world's own (--true-masks), as a user would paint it. Printed are
the overlap (IoU) of the masks found with the true ones, how well the ground is kept, and, for the second kind, what
stands before the subject.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from models.images import grid
from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.scores import inside, outside, overlap, psnr
from photoswap.benchmark.tasks import SPLITS
from photoswap.demo import DEMO_GUIDANCE
from photoswap.inversion import invert_image
from photoswap.masks import find_subjects
from photoswap.methods import Photoswap
from photoswap.pipeline import swap
from photoswap.turns import Swapping, turns
from train.miniature.data import STREAMS, mixed_scene_at
from train.world import SMALL, Scene, caption, render
from weights.atomic import atomic
from weights.load import load

ONLY = {"pair": (0.0, 1.0, 0.0), "hidden": (0.0, 0.0, 1.0)}


class SeveralOutcome(NamedTuple):
    """pictures: source, masks, result, truth. front: None where nothing stands before the subject."""

    pictures: list[Image.Image]
    masks: float
    ground: float
    front: float | None


def evaluated(model: StableDiffusion, scene: Scene, method: Photoswap, true_masks: bool = False) -> SeveralOutcome:
    """Swap every subject's species for the next one of the world, in turn, and compare with the truth.

    true_masks: whether the world's own masks are used, as a user's would be, in place of those found by the words.
    """
    species = SMALL.species
    words = [subject.look.species for subject in scene.subjects]
    others = [species[(species.index(word) + 1) % len(species)] for word in words]
    true_scene = scene
    for i, other in enumerate(others):
        true_scene = true_scene.with_look(replace(scene.subjects[i].look, species=other), i)
    source, truth = render(scene), render(true_scene)
    found = [one.mask for one in find_subjects(model, source.image, caption(scene), words)]
    masks = list(source.masks) if true_masks else found
    picture = source.image
    subjects = [Swapping(word, other, other) for word, other in zip(words, others, strict=True)]
    for turn, mask in zip(turns(caption(scene), subjects), masks, strict=True):
        inversion = invert_image(model, picture, turn.source, steps=method.steps)
        picture = swap(
            model,
            inversion,
            turn.target,
            method,
            source_word=turn.source_word,
            target_word=turn.target_word,
            mask=mask,
        ).result
    ground = outside([*source.masks, *truth.masks])
    iou = float(np.mean([overlap(inside(one), inside(mask)) for one, mask in zip(found, source.masks, strict=True)]))
    white = Image.new("L", source.image.size, 255)
    for mask in masks:
        white.paste(0, mask=mask)
    pictures = [source.image, white.convert("RGB"), picture, truth.image]
    front = psnr(picture, source.image, before(scene)) if scene.front else None
    return SeveralOutcome(pictures, iou, psnr(picture, source.image, ground), front)


def before(scene: Scene) -> NDArray[np.bool_]:
    """Where something hides the subject, (h w)."""
    return inside(render(replace(scene, front=None)).mask) & ~inside(render(scene).mask)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scenes", type=int, default=8, help="of each kind")
    parser.add_argument("--split", choices=tuple(SPLITS), default="dev")
    parser.add_argument("--true-masks", action="store_true", help="the world's own, in place of those found by words")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("several.png"), help="the pictures, a row a scene")
    args = parser.parse_args(arguments)
    model = load(args.model, args.device, torch.float32)
    method = Photoswap.scaled(args.steps, guidance_scale=DEMO_GUIDANCE)
    pictures: list[Image.Image] = []
    for kind, shares in ONLY.items():
        scenes = [mixed_scene_at(SMALL, STREAMS[SPLITS[args.split]], i, shares) for i in range(args.scenes)]
        found = [evaluated(model, scene, method, args.true_masks) for scene in tqdm(scenes, kind)]
        fronts = [outcome.front for outcome in found if outcome.front is not None]
        kept = f", what is before it kept {np.mean(fronts):.1f} dB" if fronts else ""
        ground = np.mean([outcome.ground for outcome in found])
        print(f"{kind:<8} masks {np.mean([o.masks for o in found]):.2f} IoU, ground kept {ground:.1f} dB{kept}")
        pictures += [picture for outcome in found for picture in outcome.pictures]
    labels = ["source", "masks", "swap", "truth"] * (len(pictures) // 4)
    with atomic(args.out) as place:
        grid(pictures, labels, columns=4).save(place, format="PNG")


if __name__ == "__main__":
    main()
