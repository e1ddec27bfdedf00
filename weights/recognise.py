"""Which model a checkpoint is, and what it predicts, and who says so.

What it is, the caller says, or `save` has noted it, or the folder's own configuration files; else its shapes tell, for
the published models. What it predicts is said by, in this order: the caller; the note; scheduler_config.json; the
published name or hash of the file; its shapes, where all models of those shapes predict the same. Words like 768, 512
or base in its name are a hint and no more: a probe of the network (weights/probe.py) has the last word on them, and
decides alone where nobody says anything.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from models.config import (
    LEVELS,
    MINIATURE,
    MODELS,
    AnyConfig,
    ModelConfig,
    PaintConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
    VisionConfig,
)
from samplers import Schedule
from weights.files import Checkpoint
from weights.folder_config import IMAGE, SCHEDULER, TEXT, UNET, VAE, FolderNumbers, read_folder, read_text
from weights.names import Layout, NetworkName, source, table
from weights.parsing import parse_config
from weights.published import PUBLISHED, expand, sha256
from weights.records import quoted, shown

Prediction = Literal["eps", "v"]
CONFIG_KEY = "photoswap.config"  # of the metadata: what `save` records, so that a file of ours says what it is
LEARNT = "learnable_vector"  # the unconditional context, in a single file of Paint by Example
NOTE = "photoswap.json"  # the same, in a folder


class Recognised(NamedTuple):
    """What a checkpoint is.

    by: who says what it predicts; None: nobody. sure: neither nobody, nor a hint, nor a caller whom a surer witness
    contradicts; then, and only then, a probe is asked. hint: it is no more
    than a word in its name, and a probe overrules it.
    """

    config: AnyConfig
    by: str | None
    sure: bool
    hint: bool = False


class Networks(NamedTuple):
    """The numbers of the three networks. conditioner: of the one that makes the context."""

    unet: UNetConfig
    vae: VAEConfig
    conditioner: TextConfig | VisionConfig


def network_configs(config: AnyConfig) -> Networks:
    """The numbers of the networks of a model."""
    return Networks(config.unet, config.vae, config.conditioner)


def recognise(
    files: Mapping[NetworkName | None, Checkpoint],
    path: Path,
    name: str,
    config: AnyConfig | str | os.PathLike | None = None,
    prediction: Prediction | None = None,
) -> Recognised:
    """Tell what the open files of a checkpoint are.

    name: by which it was asked for. config, prediction: what the caller says of it, which is believed; a prediction is
    checked by a probe where a note, a scheduler's configuration or a published name says the other.
    Raises ValueError when the shapes fit no published model and nobody says what it is, when a folder's configuration
    asks for what is not computed here, and when one has more layers than the checkpoint has tensors.
    """
    told = _told(files, path, name, config)
    _check_size(files, told.config, path)
    if prediction is None or (told.sure and told.config.noise.prediction == prediction):
        return told
    if prediction not in ("eps", "v"):
        raise ValueError(f"prediction is {quoted(prediction)}: want 'eps' or 'v'")
    asked = predicting(told.config, prediction)
    return Recognised(asked, f"the prediction asked for ({prediction})", sure=not told.sure)


def predicting(config: AnyConfig, prediction: Prediction) -> AnyConfig:
    """The known model of the same networks that predicts this, else the same model said to."""
    if config.noise.prediction == prediction:
        return config
    noise, networks = replace(config.noise, prediction=prediction), network_configs(config)
    alike = (known for known in MODELS.values() if network_configs(known) == networks)
    return next((known for known in alike if known.noise == noise), None) or replace(config, noise=noise)


def configured(config: str | os.PathLike) -> Recognised:
    """The known model of that name, or what a JSON file of a configuration says.

    Raises ValueError when it is neither.
    """
    if str(config) in MODELS:
        return Recognised(MODELS[str(config)], f"the configuration asked for ({config})", True)
    path = expand(config)
    try:
        there = path.is_file()
    except (OSError, ValueError):  # too long to be a name, or with a zero in it
        there = False
    if not there:
        raise ValueError(
            f"no configuration {quoted(str(config), 120)}: want one of {', '.join(MODELS)}, or a JSON file"
        )
    return Recognised(_from_json(path), f"the configuration given ({path.name})", True)


def _told(
    files: Mapping[NetworkName | None, Checkpoint],
    path: Path,
    name: str,
    config: AnyConfig | str | os.PathLike | None,
) -> Recognised:
    if isinstance(config, AnyConfig):
        return Recognised(config, "the configuration given", True)
    if config is not None:
        return configured(config)
    if name in MODELS:
        return Recognised(MODELS[name], f"its name ({name})", True)
    if None not in files:
        return _of_folder(files, path)
    if note := files[None].metadata.get(CONFIG_KEY):
        return Recognised(parse_config(note, path), "the note in it", True)
    fitting = _fitting(files)
    return _by_name(path, fitting) or _by_shape(fitting)


# A folder


def _of_folder(files: Mapping[NetworkName | None, Checkpoint], path: Path) -> Recognised:
    """What a folder's note says, which its other files must not contradict; else what these say."""
    numbers = read_folder(path)
    if (path / NOTE).is_file():
        noted = _from_json(path / NOTE)
        _check_note(noted, numbers, path)
        return Recognised(noted, "the note in it", True)
    networks, alike = _networks(numbers, files)
    noise, size = numbers.noise, numbers.native_size
    if not alike:
        own = _own_model(path, networks, noise or Schedule(), size)
        return Recognised(own, SCHEDULER if noise else None, noise is not None)
    if noise is None:
        return _by_name(path, alike) or _by_shape(alike)
    known = _choose(alike, noise.prediction)
    return Recognised(replace(known, noise=noise, native_size=size or known.native_size), SCHEDULER, True)


def _networks(
    numbers: FolderNumbers, files: Mapping[NetworkName | None, Checkpoint]
) -> tuple[Networks, list[AnyConfig]]:
    """The networks of a folder, and the known models that have the same.

    Those that no file describes are the networks of the published model whose shapes the folder has. The text encoder's
    file does not say how many layers it had before the last were left out: that is said by the known ones.
    """
    told = numbers.image if "image" in files else numbers.text
    described = numbers.unet and numbers.vae and told
    fitting = list(MODELS.values()) if described else _fitting(files)
    made_by = told or fitting[0].conditioner
    known_ones = (known.conditioner for known in MODELS.values())
    made_by = next((known for known in known_ones if _without_rest(known) == _without_rest(made_by)), made_by)
    networks = Networks(numbers.unet or fitting[0].unet, numbers.vae or fitting[0].vae, made_by)
    return networks, [known for known in fitting if network_configs(known) == networks]


def _own_model(path: Path, networks: Networks, noise: Schedule, native_size: int | None) -> AnyConfig:
    """A model that nobody published, called like its folder."""
    granularity = networks.vae.factor * 2 ** (LEVELS - 1)
    size = native_size or granularity * 8
    name, (unet, vae, conditioner) = shown(path.resolve().name) or "model", networks
    try:
        if isinstance(conditioner, VisionConfig):
            return PaintConfig(name, unet, vae, noise, size, granularity, conditioner)
        return ModelConfig(name, unet, vae, noise, size, granularity, conditioner)
    except ValueError as error:
        raise ValueError(f"the configuration files of {shown(path)} do not belong together: {error}") from None


def _check_note(noted: AnyConfig, numbers: FolderNumbers, path: Path) -> None:
    """Raise ValueError when the folder's own note and the files beside it, which other tools read, say two things."""
    pairs: Mapping[str, tuple[Any, Any]] = {
        UNET: (noted.unet, numbers.unet),
        VAE: (noted.vae, numbers.vae),
        **({IMAGE: (noted.image, numbers.image)} if isinstance(noted, PaintConfig) else {}),
        **({TEXT: (_without_rest(noted.text), numbers.text)} if isinstance(noted, ModelConfig) else {}),
        SCHEDULER: (noted.noise, numbers.noise),
    }
    for file, (ours, theirs) in pairs.items():
        if theirs is not None and theirs != ours:
            names = [name for name, value in asdict(ours).items() if asdict(theirs)[name] != value]
            raise ValueError(
                f"{shown(path)} contradicts itself: {NOTE} and {file} say {' and '.join(names)} differently; put one "
                f"right, or delete {NOTE}"
            )


def _without_rest(conditioner: TextConfig | VisionConfig) -> TextConfig | VisionConfig:
    """The encoder as a folder holds it: one of text has no layers beyond those that run."""
    if isinstance(conditioner, TextConfig):
        return replace(conditioner, stored_layers=conditioner.layers)
    return conditioner


# A single file


def _fitting(files: Mapping[NetworkName | None, Checkpoint]) -> list[AnyConfig]:
    """The published models whose shapes a checkpoint has. Raises ValueError when there is none.

    Shapes say nothing of heads, groups and scales. That a model of Stable Diffusion's widths has its numbers is as good
    as sure; of the miniature's it is not, and whatever was made here bears a note.
    """
    checkpoint = files[None] if None in files else files["unet"]
    layout: Layout = "ldm" if None in files else "hf"
    published = {name: config for name, config in MODELS.items() if config is not MINIATURE}
    fitting = [config for config in published.values() if _looks_like(checkpoint, config, layout)]
    if layout == "hf":
        fitting = [config for config in fitting if isinstance(config, PaintConfig) == ("image" in files)]
    if not fitting:
        raise ValueError(
            f"{shown(checkpoint.path)} fits none of {', '.join(published)}: for another, pass its config (--config)"
        )
    return fitting


def _looks_like(checkpoint: Checkpoint, config: AnyConfig, layout: Layout) -> bool:
    """Compare what tells the known models apart: the U-Net's width, its context's, and what makes that of what."""
    if layout == "ldm" and (LEARNT in checkpoint) != isinstance(config, PaintConfig):
        return False
    rows = table(config, layout, "unet")
    wanted = {
        "conv_in.weight": (config.unet.channels, config.unet.in_channels, 3, 3),
        "down.0.transformers.0.blocks.0.attn2.to_k.weight": (config.unet.channels, config.unet.context_channels),
    }
    keys = {source(ours, rows).key: shape for ours, shape in wanted.items()}
    return all(key in checkpoint and tuple(checkpoint[key].shape) == shape for key, shape in keys.items())


def _by_name(path: Path, fitting: list[AnyConfig]) -> Recognised | None:
    """What the published name of a file says, or its hash where it has the size of a published one, or a hint."""
    by_file = {published.here: MODELS[name] for name, published in PUBLISHED.items()}
    if by_file.get(path.name) in fitting:
        return Recognised(by_file[path.name], "its published name", True)
    if len(fitting) == 1:
        return None
    sizes = {published.bytes for published in PUBLISHED.values()}
    digest = sha256(path) if path.is_file() and path.stat().st_size in sizes else None
    by_hash = {published.sha256: MODELS[name] for name, published in PUBLISHED.items()}
    if digest in by_hash:
        return Recognised(by_hash[digest], "its hash", True)
    words = set(re.findall(r"768|512|(?<![a-z])base(?![a-z])", path.name.lower()))
    if len(words - {"base"}) < 2 and words and words != {"768", "base"}:
        return Recognised(_choose(fitting, "v" if "768" in words else "eps"), "its name", sure=False, hint=True)
    return None


def _by_shape(fitting: list[AnyConfig]) -> Recognised:
    """The models of these shapes, where they agree on what they predict."""
    agreed = len({config.noise.prediction for config in fitting}) == 1
    return Recognised(fitting[0], "its shapes" if agreed else None, agreed)


def _choose(fitting: list[AnyConfig], prediction: Prediction) -> AnyConfig:
    return next((config for config in fitting if config.noise.prediction == prediction), None) or predicting(
        fitting[0], prediction
    )


# What both share


def _from_json(path: Path) -> AnyConfig:
    return parse_config(read_text(path), path)


def _check_size(files: Mapping[NetworkName | None, Checkpoint], config: AnyConfig, path: Path) -> None:
    """Raise ValueError, before anything is built, for a configuration of more layers than there are tensors."""
    if any(network_configs(config) == network_configs(known) for known in MODELS.values()):
        return
    unet, tensors = config.unet, sum(len(checkpoint) for checkpoint in files.values())
    transformers = len(unet.attention_levels) * (2 * unet.res_blocks + 1) + 1
    resblocks = (LEVELS + len(config.vae.multipliers)) * (2 * unet.res_blocks + 1)
    if (layers := transformers * unet.depth + resblocks + _layers(config.conditioner)) > tensors:
        raise ValueError(
            f"{shown(path)} holds {tensors} tensors, and {shown(config.name)} asks for {layers} layers: is it another "
            "model?"
        )


def _layers(conditioner: TextConfig | VisionConfig) -> int:
    rest = conditioner.mapper_blocks if isinstance(conditioner, VisionConfig) else 0
    return conditioner.layers + rest
