"""A short name for the exact weights and numbers of a model, which files made with it carry.

Weights count by the values stored in the file, whatever dtype they were then rounded to, so a checkpoint has one
fingerprint however it is loaded, and from either layout. Numbers count by a list of names written out below, which has
a version: fingerprints begin with it. It guards against mistakes, not against forgery.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch

from models.config import AnyConfig
from models.identity import Identity, Mark
from models.stable_diffusion import LatentDiffusion
from weights.checksum import digest_of
from weights.fingerprint_v1 import fingerprint_v1
from weights.load import networks_of

Model = TypeVar("Model", bound=LatentDiffusion)
VERSION = 2
COUNTED = {  # version 2 counts these, always, of the parts that the model has
    "unet": (
        "in_channels",
        "out_channels",
        "channels",
        "multipliers",
        "res_blocks",
        "attention_levels",
        "head_channels",
        "heads",
        "context_channels",
        "groups",
        "depth",
    ),
    "vae": ("channels", "multipliers", "res_blocks", "latent_channels", "groups", "scale_factor"),
    "text": ("vocabulary", "width", "heads", "layers", "length", "mlp_ratio", "activation", "padding"),
    "image": (
        "width",
        "heads",
        "layers",
        "size",
        "patch",
        "mlp_ratio",
        "activation",
        "mapper_blocks",
        "mapper_heads",
        "context_channels",
    ),
    "noise": (
        "beta_start",
        "beta_end",
        "train_steps",
        "prediction",
        "offset",
        "beta_schedule",
        "spacing",
        "rescale_zero_snr",
        "set_alpha_to_one",
    ),
}
# Fields that came later: each counts where it differs from the value that says what was so before, and no older
# fingerprint changes.
COUNTED_UNLESS: dict[str, dict[str, Any]] = {}
# How a file stores what computes the same.
NOT_COUNTED = {"unet": ("linear_projection",), "text": ("stored_layers",)}
REALS = ("vae.scale_factor", "noise.beta_start", "noise.beta_end")  # 1 and 1.0 are one number, and two texts


def fingerprint(model: LatentDiffusion) -> str:
    """A version and sixteen hexadecimal digits that tell models apart, also those that differ by a concept.

    Nothing is read for a loaded model whose networks have not been changed in place: it carries what `load` found. Else
    every weight is, as it is now, at some seconds for the largest model.
    """
    known = identify(model)
    counted = {"numbers": numbers(model.config), "networks": dict(known.digests), "concepts": known.concepts}
    return f"{VERSION}-{hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]}"


def identify(model: LatentDiffusion) -> Identity:
    """What the networks are known by: what the model carries where that is still true, else what they hold now.

    A concept that was put on counts only while every network is as it was left then.
    """
    known, networks = model.identity, networks_of(model)
    true = [name for name, net in networks.items() if known and name in known.marks and known.marks[name].holds(net)]
    if known and len(true) == len(networks):
        return known
    kept = dict(known.digests) if known and not known.concepts else {}
    lacking = {name: network for name, network in networks.items() if name not in true or name not in kept}
    return marked(model, kept | {name: digest_of(network.state_dict()) for name, network in lacking.items()})


def marked(model: LatentDiffusion, digests: Mapping[str, str], concepts: tuple[str, ...] = ()) -> Identity:
    """These digests, said of the networks as they are now."""
    return Identity(digests, concepts, {name: Mark.of(network) for name, network in networks_of(model).items()})


def with_concepts(model: Model, base: Identity, *concepts: str) -> Model:
    """The model, known from now on as that base with these concepts on it, in this order.

    model: after the last change to its networks, in place or in copies. base: `identify` of the model before the first.
    concepts: what tells each one apart, for instance its `digest_of`. Concepts that the base bears stay.
    """
    return replace(model, identity=marked(model, base.digests, base.concepts + concepts))


def mismatch(model: LatentDiffusion, recorded: str) -> str | None:
    """What to say where a file was made with another model than this; None where it was made with this one.

    recorded: the fingerprint that the file bears, of this version or of the first. The first can only be told from
    weights in float16 or wider. The answer reads on after "this was made with ... and".
    """
    found = fingerprint(model)
    if recorded == found:
        return None
    here = f"this is {model.config.name} ({found})"
    if "-" in recorded:
        return here
    if recorded == fingerprint_v1(model):
        return None
    if model.dtype in (torch.float16, torch.float32, torch.float64):
        return here
    return (
        f"{here}, in {str(model.dtype).removeprefix('torch.')}; what an earlier version recorded can be told only in "
        "float32 or float16: load the model so, or make the file again"
    )


def numbers(config: AnyConfig) -> dict[str, Any]:
    """What a fingerprint counts of a configuration: "unet.channels" and the like to its value, floats as floats."""
    parts = {name: vars(getattr(config, name)) for name in COUNTED if hasattr(config, name)}
    found = {f"{part}.{name}": numbers[name] for part, numbers in parts.items() for name in COUNTED[part]}
    for part, later in COUNTED_UNLESS.items():
        found |= {f"{part}.{name}": parts[part][name] for name, old in later.items() if parts[part][name] != old}
    return {name: float(value) if name in REALS else value for name, value in found.items()}
