"""What `photoswap evaluate` needs of painters: the network trained to paint, and what pictures are steered by."""

import argparse
from copy import copy
from typing import TYPE_CHECKING

from photoswap.commands.common import load_kind, pick_device
from photoswap.guidance import GUIDANCE_OF

if TYPE_CHECKING:
    from photoswap.benchmark.entries import Entry
    from photoswap.benchmark.painted import Easel


def with_painter(
    arguments: argparse.Namespace, entries: "tuple[Entry, ...]", shipped: bool = True
) -> "tuple[tuple[Entry, ...], list[str]]":
    """The entries that can be done, and a sentence where "painters" asks for a network and none is given.

    shipped: whether the painter of the drawn world will do where none was given, if this installation has one.
    Raises ValueError where one is asked for by name and not given, or given and not asked for.
    """
    from photoswap.benchmark.entries import PAINTER
    from weights import published

    wanted = any(entry.method == PAINTER for entry in entries)
    if arguments.painter is not None and not wanted:
        raise ValueError(f"--painter changes nothing without --methods {PAINTER}, or painters; leave it out")
    if wanted and shipped and arguments.painter is None and published.MINIATURE_PAINTER.is_file():
        arguments.painter = "miniature-paint"
    if arguments.painter is not None or not wanted:
        return entries, []
    if PAINTER in arguments.methods:
        raise ValueError(f"--methods {PAINTER} is a network trained to paint: give its file with --painter")
    said = f"{PAINTER} is left out: no --painter was given (python -m train.paint makes one)"
    return tuple(entry for entry in entries if entry.method != PAINTER), [said]


def make_easel(
    arguments: argparse.Namespace, entries: "tuple[Entry, ...]", asked_for_features: bool = False
) -> "Easel":
    """What the entries that paint need beside the model. Raises ValueError where it is not there.

    asked_for_features: whether somebody else goes by --features too.
    """
    from models.stable_diffusion import LatentDiffusion
    from photoswap.benchmark.features import find_features
    from photoswap.benchmark.painted import Easel

    steered = any(entry.method == "blended-image" for entry in entries)
    if arguments.features is not None and not steered and not asked_for_features:
        raise ValueError("--features changes nothing without --methods blended-image, or painters; leave it out")
    features = find_features(arguments.features, pick_device(arguments.device)) if steered else None
    if arguments.painter is None:
        return Easel(None, features)
    asked = copy(arguments)
    asked.model, asked.config, asked.prediction = arguments.painter, None, None
    painter = load_kind(asked, LatentDiffusion, "float32")
    if not painter.config.paints:
        raise ValueError(f"--painter {arguments.painter} draws whole pictures; want a network trained to paint")
    own = GUIDANCE_OF.get(painter.config.name) if arguments.guidance is None else None
    return Easel(painter, features, own)
