"""The whole job in one go on the drawn world: learn a subject, invert a scene, swap, and score against the truth.

It is one task of the benchmark's kind (`photoswap/benchmark/tasks.py`), made to be looked at.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from models.images import grid
from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.judge import Judge
from photoswap.benchmark.tasks import Task, make_task
from photoswap.guidance import GUIDANCE_OF
from photoswap.inversion import invert_image
from photoswap.methods import Method, Photoswap
from photoswap.pipeline import SwapResult, swap
from train.concepts import apply_concept
from train.config import DreamBoothConfig, dreambooth_config
from train.learn import learn
from train.world import Look
from weights.atomic import atomic

METHOD = Photoswap(guidance_scale=GUIDANCE_OF["miniature"])


@dataclass(frozen=True, eq=False)
class Outcome:
    """A swap, what it was asked, and its scores: background in dB, subject in dB and as a share of the palette.

    before: the same subject scores of the unswapped source, which a swap has to beat.
    """

    task: Task
    swapped: SwapResult
    background: float
    subject: tuple[float, float]
    before: tuple[float, float]


def demo_config(seed: int, subject: Look) -> DreamBoothConfig:
    """How the demo learns: the miniature's preset."""
    return dreambooth_config("miniature", subject.species, seed=seed)


def swap_in(
    model: StableDiffusion, task: Task, token: str, method: Method | None = None, progress: bool = False
) -> SwapResult:
    """Invert the task's source and swap in the concept that the model has learnt under the token."""
    method = method or METHOD
    inversion = invert_image(model, task.source.image, task.prompt, steps=method.steps, progress=progress)
    (turn,) = task.turns([f"{token} {task.subject.species}"])
    target, word, subject = turn.target, turn.source_word, turn.target_word
    return swap(model, inversion, target, method, source_word=word, target_word=subject, progress=progress)


def score(task: Task, swapped: SwapResult) -> Outcome:
    """Compare with the truth: the background where neither subject stands, the subject where the true one does."""
    found, before = (Judge().scores(picture, task) for picture in (swapped.result, task.source.image))
    return Outcome(task, swapped, found["background_psnr"], _likeness(found), _likeness(before))


def demo_grid(outcome: Outcome) -> Image.Image:
    """References | source | reconstruction | swap | the true answer."""
    task, swapped = outcome.task, outcome.swapped
    pictures = [
        _quartered(task.references),
        task.source.image,
        swapped.reconstruction,
        swapped.result,
        task.truth.image,
    ]
    labels = ["references", "source", "reconstruction", "swap", "truth"]
    return grid([picture.resize((256, 256), Image.Resampling.LANCZOS) for picture in pictures], labels)


def run_demo(model: StableDiffusion, out: Path, *, seed: int = 0, progress: bool = True) -> Outcome:
    """Do it all, write the grid to `out`, print scores and seconds."""
    seconds: dict[str, float] = {}
    with _timed(seconds, "draw"):
        task = make_task(seed)
    with _timed(seconds, "learn"):
        config = demo_config(seed, task.subject)
        concept = learn(model, task.references, config, progress=progress)
    with _timed(seconds, "invert and swap"):
        swapped = swap_in(apply_concept(model, concept), task, config.token, progress=progress)
    outcome = score(task, swapped)
    with atomic(out) as place:
        demo_grid(outcome).save(place, format="PNG")
    report_scores(outcome, seconds)
    print(f"grid                 {out}")
    return outcome


def report_scores(outcome: Outcome, seconds: dict[str, float]) -> None:
    """Print the scores and the seconds."""
    (near, palette), (near_before, palette_before) = outcome.subject, outcome.before
    print(f"source               {outcome.task.prompt}")
    print(f"background kept      {outcome.background:.1f} dB")
    print(f"subject to the truth {near:.1f} dB (the source's own subject {near_before:.1f} dB)")
    print(f"subject's colours    {palette:.0%} (the source's own subject {palette_before:.0%})")
    for stage, spent in seconds.items():
        print(f"{stage:<20} {spent:.1f} s")
    print(f"{'all':<20} {sum(seconds.values()):.1f} s")


def _likeness(scores: Mapping[str, float]) -> tuple[float, float]:
    return scores["subject_psnr"], scores["subject_palette"]


def _quartered(pictures: list[Image.Image]) -> Image.Image:
    """The first four pictures as one of twice the size."""
    width, height = pictures[0].size
    whole = Image.new("RGB", (2 * width, 2 * height), "white")
    for i, picture in enumerate(pictures[:4]):
        whole.paste(picture, (i % 2 * width, i // 2 * height))
    return whole


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
