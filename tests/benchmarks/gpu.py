"""What a GPU does, written as it is found: `python -m tests.benchmarks.gpu --part calls --minutes 9 --out folder`.

Nothing is downloaded: models of the published size are drawn on the device. Every part is optional and keeps each
figure in OUT/figures.jsonl as soon as it is there; run again with the same OUT, what stands there is not measured
again, so that a part may take several sittings of --minutes. `--dry-run` does all of it at small size, on the CPU too.

  tests       every test with --device cuda
  calls       row-calls a second at 512 and 768, float16 and bfloat16, eager and compiled, and what the warm-up costs
  swap        a real picture's swap whole: encode, invert, swap, decode
  null-text   a null-text inversion of 50 steps
  dreambooth  800 steps of DreamBooth, and of LoRA
  miniature   trains the miniature, in sittings; checkpoints lie in OUT, in pieces of 15 MiB
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' own modules

import torch
from swap_model import picture
from tiny_model import tiny_config

from benchmarks.full import drawn_model
from benchmarks.gpu_miniature import run_stage, send_out, stages, take_in
from benchmarks.measure import Clock
from models.config import SD21_BASE, ModelConfig
from models.fast import make_fast
from models.stable_diffusion import StableDiffusion
from photoswap.inversion import invert_image
from photoswap.methods import Photoswap
from photoswap.pipeline import swap
from train.config import learn_config
from train.learn import learn

ROOT = Path(__file__).parent.parent.parent
FIGURES = "figures.jsonl"
SOURCE, TARGET = "a photo of a cat on a wooden floor", "a photo of a sks cat on a wooden floor"
PEAK_SIDE = 8192  # of the matrices whose product says what the device can do
Found = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Sitting:
    """Where and how long to measure, and at which size. known: the figures that stand already."""

    device: str
    out: Path
    until: float
    dry: bool
    known: frozenset[str]

    @cached_property
    def config(self) -> ModelConfig:
        return tiny_config() if self.dry else SD21_BASE

    @property
    def sides(self) -> tuple[int, ...]:
        return (128,) if self.dry else (512, 768)

    @property
    def steps(self) -> int:
        return 4 if self.dry else 50

    def model(self, dtype: torch.dtype, compiled: str | None) -> tuple[StableDiffusion, Any]:
        """Drawn on the device, made fast; compiled: whole, blocks or None, which on a dry run traces and no more."""
        model = drawn_model(self.config, dtype, self.device)
        return model, make_fast(model, compiled, "eager" if self.dry else "inductor")  # type: ignore[arg-type]

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.until


def calls(sitting: Sitting) -> Found:
    """Row-calls a second, in batches as a swap has them, and their share of what the device multiplies."""
    for dtype in (torch.float16, torch.bfloat16):
        peak = multiplied(sitting, dtype)
        for compiled in (None, "whole", "blocks"):
            for side in sitting.sides:
                name = f"calls {str(dtype)[6:]} {compiled or 'eager'} {side}"
                if name in sitting.known:
                    continue
                model, warm_up = sitting.model(dtype, compiled)
                yield name, {**rows_a_second(sitting, model, side, peak), "warm_up": str(warm_up or "none")}


@torch.no_grad()
def rows_a_second(sitting: Sitting, model: StableDiffusion, side: int, peak: float) -> dict[str, Any]:
    rows, found = (2,) if sitting.dry else (1, 2, 4, 8), {}
    for count in rows:
        context = model.unet.prepare_context(model.encode_text([SOURCE] * count))
        latents = torch.randn(count, 4, side // 8, side // 8, device=sitting.device, dtype=model.dtype)
        call = partial(model.unet, latents, 500, context)
        for _ in range(3):
            call()
        spent = Clock().of(lambda call=call: [call() for _ in range(2 if sitting.dry else 20)])
        found[f"{count} rows"] = round(count * (2 if sitting.dry else 20) / spent, 2)
    flops = operations(call) / rows[-1]
    memory = {"peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if sitting.device != "cpu" else {}
    share = {"share of the peak": round(max(found.values()) * flops / peak, 3), "TFLOP a row": round(flops / 1e12, 3)}
    return {"row-calls a second": found, **share, **memory, "longest": longest_kernels(call)}


def multiplied(sitting: Sitting, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product: what the device can do at most, measured."""
    side = 256 if sitting.dry else PEAK_SIDE
    a, b = (torch.randn(side, side, device=sitting.device, dtype=dtype) for _ in range(2))
    spent = Clock().seconds(lambda: a @ b, 3 if sitting.dry else 20)[0]
    return 2 * side**3 / spent


def operations(call: Callable[[], object]) -> float:
    """Of matrix products, convolutions and attention in one call, as torch counts them: not in compiled code."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def longest_kernels(call: Callable[[], object], count: int = 10) -> dict[str, float]:
    """Name and share of the time of the longest, from torch's profiler."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] * torch.cuda.is_available()
    with torch.profiler.profile(activities=kinds) as profiler:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    spent = {e.key: getattr(e, "self_device_time_total", 0) or e.self_cpu_time_total for e in profiler.key_averages()}
    total = sum(spent.values()) or 1
    return {key[:80]: round(spent[key] / total, 4) for key in sorted(spent, key=spent.__getitem__)[: -count - 1 : -1]}


def whole_swap(sitting: Sitting) -> Found:
    """A real picture's swap from pixels to pixels: encode, invert, swap, decode, the second of each kind timed."""
    for compiled in (None, "whole"):
        for side in sitting.sides:
            name = f"swap bfloat16 {compiled or 'eager'} {side}"
            if name in sitting.known:
                continue
            model, warm_up = sitting.model(torch.bfloat16, compiled)
            seen: dict[str, float] = {}
            job = partial(pixels_to_pixels, model, side, sitting.steps, seen)
            job()
            yield name, {"seconds": round(Clock().of(job), 3), **seen, "warm_up": str(warm_up or "none")}


def pixels_to_pixels(model: StableDiffusion, side: int, steps: int, seen: dict[str, float]) -> None:
    """The whole of it; the swap's own seconds go into `seen`."""
    source = invert_image(model, picture(side, side), SOURCE, steps=steps, size=(side, side))
    seen |= swap(model, source, TARGET, Photoswap.scaled(steps)).timings


def null_text(sitting: Sitting) -> Found:
    """A null-text inversion, which is float32, TF32 off."""
    for side in sitting.sides[:1]:
        if (name := f"null-text float32 {side}") not in sitting.known:
            model, _ = sitting.model(torch.float32, None)
            given = {"steps": sitting.steps, "size": (side, side)}
            call = partial(invert_image, model, picture(side, side), SOURCE, "null-text", **given)
            yield name, {"seconds": round(Clock().of(call), 2)}


def dreambooth(sitting: Sitting) -> Found:
    """800 steps of DreamBooth and of LoRA at 512, under autocast; seconds for all from those of the measured ones."""
    side, steps = sitting.sides[0], 3 if sitting.dry else 100
    references, marks = [picture(side, side, seed) for seed in range(4)], []
    for method in ("dreambooth", "lora"):
        if (name := f"{method} bfloat16 {side}") in sitting.known:
            continue
        marks.clear()
        model = drawn_model(sitting.config, torch.float32, sitting.device)
        given = {"steps": steps, "bfloat16": True, "size": side, "prior_weight": 0.0}
        config = learn_config(method, "sd21-base", "cat", **given)
        learn(model, references, config, progress=False, on_step=lambda *_: marks.append(time.perf_counter()))
        each = (marks[-1] - marks[len(marks) // 2]) / max(1, len(marks) - 1 - len(marks) // 2)
        yield name, {"seconds a step": round(each, 4), "seconds for 800": round(800 * each, 1), "without": "class rows"}


def suite(sitting: Sitting) -> Found:
    """Every test on the device."""
    if "tests" not in sitting.known:
        command = [sys.executable, "-m", "pytest", "-q", "--device", sitting.device, "-p", "no:cacheprovider"]
        command += ["tests/test_unet.py"] if sitting.dry else []
        left = max(60.0, sitting.until - time.monotonic())
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=left)
        (sitting.out / "tests.txt").write_text(done.stdout + done.stderr)
        yield "tests", {"exit": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}


def miniature(sitting: Sitting) -> Found:
    """The miniature's trainings, in sittings: each stage stops when the minutes are over, and goes on the next time."""
    work = sitting.out / "work"
    take_in(sitting.out, work)
    for stage in stages(work, sitting.device, sitting.dry):
        if f"miniature {stage.name}" in sitting.known:
            continue
        how, said = run_stage(stage, ROOT, sitting.until - time.monotonic())
        send_out(work, sitting.out)
        yield f"miniature {stage.name}{'' if how == 'done' else f' {how}'}", {"said": said}
        if how != "done":
            return


PARTS: dict[str, Callable[[Sitting], Found]] = {
    "tests": suite,
    "calls": calls,
    "swap": whole_swap,
    "null-text": null_text,
    "dreambooth": dreambooth,
    "miniature": miniature,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="may be repeated (default: all)")
    parser.add_argument("--minutes", type=float, default=25.0, help="no figure is begun after so many")
    parser.add_argument("--out", type=Path, default=Path("gpu-figures"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dry-run", action="store_true", help="at small size, on any device")
    told = parser.parse_args(argv)
    if told.device == "cpu" and not told.dry_run:
        parser.error("there is no GPU here: nothing to measure but with --dry-run")
    told.out.mkdir(parents=True, exist_ok=True)
    kept = told.out / FIGURES
    lines = kept.read_text().splitlines() if kept.is_file() else []
    known = frozenset(json.loads(line)["name"] for line in lines)
    sitting = Sitting(told.device, told.out, time.monotonic() + 60 * told.minutes, told.dry_run, known)
    device = torch.cuda.get_device_name() if told.device != "cpu" else "cpu"
    for part in told.part or PARTS:
        for name, figures in PARTS[part](sitting):
            record = {"name": name, **figures, "device": device, "torch": torch.__version__}
            with kept.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)
            if sitting.is_over:
                print(f"the minutes are over; run again with --out {told.out} to go on", flush=True)
                return


if __name__ == "__main__":
    main()
