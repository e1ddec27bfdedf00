"""Official checkpoints -> our networks: read safetensors, rename, check that every key is used once, fill the networks.

The networks are built on the meta device and given the file's own tensors, memory-mapped: nothing is drawn at random
and nothing is held twice. Where dtype or device differ, they are converted one tensor at a time, and the file is let go
of piece by piece: memory peaks at the weights in their new dtype and little more.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.config import MODELS, ModelConfig, NoiseConfig, TextConfig, UNetConfig, VAEConfig
from models.stable_diffusion import StableDiffusion
from models.text_encoder import TextEncoder
from models.tokenizer import Tokenizer
from models.unet import UNet
from models.vae import Autoencoder
from samplers.schedule import Schedule
from weights.atomic import atomic
from weights.names import PARTS, Layout, Part, Source, not_needed, source, table
from weights.published import locate

Prediction = Literal["eps", "v"]
PIECE = 2**26  # bytes of a file that stay in memory while they are converted
METADATA = "photoswap.config"  # what `save` records, so that a file of ours says what it is
HF_FILES: dict[Part, tuple[str, str]] = {
    "unet": ("unet", "diffusion_pytorch_model"),
    "vae": ("vae", "diffusion_pytorch_model"),
    "text": ("text_encoder", "model"),
}


def load(
    name_or_path: str | os.PathLike,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    config: ModelConfig | str | None = None,
) -> StableDiffusion:
    """Read a checkpoint in either published layout.

    name_or_path: miniature, sd21, sd21-base, sd15, a single .safetensors file, or a folder that holds unet/, vae/ and
    text_encoder/. config: what the checkpoint is, or a name of it; None reads it off the file. SD 2.1 and 2.1-base have
    the same shapes: they are told apart by scheduler_config.json, else by the file's name.
    Raises ValueError when there is no such file, when it is no whole checkpoint, and when a key is missing or unknown.
    """
    path = locate(name_or_path)
    files = _files(path)
    if config is None and str(name_or_path) in MODELS:
        config = str(name_or_path)
    config = _named(config) if isinstance(config, str) else config or _infer(files, path)
    model = meta_model(config)
    networks = networks_of(model)
    layout: Layout = "ldm" if None in files else "hf"
    for part, checkpoint in files.items():
        checkpoint.kept_as = (torch.device(device), dtype)
        parts = PARTS if part is None else (part,)
        renamed = _rename(checkpoint, {p: networks[p] for p in parts}, config, layout, str(checkpoint.path))
        for p in parts:
            fill(networks[p], renamed[p], device, dtype)
    return model


def rename(state: Mapping[str, Tensor], config: ModelConfig, part: Part | None = None) -> dict[Part, dict[str, Tensor]]:
    """The tensors of a checkpoint under our names, network by network, in our shapes; views wherever that is possible.

    state: a single file (part None), or one file of the folder layout (part says which).
    Raises ValueError naming up to ten keys that are missing, unknown or of another shape.
    """
    parts = PARTS if part is None else (part,)
    networks = networks_of(meta_model(config))
    return _rename(state, {p: networks[p] for p in parts}, config, "hf" if part else "ldm", "the checkpoint")


def meta_model(config: ModelConfig) -> StableDiffusion:
    """The model with shapes and no memory, and the tokenizer and schedule that belong to it."""
    noise = config.noise
    with torch.device("meta"):
        return StableDiffusion(
            unet=UNet(config.unet),
            vae=Autoencoder(config.vae),
            text_encoder=TextEncoder(config.text),
            tokenizer=Tokenizer(padding=config.text.padding, length=config.text.length),
            schedule=Schedule(noise.beta_start, noise.beta_end, noise.train_steps, noise.prediction, noise.offset),
            config=config,
        )


def networks_of(model: StableDiffusion) -> dict[Part, nn.Module]:
    """The three networks by the name of their part."""
    return {"unet": model.unet, "vae": model.vae, "text": model.text_encoder}


def fill(network: nn.Module, state: dict[str, Tensor], device: str | torch.device, dtype: torch.dtype) -> None:
    """Give a network on the meta device its parameters, converting one at a time and emptying `state` on the way."""
    converted = {key: state.pop(key).to(device, dtype) for key in list(state)}
    network.load_state_dict(converted, strict=True, assign=True)
    network.eval()


def to_ldm(model: StableDiffusion) -> dict[str, Tensor]:
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


def save(model: StableDiffusion, path: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
    """Write a model in the original single-file layout, whole or not at all; its config goes into the metadata.

    dtype: None keeps each parameter's own. Raises OSError when the file cannot be written.
    """
    state = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in to_ldm(model).items()}
    with atomic(path) as temporary:
        save_file(state, temporary, metadata={METADATA: json.dumps(asdict(model.config))})


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of a safetensors file, memory-mapped: one is read when it is asked for.

    kept_as: the device and dtype in which its tensors will stay; None: as they are. Those that will be converted are
    not needed afterwards, so for every `PIECE` bytes of them the file is mapped anew: once the tensors of a piece are
    gone its pages are too, where a single mapping would keep all pages until the last of its tensors has gone.

    Raises ValueError when the file is not a whole safetensors file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.kept_as: tuple[torch.device, torch.dtype] | None = None
        self._passing = 0  # bytes handed out of this mapping, to be converted
        if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
            raise ValueError(
                f"{path} is a pickle, which can run code when it is opened: convert it to .safetensors first"
            )
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise ValueError(
                f"{path} is no checkpoint, or only part of one ({error}): want a whole .safetensors file"
            ) from error
        self._keys = dict.fromkeys(self._file.keys())

    @property
    def metadata(self) -> dict[str, str]:
        """What the writer noted in the header."""
        return self._file.metadata() or {}

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._keys:
            raise KeyError(key)
        tensor = self._file.get_tensor(key)
        if self.kept_as not in (None, (tensor.device, tensor.dtype)):
            self._passing += tensor.nbytes
            if self._passing > PIECE:
                self._file, self._passing = safe_open(self.path, framework="pt", device="cpu"), 0
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _files(path: Path) -> dict[Part | None, Checkpoint]:
    """The open files of a checkpoint: one under None, or one for each network of a folder."""
    if path.is_file():
        return {None: Checkpoint(path)}
    found: dict[Part | None, Checkpoint] = {}
    for part, (folder, stem) in HF_FILES.items():
        spellings = [path / folder / f"{stem}{variant}.safetensors" for variant in ("", ".fp16")]
        present = next((file for file in spellings if file.is_file()), None)
        if present is None:
            raise ValueError(
                f"{path} holds no {folder}/{stem}.safetensors: want a folder of unet/, vae/, text_encoder/"
            )
        found[part] = Checkpoint(present)
    return found


def _rename(
    state: Mapping[str, Tensor], networks: Mapping[Part, nn.Module], config: ModelConfig, layout: Layout, where: str
) -> dict[Part, dict[str, Tensor]]:
    renamed: dict[Part, dict[str, Tensor]] = {part: {} for part in networks}
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


def _complain(where: str, config: ModelConfig, missing: list[str], unknown: list[str], misshapen: list[str]) -> None:
    found = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    faults = [f"{len(keys)} {fault} ({_ten(keys)})" for fault, keys in found.items() if keys]
    if faults:
        raise ValueError(f"{where} does not hold {config.name}: its keys are {'; '.join(faults)}; is it another model?")


def _ten(keys: Sequence[str]) -> str:
    return ", ".join(keys[:10]) + (f" and {len(keys) - 10} more" if len(keys) > 10 else "")


def _third(tensor: Tensor, place: Source) -> Tensor:
    if place.third is None or tensor.ndim == 0 or len(tensor) % 3:
        return tensor
    return tensor.chunk(3)[place.third]


def _fits(theirs: Sequence[int], ours: Sequence[int]) -> bool:
    """A 1x1 convolution is a Linear: the same numbers, two axes fewer."""
    return tuple(theirs) == tuple(ours) or (len(ours) == 2 and tuple(theirs) == (*ours, 1, 1))


def _is_convolution(key: str, config: ModelConfig) -> bool:
    """Whether the single-file layout stores one of our Linear weights as a 1x1 convolution."""
    module, _, kind = key.rpartition(".")
    if kind != "weight":
        return False
    projection = module.endswith((".proj_in", ".proj_out")) and module.startswith("model.")
    attention = ".attn_1." in module and not module.endswith(".norm")
    return attention or (projection and not config.unet.linear_projection)


def _named(name: str) -> ModelConfig:
    if name not in MODELS:
        raise ValueError(f"no configuration {name!r}: want one of {', '.join(MODELS)}")
    return MODELS[name]


def _infer(files: Mapping[Part | None, Checkpoint], path: Path) -> ModelConfig:
    """Tell which model a checkpoint is, from what `save` noted, else from its shapes."""
    checkpoint = files[None] if None in files else files["unet"]
    if note := checkpoint.metadata.get(METADATA):
        return _from_json(note, checkpoint.path)
    layout: Layout = "ldm" if None in files else "hf"
    fitting = [config for config in MODELS.values() if _looks_like(checkpoint, config, layout)]
    if not fitting:
        raise ValueError(f"{checkpoint.path} fits none of {', '.join(MODELS)}: for another, pass its config")
    prediction = _scheduled(path) or (_by_name(path) if len(fitting) > 1 else fitting[0].noise.prediction)
    if prediction is None:
        names = " or ".join(config.name for config in fitting)
        raise ValueError(f"{path} may be {names}, which differ in nothing but what they predict: say which (config)")
    told = [config for config in fitting if config.noise.prediction == prediction]
    return told[0] if told else replace(fitting[0], noise=replace(fitting[0].noise, prediction=prediction))


def _looks_like(checkpoint: Checkpoint, config: ModelConfig, layout: Layout) -> bool:
    """Compare the shapes that tell the known models apart: the U-Net's width and its context's."""
    rows = table(config, layout, "unet")
    wanted = {
        "conv_in.weight": (config.unet.channels, config.unet.in_channels, 3, 3),
        "down.0.transformers.0.blocks.0.attn2.to_k.weight": (config.unet.channels, config.unet.context_channels),
    }
    keys = {source(ours, rows).key: shape for ours, shape in wanted.items()}
    return all(key in checkpoint and tuple(checkpoint[key].shape) == shape for key, shape in keys.items())


def _scheduled(path: Path) -> Prediction | None:
    """What the network predicts, where a folder's scheduler_config.json says so."""
    scheduler = path / "scheduler" / "scheduler_config.json"
    if not scheduler.is_file():
        return None
    kind = json.loads(scheduler.read_text(encoding="utf-8")).get("prediction_type", "epsilon")
    return "v" if kind == "v_prediction" else "eps"


def _by_name(path: Path) -> Prediction | None:
    """What an SD 2.x network predicts, by the size in its published name."""
    if "768" in path.name:
        return "v"
    return "eps" if "512" in path.name or "base" in path.name else None


def _from_json(text: str, path: Path) -> ModelConfig:
    try:
        fields = json.loads(
            text, object_hook=lambda d: {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()}
        )
        kinds = {"unet": UNetConfig, "vae": VAEConfig, "text": TextConfig, "noise": NoiseConfig}
        return ModelConfig(**{key: kinds[key](**value) if key in kinds else value for key, value in fields.items()})
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} carries a configuration of another version ({error}): pass config") from error
