"""The parts of the benchmark at the size of SD 2.1, with drawn weights: three to eight gigabytes.

A swap of 50 steps would take many minutes on a CPU. It has four tables of hooks, and within a table every step costs
the same: so 4 steps are timed, one of each table (phi for 1, A for 2, M for 3), and weighed by how many of 50 steps
each has at 10/25/20, which is 10, 10, 5 and 25. Plain sampling is weighed likewise: 50 times one of its steps.
"""

import statistics
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import torch

from benchmarks.measure import Figure
from benchmarks.parts import Bench
from benchmarks.scene import Scene
from models.config import SD21_BASE, ModelConfig
from models.fast import fastest_dtype, make_fast
from models.stable_diffusion import StableDiffusion
from models.threads import suited_threads
from photoswap import side_by_side as loop
from photoswap.injections import SOURCE
from photoswap.methods import Photoswap
from weights.load import meta_model

WEIGHTS = (10, 10, 5, 25)
SWAP_AT_MOST = 0.75
ENOUGH = 60.0  # seconds of swaps, after which no further round is begun


def drawn_model(config: ModelConfig, dtype: torch.dtype, device: str = "cpu") -> StableDiffusion:
    """Random weights made where they are used: norms as they begin, matrices that keep the variance."""
    model, generator = meta_model(config), torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for network in model.networks.values():
            network.to(dtype).to_empty(device=device).eval().requires_grad_(False)
            for name, parameter in network.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
                else:
                    parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return model


def full(bench: Bench, config: ModelConfig = SD21_BASE, side: int = 64) -> Iterator[Figure]:
    """A swap at full size against plain sampling; and bfloat16, laid out for speed, against float32."""
    dtype = fastest_dtype(torch.device("cpu"), config.unet.channels)
    model, rounds = drawn_model(config, dtype), 1 if bench.short else 2
    with suited_threads(model):
        yield from _swap(bench, Scene.of(model, Photoswap(steps=4, phi=1, M=3, A=2), side), rounds)
        yield from _dtypes(bench, model, side, rounds)


def _swap(bench: Bench, scene: Scene, rounds: int) -> Iterator[Figure]:
    """Time against plain sampling; what it holds is counted without data (benchmarks/counted.py)."""
    dtype, found = str(scene.model.dtype).removeprefix("torch."), []
    name = f"{8 * scene.pictures[SOURCE].size[0]} px in {dtype}"
    scene.plain(steps=1)  # memory is taken and kernels are chosen
    start = time.monotonic()
    while len(found) < rounds and (not found or time.monotonic() - start < ENOUGH):
        below = bench.clock.of(partial(scene.plain, steps=1)) * sum(WEIGHTS)
        found.append(sum(w * spent for w, spent in zip(WEIGHTS, step_seconds(bench, scene), strict=True)) / below)
    middle = statistics.median(found)
    yield Figure("full", f"a swap at {name}, time", middle, "x", min(found), max(found), SWAP_AT_MOST)


def step_seconds(bench: Bench, scene: Scene) -> list[float]:
    """What each step of a swap takes, the making of its table included."""
    marks = [bench.clock.now()]
    for _ in loop.side_by_side(scene.model.unet, scene.model.schedule, scene.pictures, scene.method):
        marks.append(bench.clock.now())
    return [after - before for before, after in pairwise(marks)]


def _dtypes(bench: Bench, model: StableDiffusion, side: int, rounds: int) -> Iterator[Figure]:
    """One row through the U-Net, in three ways, over the weights as they are rounded to the fastest dtype."""
    dtype, inputs = model.dtype, torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    context = model.encode_text("a photo of a cat").float()

    @torch.no_grad()
    def call() -> torch.Tensor:
        return model.unet(inputs.to(model.dtype), 500, context.to(model.dtype)).float()

    outputs, seconds = {}, {}
    for way in ("half", "half, laid out", "float32"):
        if way == "half, laid out":
            make_fast(model)
        if way == "float32":
            model.unet.to(memory_format=torch.contiguous_format).float()
        outputs[way] = call()
        seconds[way] = statistics.median(bench.clock.of(call) for _ in range(rounds))
    for way in ("half", "half, laid out"):
        name = way.replace("half", str(dtype).removeprefix("torch."))
        error = (outputs[way] - outputs["float32"]).norm() / outputs["float32"].norm()
        yield Figure("full", f"a row in {name}, against float32, time", seconds[way] / seconds["float32"])
        yield Figure("full", f"a row in {name}, error", error.item(), "relative")
