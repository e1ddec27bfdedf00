"""Official checkpoints -> our networks: read the files, rename, check that every key is used once, fill the networks.

The networks are built on the meta device and given the file's own tensors, memory-mapped: nothing is drawn at random
and nothing is held twice. Where dtype or device differ, they are converted one tensor at a time, and the file is
released piece by piece: memory peaks at the weights in their new dtype and little more.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from types import MappingProxyType
from typing import Literal, TypeVar, overload

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.config import AnyConfig, ModelConfig, PaintConfig
from models.fast import fastest_dtype
from models.identity import Identity, Mark
from models.paint_by_example import PaintByExample
from models.stable_diffusion import LatentDiffusion, StableDiffusion
from models.text_encoder import TextEncoder
from models.tokenizer import Tokenizer
from models.unet import UNet
from models.vae import Autoencoder
from models.vision import ImageEncoder
from weights.atomic import atomic
from weights.checksum import digest, scan
from weights.files import Checkpoint, open_files
from weights.names import Layout, NetworkName, Source, not_needed, source, table
from weights.probe import settle
from weights.published import locate
from weights.recognise import CONFIG_KEY, Prediction, recognise
from weights.records import shown

Model = TypeVar("Model", bound=LatentDiffusion)


def load(
    name_or_path: str | os.PathLike,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | Literal["stored"] | None = torch.float32,
    config: AnyConfig | str | os.PathLike | None = None,
    prediction: Prediction | None = None,
) -> StableDiffusion:
    """Read a checkpoint of a model whose context is text, in either published layout.

    name_or_path: miniature, a published name such as sd21, a single .safetensors or .ckpt file, or a folder that holds
    unet/, vae/ and text_encoder/. dtype: None takes the checkpoint's, for all networks the widest of them; "stored"
    keeps each tensor's own, for writing it again: networks of several dtypes do not run. config: what the checkpoint
    is, a name of it, or a JSON file of one; None reads it off the checkpoint. prediction: what it predicts; None goes
    by weights/recognise.py, and where nobody is sure by a probe of the network, with a warning.
    Raises ValueError when there is no such file, when it is no complete checkpoint or one of another kind, when a key
    is missing, unknown or of another shape, and when a weight is NaN or infinite, or would be in this dtype.
    """
    return load_as(StableDiffusion, name_or_path, device, dtype, config, prediction)


def load_as(
    kind: type[Model],
    name_or_path: str | os.PathLike,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | Literal["stored", "fastest"] | None = torch.float32,
    config: AnyConfig | str | os.PathLike | None = None,
    prediction: Prediction | None = None,
) -> Model:
    """Read a checkpoint of this kind of model, PaintByExample for instance; LatentDiffusion takes any.

    dtype: "fastest" is what the device computes a model of this width in fastest (models/fast.py). The others as for
    `load`; a folder holds image_encoder/ where the context is a picture.
    """
    path = locate(name_or_path)
    files = open_files(path)
    told = recognise(files, path, str(name_or_path), config, prediction)
    model = meta_model(told.config)
    if not isinstance(model, kind):
        raise ValueError(_of_another_kind(told.config, str(name_or_path)))
    if dtype == "fastest":
        dtype = fastest_dtype(torch.device(device), told.config.unet.channels)
    networks = networks_of(model)
    digests: dict[str, str] = {}
    layout: Layout = "ldm" if None in files else "hf"
    kept = _widest(files, told.config, layout) if dtype is None else None if dtype == "stored" else dtype
    for part, checkpoint in files.items():
        checkpoint.kept_as = (torch.device(device), kept)
        parts = tuple(networks) if part is None else (part,)
        renamed = _rename(checkpoint, {p: networks[p] for p in parts}, told.config, layout, str(checkpoint.path))
        for p in parts:
            digests[p] = assign(networks[p], renamed[p], device, kept, f"the {p} of {checkpoint.path}")
    model.identity = Identity(digests, (), {str(name): Mark.of(network) for name, network in networks.items()})
    return settle(model, told, str(name_or_path))


def _widest(files: Mapping[NetworkName | None, Checkpoint], config: AnyConfig, layout: Layout) -> torch.dtype:
    """The narrowest dtype that holds every needed tensor of a checkpoint exactly."""
    needed = (
        checkpoint[key]
        for part, checkpoint in files.items()
        for key in checkpoint
        if not not_needed(key, config, layout, part)
    )
    found = {tensor.dtype for tensor in needed if tensor.is_floating_point()}
    return reduce(torch.promote_types, found) if found else torch.float32


def rename(
    state: Mapping[str, Tensor], config: AnyConfig, part: NetworkName | None = None
) -> dict[NetworkName, dict[str, Tensor]]:
    """The tensors of a checkpoint under our names, network by network, in our shapes; views wherever that is possible.

    state: a single file (part None), or one file of the folder layout (part says which).
    Raises ValueError naming up to five keys each that are missing, unknown or of another shape.
    """
    networks = networks_of(meta_model(config))
    parts = tuple(networks) if part is None else (part,)
    return _rename(state, {p: networks[p] for p in parts}, config, "hf" if part else "ldm", "the checkpoint")


def _of_another_kind(config: AnyConfig, where: str) -> str:
    if isinstance(config, PaintConfig):
        return f"{where} is {config.name}, whose context is a picture: where text is wanted, take one of its own kind"
    return f"{where} is {config.name}, whose context is text: to paint by example take paint-by-example"


@overload
def meta_model(config: ModelConfig) -> StableDiffusion: ...
@overload
def meta_model(config: PaintConfig) -> PaintByExample: ...
def meta_model(config: AnyConfig) -> StableDiffusion | PaintByExample:
    """The model with shapes and no memory, and the tokenizer that belongs to it, if any."""
    with torch.device("meta"):
        unet, vae = UNet(config.unet), Autoencoder(config.vae)
        if isinstance(config, PaintConfig):
            return PaintByExample(unet, vae, ImageEncoder(config.image), config=config)
        tokenizer = Tokenizer(padding=config.text.padding, length=config.text.length)
        return StableDiffusion(unet, vae, TextEncoder(config.text), tokenizer, config=config)


def networks_of(model: LatentDiffusion) -> dict[NetworkName, nn.Module]:
    """The networks of a model by name."""
    return model.networks


def assign(
    network: nn.Module,
    state: dict[str, Tensor],
    device: str | torch.device,
    dtype: torch.dtype | None,
    where: str = "the checkpoint",
) -> str:
    """Give a network on the meta device its parameters, converting one at a time and emptying `state` on the way.

    Returns the digest of what was stored. Every number is looked at once, before it is converted: for the digest, and
    for NaN and infinity, some 1 GB of float32 a second on one core. Raises ValueError when a number is NaN or
    infinite, or would be in this dtype.
    """
    words: dict[str, str] = {}
    converted: dict[str, Tensor] = {}
    for key in list(state):
        tensor = state.pop(key)
        found = scan(tensor)
        words[key] = found.words
        if not found.is_finite(dtype or tensor.dtype):
            large = " or numbers too large for float16" if dtype == torch.float16 else ""
            raise ValueError(f"{where} holds NaN, infinity{large} in {key}: `photoswap weights verify` says more")
        converted[key] = tensor.to(device, dtype)
    network.load_state_dict(converted, strict=True, assign=True)
    network.eval()
    return digest(words)


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite: both survive in the extremes, found in one pass and without a copy."""
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    low, high = (tensor if tensor.dtype.itemsize > 1 else tensor.to(torch.float16)).aminmax()
    return bool(low.isfinite() & high.isfinite())


def to_ldm(model: LatentDiffusion) -> dict[str, Tensor]:
    """Every parameter under its name and shape in the original single-file layout: the inverse of `rename`.

    What no network of ours holds is not written: schedule buffers, the last text layer of SD 2.x, its projection.
    """
    whole: dict[str, Tensor] = {}
    thirds: dict[str, list[Tensor]] = {}
    for part, network in networks_of(model).items():
        rows = table(model.config, "ldm", part)
        for ours, tensor in network.state_dict().items():
            place = source(ours, rows)
            if place.third is None:
                whole[place.key] = tensor[..., None, None] if _is_convolution(place.key, model.config) else tensor
            else:
                thirds.setdefault(place.key, [tensor] * 3)[place.third] = tensor
    return whole | {key: torch.cat(parts) for key, parts in thirds.items()}


def save(
    model: LatentDiffusion,
    path: str | os.PathLike,
    dtype: torch.dtype | None = None,
    beside: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write a model in the original single-file layout, complete or not at all; its config goes into the metadata.

    dtype: None keeps each parameter's own. beside: more tensors for the file, written as they are. Raises OSError when
    the file cannot be written.
    """
    state = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in to_ldm(model).items()}
    state |= {key: tensor.contiguous() for key, tensor in beside.items()}
    with atomic(path) as temporary:
        save_file(state, temporary, metadata={CONFIG_KEY: json.dumps(asdict(model.config))})


def _rename(
    state: Mapping[str, Tensor],
    networks: Mapping[NetworkName, nn.Module],
    config: AnyConfig,
    layout: Layout,
    where: str,
) -> dict[NetworkName, dict[str, Tensor]]:
    renamed: dict[NetworkName, dict[str, Tensor]] = {part: {} for part in networks}
    missing: dict[str, None] = {}
    unused = dict.fromkeys(state)
    misshapen: list[str] = []
    for part, network in networks.items():
        rows = table(config, layout, part, state)
        for ours, parameter in network.state_dict().items():
            place = source(ours, rows)
            if place.key not in state:
                missing[place.key] = None
                continue
            unused.pop(place.key, None)
            tensor = _third(state[place.key], place)
            if _fits(tensor.shape, parameter.shape):
                renamed[part][ours] = tensor.reshape(parameter.shape)
            else:
                misshapen.append(f"{place.key} is {tuple(tensor.shape)}, wanted {tuple(parameter.shape)}")
    file_part = next(iter(networks)) if layout == "hf" else None
    unknown = [key for key in unused if not not_needed(key, config, layout, file_part)]
    _complain(where, config, list(missing), unknown, misshapen)
    return renamed


def _complain(where: str, config: AnyConfig, missing: list[str], unknown: list[str], misshapen: list[str]) -> None:
    found = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    faults = [f"{len(keys)} {fault} ({_some(keys)})" for fault, keys in found.items() if keys]
    if faults:
        raise ValueError(f"{where} does not hold {config.name}: its keys are {'; '.join(faults)}; is it another model?")


def _some(keys: Sequence[str]) -> str:
    return ", ".join(shown(key, 100) for key in keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def _third(tensor: Tensor, place: Source) -> Tensor:
    if place.third is None or tensor.ndim == 0 or len(tensor) % 3:
        return tensor
    return tensor.chunk(3)[place.third]


def _fits(theirs: Sequence[int], ours: Sequence[int]) -> bool:
    """A 1x1 convolution is a Linear: the same numbers, two axes fewer."""
    return tuple(theirs) == tuple(ours) or (len(ours) == 2 and tuple(theirs) == (*ours, 1, 1))


def _is_convolution(key: str, config: AnyConfig) -> bool:
    """Whether the single-file layout stores one of our Linear weights as a 1x1 convolution."""
    module, _, kind = key.rpartition(".")
    if kind != "weight":
        return False
    projection = module.endswith((".proj_in", ".proj_out")) and module.startswith("model.")
    attention = ".attn_1." in module and not module.endswith(".norm")
    return attention or (projection and not config.unet.linear_projection)
