"""Measure the ways to invert on the drawn world: python -m photoswap.evaluate_inversions

How near each way comes back to the source at full guidance, beside what the autoencoder alone loses: as a swap returns
it, and sampled from its noise alone, which is where a target sets out. What swaps make of an inversion is measured by
`photoswap evaluate --inversions all`.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from models.images import to_image, to_tensor
from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.scores import psnr
from photoswap.benchmark.tasks import Task, draw_task
from photoswap.inversion import invert_image, reconstruct
from photoswap.inversions import INVERSIONS
from weights.load import load

PAPER_GUIDANCE = 7.5  # of the paper: the harder case for an inversion


class Returned(NamedTuple):
    """How near an inversion leads back, PSNR in dB, as a swap returns its source and by its noise alone; seconds."""

    returned: float
    alone: float
    seconds: float


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
    return {name: Returned(*np.mean(rows, axis=0).tolist()) for name, rows in found.items()}


def report_inversions(found: dict[str, Returned], guidance_scale: float) -> None:
    """Print a table."""
    print(f"inversion at guidance {guidance_scale:g}   PSNR to the source   by its noise alone   seconds")
    for name, (returned, alone, seconds) in found.items():
        print(f"{name:<25} {returned:>15.1f} dB {alone:>17.1f} dB {seconds:>9.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scenes", type=int, default=8, help="of the benchmark's test stream")
    parser.add_argument("--guidance", type=float, default=PAPER_GUIDANCE, help="default: %(default)s, the paper's")
    args = parser.parse_args()
    model = load(args.model, args.device, torch.float32)
    tasks = [draw_task("test", "single", i) for i in range(args.scenes)]
    report_inversions(inversions(model, tasks, args.guidance, tqdm), args.guidance)


if __name__ == "__main__":
    main()
