"""What `photoswap paint` writes: the results, a grid, and a record of every setting."""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from photoswap.commands.outputs import say, write_together
from photoswap.commands.paint_flags import PAINT_RECORD
from photoswap.commands.swap_files import GRID, plain, result_names

if TYPE_CHECKING:
    from PIL import Image

    from photoswap.paint_method import Told
    from photoswap.painters import PaintResult


def write_painted(
    arguments: argparse.Namespace,
    picture: "Image.Image",
    mask: "Image.Image",
    told: "Told",
    painted: "Sequence[PaintResult]",
) -> None:
    """Put the files into --out, and say so."""
    files: dict[str, Any] = dict(zip(result_names(len(painted)), (one.result for one in painted), strict=True))
    files[GRID] = paint_grid(picture, mask, told, painted)
    files[PAINT_RECORD] = json.dumps(paint_record(arguments, painted), indent=2) + "\n"
    write_together({arguments.out / name: content for name, content in files.items()})
    for name in files:
        say(arguments.out / name)


def paint_grid(
    picture: "Image.Image", mask: "Image.Image", told: "Told", painted: "Sequence[PaintResult]"
) -> "Image.Image":
    """The picture with its mask, what the model was shown of it, the reference if there is one, and the results."""
    from PIL import ImageOps

    from models.images import grid
    from photoswap.masks import overlaid

    size = painted[0].painted.size
    shown = [overlaid(picture, mask), painted[0].seen]
    labels = ["picture and mask", "what it sees"]
    if told.reference is not None:
        shown.append(told.reference)
        labels.append("reference")
    results = [one.result for one in painted]
    labels += ["result"] if len(results) == 1 else [f"result {i}" for i in range(1, len(results) + 1)]
    return grid([ImageOps.pad(one, size, color="white") for one in [*shown, *results]], labels)


def paint_record(arguments: argparse.Namespace, painted: "Sequence[PaintResult]") -> dict[str, Any]:
    """Every setting, timing and seed: enough to paint the same again."""
    import torch

    flags = {name: plain(value) for name, value in vars(arguments).items() if name not in ("run", "command")}
    return {
        "command": arguments.command,
        "arguments": flags,
        "seeds": [one.seed for one in painted],
        "settings": {**painted[0].settings, "box": list(painted[0].box)},
        "seconds": [{stage: round(spent, 3) for stage, spent in one.timings.items()} for one in painted],
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "platform": sys.platform},
    }
