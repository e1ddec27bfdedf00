"""The parts of the benchmark on the miniature: each yields its figures as it has them."""

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import torch
from oracle import Controller, Pairing, released_swap

from benchmarks.measure import Clock, Figure, peak_bytes, shares, threads
from benchmarks.scene import Scene, without_savings
from models import attention
from models.attention import WIDE_HEAD, attend
from models.fast import make_fast
from models.stable_diffusion import StableDiffusion
from models.threads import usual_numbers
from photoswap.demo import run_demo
from photoswap.inversions.null_text import fit_null_contexts
from photoswap.methods import Photoswap
from samplers import guide, move
from weights.load import assign, load, meta_model

ROOT = Path(__file__).parent.parent.parent
GUIDANCE = 3.0
SWAP_AT_MOST, PEAK_AT_MOST, DEMO_AT_MOST = 0.85, 1.05, 45.0
IMPORT_AT_MOST, HELP_AT_MOST = 1.0, 0.3
Figures = Iterator[Figure]


@dataclass
class Bench:
    """What the parts share. short: tiny numbers, to see that all of it runs."""

    clock: Clock
    rounds: int = 5
    against: str | None = None
    short: bool = False

    @cached_property
    def model(self) -> StableDiffusion:
        return load("miniature", "cpu", torch.float32)

    @property
    def method(self) -> Photoswap:
        return Photoswap.scaled(5 if self.short else 50, guidance_scale=GUIDANCE)

    @cached_property
    def scene(self) -> Scene:
        return Scene.of(self.model, self.method, 16)

    @property
    def few(self) -> int:
        """Rounds where nothing is held to a figure."""
        return max(1, self.rounds - 3)

    def ratio(
        self, part: str, what: str, job: Callable[[], object], base: Callable[[], object], **more: float
    ) -> Figure:
        ((value, low, high),) = self.clock.ratios([job], base, self.rounds if "most" in more else self.few)
        return Figure(part, what, value, "x", low, high, more.get("most"))

    def seconds(self, part: str, what: str, job: Callable[[], object], rounds: int | None = None) -> Figure:
        return Figure(part, what, *_with_unit(self.clock.seconds(job, rounds or self.rounds)))


def _with_unit(found: tuple[float, float, float]) -> tuple[float, str, float, float]:
    return found[0], "s", found[1], found[2]


def swap(bench: Bench) -> Figures:
    """A swap against plain guided sampling of two pictures in one batch of four rows."""
    scene = bench.scene
    yield bench.ratio("swap", "a swap at 10/25/20 of 50, time", scene.swap, scene.plain, most=SWAP_AT_MOST)
    short = scene.with_lambdas(4, 1, 3, 2)  # every table once
    peaks = peak_bytes(short.swap), peak_bytes(short.plain)
    yield Figure("swap", "a swap, peak of activations", peaks[0] / peaks[1], most=PEAK_AT_MOST)


def savings(bench: Bench) -> Figures:
    """The swap with one of its savings taken away, against the swap."""
    scene = bench.scene
    sides = without_savings(scene)
    found = bench.clock.ratios(list(sides.values()), scene.swap, bench.few)
    for what, (value, low, high) in zip(sides, found, strict=True):
        yield Figure("savings", what, value, "x", low, high)


def oracle(bench: Bench) -> Figures:
    """The released code's algorithm, written slowly (tests/oracle.py), against the swap with the same injections."""
    scene, steps = bench.scene, bench.method.steps
    source, target = (scene.pictures[name] for name in ("source", "target"))
    ids = [bench.model.tokenizer(prompt)[0].tolist() for prompt in ("a photo of a cat", "a photo of a sks cat")]
    uncond = source.context_at("uncond", 0)

    def released() -> object:
        shares = {"phi": 0.18, "M": 0.32, "A": 0.4}  # steps 0..9, to 24 and to 19 of 50
        control = Controller(bench.model.unet, steps, source.size, Pairing(*ids, 77), shares, 10**9)
        contexts = torch.cat([source.context, target.context])
        nulls = uncond.repeat(steps, 1, 1)
        return released_swap(bench.model.unet, source.noise, nulls, contexts, control, None, "v", GUIDANCE)

    ((value, low, high),) = bench.clock.ratios([released], scene.swap, bench.few)
    yield Figure("oracle", "the released code's algorithm, every map built, 200 row-calls", value, "x", low, high)


def plain(bench: Bench) -> Figures:
    """Plain sampling by an equally plain loop over another implementation, where one is named."""
    if bench.against is None:
        return
    module, _, function = bench.against.partition(":")
    other = getattr(import_module(module), function)(bench.model)
    scene = bench.scene
    yield bench.ratio("plain", f"ours against {bench.against}", scene.plain, partial(scene.plain, other))


def growth(bench: Bench) -> Figures:
    """How the cost grows with the side, the steps, the targets and the lambdas swept over one inversion."""
    model, steps = bench.model, (5, 10) if bench.short else (10, 25, 50, 100)
    sides = (128, 256) if bench.short else (256, 512, 768, 1024)
    context = model.encode_text(["a photo of a cat"] * 2)

    def call(side: int) -> object:
        with torch.no_grad():
            return model.unet(torch.zeros(2, 4, side // 8, side // 8), 500, context)

    for small, large in pairwise(sides):
        ratio = bench.clock.ratios([partial(call, large)], partial(call, small), 1 if large > 512 else 3)[0]
        yield Figure("growth", f"a call of two rows, side {large} against {small}", *_times(ratio))
    for n in steps:
        scene = Scene.of(model, Photoswap.scaled(n, guidance_scale=GUIDANCE), 16)
        yield bench.seconds("growth", f"a swap of {n} steps", scene.swap, 2)
    for targets in (2, 4):
        several = Scene.of(model, bench.method, 16, targets)
        yield bench.ratio("growth", f"{targets} targets of one source, against one", several.swap, bench.scene.swap)
    for shared in (True, False):
        what = f"4 values of phi over one inversion, {'as a tree' if shared else 'one by one'}, against one"
        yield bench.ratio("growth", what, partial(bench.scene.sweep, 4, shared), bench.scene.swap)


def _times(found: tuple[float, float, float]) -> tuple[float, str, float, float]:
    return found[0], "x", found[1], found[2]


def dtypes(bench: Bench) -> Figures:
    """The miniature in other dtypes and layouts, against float32 as it is loaded."""
    base = bench.scene
    for dtype in (torch.float32, torch.bfloat16):
        for fast in (False, True):
            if (dtype, fast) == (torch.float32, False):
                continue
            model = deepcopy(bench.model)
            for network in model.networks.values():
                network.to(dtype)
            if fast:
                make_fast(model)
            scene = Scene.of(model, bench.method, 16)
            name = f"{str(dtype).removeprefix('torch.')}{', channels last, q k v in one' if fast else ''}"
            yield bench.ratio("dtypes", f"a swap of the miniature in {name}", scene.swap, base.swap)
            yield Figure("dtypes", f"error of the latents in {name}", _error(scene.swap(), base.swap()), "relative")
    side = 16 if bench.short else 64
    q, k, v = torch.randn(3, 1, 5, side * side, 64, generator=torch.Generator().manual_seed(3))
    half = [x.bfloat16() for x in (q, k, v)]
    what = f"attention alone, {side * side} places of SD 2.1's, in bfloat16"
    yield bench.ratio("dtypes", what, lambda: attend(*half), lambda: attend(q, k, v))
    ways = ((False, 0), (True, WIDE_HEAD), (True, 0))
    plain, half, all_half = (partial(_gradients, bench.model, *way) for way in ways)
    yield bench.ratio("dtypes", "gradients of 8 rows in bfloat16, attention in float32", half, plain)
    yield bench.ratio("dtypes", "the same, against attention in bfloat16 too", half, all_half)


def _gradients(model: StableDiffusion, bfloat16: bool, wide: int) -> None:
    """All gradients of the U-Net for 8 rows. wide: heads from this width on are not widened to float32."""
    context = model.encode_text(["a photo of a cat"] * 8)
    attention.WIDE_HEAD, before = wide, attention.WIDE_HEAD
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        model.unet(torch.ones(8, 4, 16, 16), 500, context).square().mean().backward()
    attention.WIDE_HEAD = before
    model.unet.zero_grad(set_to_none=True)


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def null_text(bench: Bench) -> Figures:
    """Null-text optimisation against the loop that computes the conditional prediction anew in each inner iteration."""
    model, steps = bench.model, 2 if bench.short else 4
    context = model.encode_text("a photo of a cat").detach()
    drawn = torch.randn(steps + 1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    ours = lambda: fit_null_contexts(model, drawn, context, lambda _: 7.5)  # noqa: E731
    yield bench.ratio(
        "null-text", f"{steps} steps, every inner iteration, time", ours, partial(_naive, model, drawn, context)
    )


def _naive(model: StableDiffusion, trajectory: torch.Tensor, context: torch.Tensor) -> None:
    """As the published notebook does it: both predictions in each inner iteration, weights' gradients included."""
    n, latents = len(trajectory) - 1, trajectory[-1:]
    null = model.encode_text("").detach()
    for step in model.schedule.sampling(n):
        null = null.clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=1e-2)
        for _ in range(11):
            outputs = [
                model.schedule.to_eps(model.unet(latents, step.t, told), latents, step) for told in (null, context)
            ]
            landed = move(latents, guide(*outputs, 7.5), step.alpha_from, step.alpha_to)
            loss = (landed - trajectory[n - 1 - step.index]).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        latents, null = landed.detach(), null.detach()
    model.unet.zero_grad(set_to_none=True)


def tiling(bench: Bench) -> Figures:
    """The autoencoder's decoder in bands, against the whole, on a picture of 1024 pixels a side."""
    vae, side = deepcopy(bench.model.vae), 32 if bench.short else 128
    latents = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(2))

    def decode(tile: bool) -> torch.Tensor:
        vae.tile = tile
        with torch.no_grad():
            return vae.decode(latents)

    what = f"decoding {8 * side} pixels a side in bands"
    yield bench.ratio("tiling", f"{what}, time", partial(decode, True), partial(decode, False))
    peaks = [peak_bytes(partial(decode, tile)) for tile in (True, False)]
    yield Figure("tiling", f"{what}, peak of activations", peaks[0] / peaks[1])
    yield Figure("tiling", f"{what}, error", _error(decode(True), decode(False)), "relative", most=1e-3)


def starts(bench: Bench) -> Figures:
    """Importing, helping, loading, and the first call against the second."""
    told = "import time, torch; a = time.perf_counter(); import photoswap; print(time.perf_counter() - a)"
    found = sorted(float(_python("-c", told)) for _ in range(min(3, bench.rounds)))
    yield Figure(
        "starts", "import photoswap, after torch", found[len(found) // 2], "s", found[0], found[-1], IMPORT_AT_MOST
    )
    clock = Clock()
    shown = clock.seconds(lambda: _python("-m", "photoswap", "--help"), min(3, bench.rounds))
    yield Figure("starts", "photoswap --help", *_with_unit(shown), HELP_AT_MOST)
    loading = lambda: load("miniature", "cpu", torch.float32)  # noqa: E731
    yield bench.seconds("starts", "load the miniature", loading, 3)
    parts = {"building the networks": meta_model, "checking and placing its numbers": assign}
    for what, share in zip(parts, shares(loading, list(parts.values())), strict=True):
        yield Figure("starts", f"load the miniature, share of {what}", share, "of it")
    scene = Scene.of(loading(), bench.method, 16)
    first, second = bench.clock.of(scene.swap), bench.clock.of(scene.swap)
    yield Figure("starts", "the first swap of a process, against the second", first / second)


def _python(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def demo(bench: Bench) -> Figures:
    """`photoswap demo`, and where its time goes."""
    told = io.StringIO()
    as_started = threads(max(usual_numbers()))  # whatever the other parts are given
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(told), as_started:
        if not bench.short:
            run_demo(bench.model, Path(folder) / "demo.png", progress=False)
    for stage, spent in re.findall(r"^(draw|learn|invert and swap|all) +([\d.]+) s$", told.getvalue(), re.MULTILINE):
        yield Figure(
            "demo", f"photoswap demo, {stage}", float(spent), "s", most=DEMO_AT_MOST if stage == "all" else None
        )
