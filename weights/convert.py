"""Either published layout from either: what was trained here opens in other tools, and the other way round.

A parameter keeps its bits unless another dtype is asked for; one that a concept changed keeps the concept's, and so is
float32 in a checkpoint of float16. The folder layout has no place for what no network of ours holds (the last layer and
projection of SD 2.x's text encoder, the buffers of the schedule); from single file to single file those are carried
over too. Averages (model_ema.*) are never: they would be those of other weights.
"""

import os
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from models.config import AnyConfig
from models.stable_diffusion import LatentDiffusion, StableDiffusion
from weights.atomic import check_space
from weights.files import Checkpoint
from weights.folder import save_folder
from weights.load import load, load_as, networks_of, save
from weights.names import not_needed
from weights.published import locate
from weights.recognise import Prediction

TargetLayout = Literal["ldm", "folder"]


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    layout: TargetLayout,
    dtype: torch.dtype | None = None,
    config: AnyConfig | str | os.PathLike | None = None,
    prediction: Prediction | None = None,
    change: Callable[[StableDiffusion], StableDiffusion] | None = None,
) -> LatentDiffusion:
    """Write a checkpoint anew and return what was written.

    source, config, prediction: as for `load`. target: a .safetensors file for "ldm", a new folder for "folder". dtype:
    None keeps every parameter's own. change: what is done to the model on the way, applying a concept for instance; it
    is done in float32 at least, and what it changed is written so unless another dtype is asked for. A model that is
    changed must be one whose context is text.
    Raises ValueError when the source is refused, when target does not suit the layout or is a folder already there, and
    when there is no room; OSError when it cannot be written.
    """
    target, path = Path(target), locate(source)
    if layout == "ldm" and (target.suffix != ".safetensors" or target.is_dir()):
        raise ValueError(f"{target} is no name for a single file: want one that ends in .safetensors")
    if layout == "folder" and target.suffix:
        raise ValueError(f"{target} is no name for a folder: want one without {target.suffix}")
    read: torch.dtype | Literal["stored"] = torch.float32 if dtype == torch.float32 else "stored"
    model: LatentDiffusion
    if change is None:
        model = load_as(LatentDiffusion, source, dtype=read, config=config, prediction=prediction)
    else:
        stored = load(source, dtype=read, config=config, prediction=prediction)
        model = _changed(stored, change, lambda wide: load(source, dtype=wide, config=config, prediction=prediction))
    check_space(target.parent, size_of(model, dtype))
    if layout == "folder":
        save_folder(model, target, dtype)
    else:
        save(model, target, dtype, beyond(path, model.config, dtype) if path.is_file() else {})
    return model


def _changed(
    stored: StableDiffusion,
    change: Callable[[StableDiffusion], StableDiffusion],
    again: Callable[[torch.dtype], StableDiffusion],
) -> StableDiffusion:
    """The stored model with a change made to a copy of it that loses none of the change's bits.

    again: reads the model anew in a dtype. What the change left alone keeps its stored dtype.
    """
    kept = parameters_of(stored)
    changed = change(again(reduce(torch.promote_types, {tensor.dtype for tensor in kept.values()}, torch.float32)))
    for name, parameter in parameters_of(changed).items():
        if torch.equal(parameter, kept[name].to(parameter.dtype)):
            parameter.data = kept[name].data
    return changed


def parameters_of(model: LatentDiffusion) -> dict[str, torch.nn.Parameter]:
    """Every parameter, by network and name."""
    networks = networks_of(model).items()
    return {f"{part}.{name}": parameter for part, net in networks for name, parameter in net.named_parameters()}


def size_of(model: LatentDiffusion, dtype: torch.dtype | None) -> int:
    """Bytes of all parameters."""
    tensors = (tensor for network in networks_of(model).values() for tensor in network.state_dict().values())
    return sum(tensor.numel() * (dtype or tensor.dtype).itemsize for tensor in tensors)


def beyond(path: Path, config: AnyConfig, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """What a single file holds that no network of ours does, but for averages. The schedule keeps its dtype."""
    checkpoint = Checkpoint(path)
    kept = (key for key in checkpoint if not_needed(key, config, "ldm") and not key.startswith("model_ema."))
    return {key: _cast(key, checkpoint[key], dtype) for key in kept}


def _cast(key: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    is_weight = key.startswith("cond_stage_model.") and tensor.is_floating_point()
    return tensor.to(dtype) if is_weight and dtype else tensor
