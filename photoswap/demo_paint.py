"""The demo without learning: a painter puts what one reference shows into a scene, scored against the truth."""

import time
from pathlib import Path

from PIL import Image

from models.images import grid
from models.paint_by_example import PaintByExample
from photoswap.benchmark.judge import Judge
from photoswap.benchmark.painted import room_for, shown_of
from photoswap.benchmark.tasks import Task, make_task
from photoswap.guidance import GUIDANCE_OF
from photoswap.masks import overlaid
from photoswap.paint_methods import PaintSettings
from photoswap.painters import PaintResult, paint
from weights.atomic import atomic

SIDE_SHOWN = 256


def run_paint_demo(
    model: PaintByExample, out: Path, *, seed: int = 0, steps: int = 50, progress: bool = True
) -> PaintResult:
    """Paint the demo's subject into its scene, write the grid to `out`, print scores and seconds."""
    start = time.perf_counter()
    task = make_task(seed)
    shown, _ = shown_of(task.newcomers[0].pictures[0].image, task.newcomers[0].pictures[0].mask)
    room = room_for(task.source.masks[0])
    settings = PaintSettings(steps=steps, guidance_scale=GUIDANCE_OF["miniature-paint"])
    painted = paint(model, task.source.image, room, shown, settings, seed=seed, progress=progress)
    with atomic(out) as place:
        painted_grid(task, room, shown, painted).save(place, format="PNG")
    report_painted(task, painted, time.perf_counter() - start)
    print(f"grid                 {out}")
    return painted


def painted_grid(task: Task, room: Image.Image, shown: Image.Image, painted: PaintResult) -> Image.Image:
    """Reference | picture and mask | what the painter sees | what it painted | the true answer."""
    pictures = [shown, overlaid(task.source.image, room), painted.seen, painted.result, task.truth.image]
    labels = ["reference", "picture and mask", "what it sees", "painted", "truth"]
    return grid([picture.resize((SIDE_SHOWN,) * 2, Image.Resampling.LANCZOS) for picture in pictures], labels)


def report_painted(task: Task, painted: PaintResult, seconds: float) -> None:
    """Print the scores and the seconds."""
    found, before = (Judge().scores(picture, task) for picture in (painted.result, task.source.image))
    print(f"picture              {task.prompt}")
    print(f"background kept      {found['background_psnr']:.1f} dB")
    print(
        f"subject to the truth {found['subject_psnr']:.1f} dB "
        f"(the source's own subject {before['subject_psnr']:.1f} dB); it is told no pose"
    )
    print(
        f"subject's colours    {found['subject_palette']:.0%} "
        f"(the source's own subject {before['subject_palette']:.0%})"
    )
    print(f"{'paint':<20} {painted.timings['paint']:.1f} s")
    print(f"{'all':<20} {seconds:.1f} s")
