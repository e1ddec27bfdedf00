"""Which model a checkpoint is, and what it predicts, and who says so.

What it is, `save` has noted; else its shapes tell. What it predicts is said by, in this order: the caller; the note;
scheduler_config.json; the published name or hash of the file; 768, 512 or base in its name; its shapes, where all
models of those shapes predict the same. Otherwise nobody does, and weights/probe.py asks the network.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from models.config import MODELS, ModelConfig, TextConfig, UNetConfig, VAEConfig
from samplers import Schedule
from weights.files import Checkpoint
from weights.names import Layout, Part, source, table
from weights.published import PUBLISHED, sha256

Prediction = Literal["eps", "v"]
METADATA = "photoswap.config"  # what `save` records, so that a file of ours says what it is
NOTE = "photoswap.json"  # the same, in a folder


class Recognised(NamedTuple):
    """What a checkpoint is. by: who says what it predicts; None: nobody. sure: neither nobody nor the caller does."""

    config: ModelConfig
    by: str | None
    sure: bool


def recognise(
    files: Mapping[Part | None, Checkpoint],
    path: Path,
    name: str,
    config: ModelConfig | str | None = None,
    prediction: Prediction | None = None,
) -> Recognised:
    """Tell what the open files of a checkpoint are.

    name: by which it was asked for. config, prediction: what the caller says of it; a name of a configuration and a
    prediction are claims that a probe may check, a whole configuration is what the caller wants.
    Raises ValueError when the shapes fit no known model and nobody says what it is.
    """
    told = _told(files, path, name, config)
    if prediction is None or (told.sure and told.config.noise.prediction == prediction):
        return told
    if prediction not in ("eps", "v"):
        raise ValueError(f"prediction is {prediction!r}: want 'eps' or 'v'")
    return Recognised(predicting(told.config, prediction), f"the prediction asked for ({prediction})", False)


def predicting(config: ModelConfig, prediction: Prediction) -> ModelConfig:
    """The known model of the same networks that predicts this, else the same model said to."""
    if config.noise.prediction == prediction:
        return config
    networks = (config.unet, config.vae, config.text)
    alike = (known for known in MODELS.values() if (known.unet, known.vae, known.text) == networks)
    known = next((known for known in alike if known.noise.prediction == prediction), None)
    return known or replace(config, noise=replace(config.noise, prediction=prediction))


def named(name: str) -> ModelConfig:
    """The known model of that name. Raises ValueError when there is none."""
    if name not in MODELS:
        raise ValueError(f"no configuration {name!r}: want one of {', '.join(MODELS)}")
    return MODELS[name]


def _told(
    files: Mapping[Part | None, Checkpoint], path: Path, name: str, config: ModelConfig | str | None
) -> Recognised:
    if isinstance(config, str):
        return Recognised(named(config), f"the configuration asked for ({config})", False)
    if config is not None:
        return Recognised(config, "the configuration given", True)
    if name in MODELS:
        return Recognised(MODELS[name], f"its name ({name})", True)
    if note := _note(files, path):
        return Recognised(_from_json(note, path), "the note in it", True)
    fitting = _fitting(files)
    return _scheduled(path, fitting) or _by_name(path, fitting) or _by_shape(fitting)


def _note(files: Mapping[Part | None, Checkpoint], path: Path) -> str | None:
    """The configuration that `save` noted, in a file or in a folder."""
    if None in files:
        return files[None].metadata.get(METADATA)
    return (path / NOTE).read_text(encoding="utf-8") if (path / NOTE).is_file() else None


def _fitting(files: Mapping[Part | None, Checkpoint]) -> list[ModelConfig]:
    """The known models whose shapes a checkpoint has. Raises ValueError when there is none."""
    checkpoint = files[None] if None in files else files["unet"]
    layout: Layout = "ldm" if None in files else "hf"
    fitting = [config for config in MODELS.values() if _looks_like(checkpoint, config, layout)]
    if not fitting:
        raise ValueError(f"{checkpoint.path} fits none of {', '.join(MODELS)}: for another, pass its config")
    return fitting


def _looks_like(checkpoint: Checkpoint, config: ModelConfig, layout: Layout) -> bool:
    """Compare the shapes that tell the known models apart: the U-Net's width and its context's."""
    rows = table(config, layout, "unet")
    wanted = {
        "conv_in.weight": (config.unet.channels, config.unet.in_channels, 3, 3),
        "down.0.transformers.0.blocks.0.attn2.to_k.weight": (config.unet.channels, config.unet.context_channels),
    }
    keys = {source(ours, rows).key: shape for ours, shape in wanted.items()}
    return all(key in checkpoint and tuple(checkpoint[key].shape) == shape for key, shape in keys.items())


def _scheduled(path: Path, fitting: list[ModelConfig]) -> Recognised | None:
    """What a folder's scheduler_config.json says."""
    scheduler = path / "scheduler" / "scheduler_config.json"
    if not scheduler.is_file():
        return None
    try:
        kind = json.loads(scheduler.read_text(encoding="utf-8")).get("prediction_type", "epsilon")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{scheduler} is damaged ({error}): put it right, or delete it") from error
    kinds: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v"}
    if kind not in kinds:
        raise ValueError(f"{scheduler} has prediction_type {kind!r}: want epsilon or v_prediction")
    return Recognised(_choose(fitting, kinds[kind]), scheduler.name, True)


def _by_name(path: Path, fitting: list[ModelConfig]) -> Recognised | None:
    """What the name of a file says, or its hash where it has the size of a published one."""
    by_file = {published.file: MODELS[name] for name, published in PUBLISHED.items()}
    if by_file.get(path.name) in fitting:
        return Recognised(by_file[path.name], "its published name", True)
    if len(fitting) == 1:
        return None
    words = set(re.findall(r"768|512|(?<![a-z])base(?![a-z])", path.name.lower()))
    if len(words - {"base"}) < 2 and words and words != {"768", "base"}:
        return Recognised(_choose(fitting, "v" if "768" in words else "eps"), "its name", True)
    sizes = {published.bytes for published in PUBLISHED.values()}
    digest = sha256(path) if path.is_file() and path.stat().st_size in sizes else None
    by_hash = {published.sha256: MODELS[name] for name, published in PUBLISHED.items()}
    return Recognised(by_hash[digest], "its hash", True) if digest in by_hash else None


def _by_shape(fitting: list[ModelConfig]) -> Recognised:
    """The models of these shapes, where they agree on what they predict."""
    agreed = len({config.noise.prediction for config in fitting}) == 1
    return Recognised(fitting[0], "its shapes" if agreed else None, agreed)


def _choose(fitting: list[ModelConfig], prediction: Prediction) -> ModelConfig:
    return next((config for config in fitting if config.noise.prediction == prediction), None) or predicting(
        fitting[0], prediction
    )


def _from_json(text: str, path: Path) -> ModelConfig:
    try:
        fields = json.loads(
            text, object_hook=lambda d: {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()}
        )
        kinds = {"unet": UNetConfig, "vae": VAEConfig, "text": TextConfig, "noise": Schedule}
        return ModelConfig(**{key: kinds[key](**value) if key in kinds else value for key, value in fields.items()})
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} carries a configuration of another version ({error}): pass config") from error
