"""What `photoswap swap` writes: the results, a grid, and a record of every setting."""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photoswap.commands import arguments as types
from photoswap.commands.outputs import say, write_together

if TYPE_CHECKING:
    from PIL import Image

    from photoswap.inversion import Inversion
    from photoswap.pipeline import SwapResult
    from photoswap.sizes import Box

RESULT, GRID, RECORD = "result.png", "grid.png", "swap.json"


@dataclass(frozen=True, eq=False)
class Swapped:
    """One swap: what it started from, what came out, where, and the complete picture after it."""

    inversion: "Inversion"
    result: "SwapResult"
    box: "Box"
    picture: "Image.Image"


def result_names(count: int) -> list[str]:
    """What the results are called: result.png where it is one, else numbered."""
    return [RESULT] if count == 1 else [f"result-{i}.png" for i in range(1, count + 1)]


def write_results(
    arguments: argparse.Namespace,
    done: "Sequence[Swapped]",
    several: bool,
    clock: dict[str, float],
    seed: int | None,
) -> None:
    """Put the files into --out, and say so. several: whether each swap is a result, not a step to the last."""
    results = done if several else done[-1:]
    files: dict[str, Any] = dict(zip(result_names(len(results)), (one.picture for one in results), strict=True))
    files[GRID] = make_grid(done, several)
    files[RECORD] = json.dumps(make_record(arguments, done, clock, seed), indent=2) + "\n"
    write_together({arguments.out / name: content for name, content in files.items()})
    for name in files:
        say(arguments.out / name)


def make_grid(done: "Sequence[Swapped]", several: bool) -> "Image.Image":
    """Source, reconstruction and swap at the size worked on: a row for each swap, or one for several of one source."""
    from models.images import grid
    from photoswap.sizes import take

    rows: list[list[Image.Image]] = []
    for one in done:
        side = one.result.target.size
        source = take(one.inversion.source, side) if one.inversion.source else one.result.reconstruction
        rows.append([source, one.result.reconstruction, take(one.result.result, side)])
    if not several:
        return grid([each for row in rows for each in row], ["source", "reconstruction", "swap"] * len(rows), columns=3)
    numbered = [f"swap {i}" for i in range(1, len(rows) + 1)]
    return grid([*rows[0][:2], *(row[2] for row in rows)], ["source", "reconstruction", *numbered])


def make_record(
    arguments: argparse.Namespace, done: "Sequence[Swapped]", clock: dict[str, float], seed: int | None
) -> dict[str, Any]:
    """Every setting, timing and seed (of noise that was drawn): enough to repeat the swap.

    Settings are of the first swap; where there are several, "swaps" has those of each, in order.
    """
    import torch

    flags = {name: plain(value) for name, value in vars(arguments).items() if name not in ("run", "command")}
    settings = [{**one.result.settings, "box": list(one.box) if arguments.crop else None} for one in done]
    return {
        "command": arguments.command,
        "arguments": flags,
        "seed": seed,
        "settings": {"preset": arguments.preset or "paper", **settings[0]},
        **({"swaps": settings} if len(done) > 1 else {}),
        "seconds": {stage: round(spent, 3) for stage, spent in clock.items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "platform": sys.platform},
    }


def plain(value: Any) -> Any:
    """A flag's value as JSON holds it."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path | types.ScaledFile) else value
