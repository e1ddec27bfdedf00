"""Measure inversion and swap on the drawn world, where the truth is known: python -m photoswap.evaluate

Inversion: how near each way comes back to the source at full guidance, beside what the autoencoder alone loses; as a
swap returns it, and sampled from its noise alone, which is where a target sets out.
Swap: one learnt subject put into several scenes, without any swap of attention, with Prompt-to-Prompt's (A and M), and
with Photoswap's (phi, M and A); how much of the background each keeps, and how near the subject comes to the truth.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from models.images import grid, to_image, to_tensor
from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.scores import psnr
from photoswap.demo import METHOD, Outcome, Task, demo_config, make_task, score, swap_in
from photoswap.inversion import invert_image, reconstruct
from photoswap.inversions import INVERSIONS
from photoswap.methods import Photoswap
from train.concepts import apply_concept
from train.learn import learn
from weights.atomic import atomic
from weights.load import load

PAPER_GUIDANCE = 7.5  # of the paper: the harder case for an inversion


class Returned(NamedTuple):
    """How near an inversion leads back, PSNR in dB, as a swap returns its source and by its noise alone; seconds."""

    returned: float
    alone: float
    seconds: float


def methods(base: Photoswap) -> dict[str, Photoswap]:
    """What is compared: the same run with nothing swapped, without phi, and complete."""
    return {
        "no swap": replace(base, phi=0, M=0, A=0),
        "Prompt-to-Prompt": replace(base, phi=0),
        "Photoswap": base,
    }


def inversions(
    model: StableDiffusion, tasks: Sequence[Task], guidance_scale: float, bar: Callable[..., Any]
) -> dict[str, Returned]:
    """By way of inverting, the means of what it leads back to at this guidance.

    "autoencoder" is the picture encoded and decoded, which none can surpass except by luck.
    """
    found: dict[str, list[Returned]] = {}
    for task in bar(tasks, desc="inversions"):
        picture = task.source.image
        with torch.no_grad():
            seen = to_image(model.decode(model.encode_image(to_tensor(picture)[None]))[0])
        own = psnr(seen, picture)
        found.setdefault("autoencoder", []).append(Returned(own, own, 0.0))
        for method in INVERSIONS:
            start = time.perf_counter()
            inversion = invert_image(model, picture, task.prompt, method, guidance_scale=guidance_scale)
            seconds = time.perf_counter() - start
            returned, alone = (
                psnr(reconstruct(model, inversion, guidance_scale, alone=alone), picture) for alone in (False, True)
            )
            found.setdefault(method, []).append(Returned(returned, alone, seconds))
    return {name: Returned(*map(_mean, zip(*rows, strict=True))) for name, rows in found.items()}


def swaps(
    model: StableDiffusion, token: str, tasks: Sequence[Task], base: Photoswap, bar: Callable[..., Any]
) -> dict[str, list[Outcome]]:
    """By kind of swap, its outcome on every task; model: with the concept."""
    return {
        name: [score(task, swap_in(model, task, token, method)) for task in bar(tasks, desc=name)]
        for name, method in methods(base).items()
    }


def swaps_grid(found: dict[str, list[Outcome]]) -> Image.Image:
    """A row a task: source, each kind of swap, the truth."""
    first = next(iter(found.values()))
    pictures: list[Image.Image] = []
    for i, outcome in enumerate(first):
        swapped = [outcomes[i].swapped.result for outcomes in found.values()]
        pictures += [outcome.task.source.image, *swapped, outcome.task.truth.image]
    labels = ["source", *found, "truth"] * len(first)
    big = [picture.resize((192, 192), Image.Resampling.LANCZOS) for picture in pictures]
    return grid(big, labels, columns=len(found) + 2)


def report_inversions(found: dict[str, Returned], guidance_scale: float) -> None:
    """Print a table."""
    print(f"inversion at guidance {guidance_scale:g}   PSNR to the source   by its noise alone   seconds")
    for name, (returned, alone, seconds) in found.items():
        print(f"{name:<25} {returned:>15.1f} dB {alone:>17.1f} dB {seconds:>9.1f}")


def report_swaps(found: dict[str, list[Outcome]]) -> None:
    """Print a table; the last row is the source itself, unswapped."""
    print("swap                 background kept   subject to the truth   its colours")
    for name, outcomes in found.items():
        kept = _mean(o.background for o in outcomes)
        near, colours = (_mean(o.subject[i] for o in outcomes) for i in (0, 1))
        print(f"{name:<20} {kept:>12.1f} dB {near:>19.1f} dB {colours:>12.0%}")
    near, colours = (_mean(o.before[i] for o in next(iter(found.values()))) for i in (0, 1))
    print(f"{'the source itself':<20} {'':>15} {near:>19.1f} dB {colours:>12.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=100, help="of the first scene")
    parser.add_argument(
        "--guidance", type=float, default=PAPER_GUIDANCE, help="of the inversions (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("evaluation.png"), help="the pictures, a row a scene")
    args = parser.parse_args()
    model = load(args.model, args.device, torch.float32)
    tasks = [make_task(args.seed + i) for i in range(args.scenes)]
    report_inversions(inversions(model, tasks, args.guidance, tqdm), args.guidance)
    config = demo_config(args.seed, tasks[0].subject)
    concept = learn(model, tasks[0].references, config)
    found = swaps(apply_concept(model, concept), config.token, tasks, METHOD, tqdm)
    report_swaps(found)
    with atomic(args.out) as place:
        swaps_grid(found).save(place, format="PNG")


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


if __name__ == "__main__":
    main()
