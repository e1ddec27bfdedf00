"""The numbers of a folder: config.json of each network and scheduler_config.json, as our configuration.

A folder says with what its networks compute, and shapes tell only a part of it: the number of heads, the groups of a
norm, the activation and every number of the schedule leave no trace in them. So each file is read name by name, as
weights/folder_schema.py has them, and a folder that asks for what is not computed here is refused by that name.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from models.config import LEVELS, TextConfig, UNetConfig, VAEConfig, VisionConfig
from samplers import Schedule
from weights.folder_schema import (
    IMAGE_FIXED,
    IMAGE_IGNORED,
    INDEX_CLASSES,
    LIMITS,
    SCHEDULER_REFUSED,
    TEXT_FIXED,
    TEXT_IGNORED,
    UNET_FIXED,
    UNET_IGNORED,
    VAE_FIXED,
    VAE_IGNORED,
    ImageFile,
    SchedulerFile,
    TextFile,
    UNetFile,
    VAEFile,
)
from weights.parsing import CONFIG_LIMITS, parse, parse_json
from weights.records import quoted, shown

Json = dict[str, Any]
T = TypeVar("T")
LARGEST_FILE = 2**20  # bytes of a configuration file
SCHEDULER = "scheduler/scheduler_config.json"
UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
IMAGE = "image_encoder/config.json"
INDEX = "model_index.json"
OTHER_NOISE = ("FlowMatch", "EDM", "CM", "LCM", "TCD", "CogVideoX")  # schedulers of another process, or distilled
VOCABULARY = 49408
TOKENS = ("tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json")  # the first that names padding counts


class FolderNumbers(NamedTuple):
    """What the files of a folder say; None where a file is missing. native_size: the side of pictures, in pixels."""

    unet: UNetConfig | None
    vae: VAEConfig | None
    text: TextConfig | None
    image: VisionConfig | None
    noise: Schedule | None
    native_size: int | None


def read_folder(path: Path) -> FolderNumbers:
    """What a folder says of its networks and its noise.

    Raises ValueError, naming the file and the name in it, for what is damaged, out of range, or not computed here.
    """
    _check_index(path)
    unet, side = _read(path / UNET, _unet) or (None, None)
    vae = _read(path / VAE, _vae)
    text = _read(path / TEXT, lambda data: _text(data, path))
    image = _read(path / IMAGE, _image)
    return FolderNumbers(
        unet, vae, text, image, _read(path / SCHEDULER, _noise), _native_size(side, vae or VAEConfig())
    )


def read_text(path: Path) -> str:
    """The text of a small file. Raises ValueError for a large one, and one that is no text."""
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{shown(path)} has {path.stat().st_size} bytes: want a small JSON file of names and values")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(path)} is damaged ({error}): put it right, or delete it") from None


def read_json(path: Path) -> Json:
    """The names and values of a small file. Raises ValueError when it holds none."""
    text = read_text(path)
    try:
        data = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{shown(path)} is damaged ({error}): put it right, or delete it") from None
    if not isinstance(data, dict):
        raise ValueError(f"{shown(path)} is damaged (it holds {quoted(data)}): want names and values")
    return data


def _read(file: Path, read: Callable[[Json], T]) -> T | None:
    """What one file says; None where there is none."""
    if not file.is_file():
        return None
    data = read_json(file)
    try:
        return read(data)
    except ValueError as error:
        raise ValueError(f"{shown(file)} cannot be followed: {error}; pass a config to overrule it") from None


def _unet(data: Json) -> tuple[UNetConfig, int | None]:
    """The network, and the side of the latents it was trained on."""
    _refuse(data, UNetFile, UNET_FIXED, UNET_IGNORED)
    file = parse(UNetFile, _named(UNetFile, data), LIMITS)
    numbers = {
        "in_channels": file.in_channels,
        "out_channels": file.out_channels,
        **_widths(file.block_out_channels),
        "res_blocks": _one(file, "layers_per_block"),
        "attention_levels": _attended(file),
        **_heads(file),
        "context_channels": _one(file, "cross_attention_dim"),
        "groups": file.norm_num_groups,
        "depth": _one(file, "transformer_layers_per_block"),
        "linear_projection": file.use_linear_projection,
    }
    side = max(file.sample_size, default=None) if isinstance(file.sample_size, tuple) else file.sample_size
    return parse(UNetConfig, numbers, CONFIG_LIMITS), side


def _vae(data: Json) -> VAEConfig:
    _refuse(data, VAEFile, VAE_FIXED, VAE_IGNORED)
    file = parse(VAEFile, _named(VAEFile, data), LIMITS)
    levels = len(file.block_out_channels)
    for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if getattr(file, name) != (kind,) * levels:
            raise ValueError(f"{name} is {quoted(getattr(file, name))}; only {levels} times {kind} is computed here")
    return parse(
        VAEConfig,
        {
            **_widths(file.block_out_channels),
            "res_blocks": file.layers_per_block,
            "latent_channels": file.latent_channels,
            "groups": file.norm_num_groups,
            "scale_factor": file.scaling_factor,
        },
        CONFIG_LIMITS,
    )


def _text(data: Json, folder: Path) -> TextConfig:
    _refuse(data, TextFile, TEXT_FIXED, TEXT_IGNORED)
    file = parse(TextFile, _named(TextFile, data), LIMITS)
    ratio, rest = divmod(file.intermediate_size, file.hidden_size)
    if rest:
        raise ValueError(f"intermediate_size is {file.intermediate_size}; want a multiple of {file.hidden_size}")
    return parse(
        TextConfig,
        {
            "vocabulary": file.vocab_size,
            "width": file.hidden_size,
            "heads": file.num_attention_heads,
            "layers": file.num_hidden_layers,
            "stored_layers": file.num_hidden_layers,
            "length": file.max_position_embeddings,
            "mlp_ratio": ratio,
            "activation": file.hidden_act,
            "padding": _padding(folder) or ("eot" if file.hidden_act == "quick_gelu" else "zero"),
        },
        CONFIG_LIMITS,
    )


def _image(data: Json) -> VisionConfig:
    _refuse(data, ImageFile, IMAGE_FIXED, IMAGE_IGNORED)
    file = parse(ImageFile, _named(ImageFile, data), LIMITS)
    ratio, rest = divmod(file.intermediate_size, file.hidden_size)
    if rest:
        raise ValueError(f"intermediate_size is {file.intermediate_size}; want a multiple of {file.hidden_size}")
    return parse(
        VisionConfig,
        {
            "width": file.hidden_size,
            "heads": file.num_attention_heads,
            "layers": file.num_hidden_layers,
            "size": file.image_size,
            "patch": file.patch_size,
            "mlp_ratio": ratio,
            "activation": file.hidden_act,
            "mapper_blocks": mapper_blocks(file.num_hidden_layers),
            "context_channels": file.projection_dim,
        },
        CONFIG_LIMITS,
    )


def mapper_blocks(layers: int) -> int:
    """How many blocks the mapper behind a tower of so many layers has; a folder does not say it."""
    return (layers + 1) // 5


def _noise(data: Json) -> Schedule:
    kind = data.get("_class_name")
    if kind is not None and (not isinstance(kind, str) or kind.startswith(OTHER_NOISE)):
        raise ValueError(f"_class_name is {quoted(kind)}; only the noise of DDPM is computed here")
    for name, wanted in SCHEDULER_REFUSED.items():
        if name in data:
            _want(name, data[name], wanted)
    file = parse(SchedulerFile, _named(SchedulerFile, data), LIMITS)
    return Schedule(
        beta_start=file.beta_start,
        beta_end=file.beta_end,
        train_steps=file.num_train_timesteps,
        prediction="v" if file.prediction_type == "v_prediction" else "eps",
        offset=file.steps_offset,
        beta_schedule=file.beta_schedule,
        spacing=file.timestep_spacing,
        rescale_zero_snr=file.rescale_betas_zero_snr,
        set_alpha_to_one=file.set_alpha_to_one,
    )


def _named(kind: type, data: Json) -> Json:
    """The entries that a dataclass has a field for."""
    return {field.name: data[field.name] for field in fields(kind) if field.name in data}


def _refuse(data: Json, kind: type, fixed: Mapping[str, tuple[Any, ...]], ignored: tuple[str, ...]) -> None:
    """Raise ValueError for the first name that asks for what is not computed here."""
    for name, value in data.items():
        if name in fixed:
            _want(name, value, fixed[name])
        elif name not in _named(kind, data) and name not in ignored and not name.startswith("_"):
            _want(name, value, (None, False))


def _want(name: str, value: Any, wanted: tuple[Any, ...]) -> None:
    if not any(value == one for one in wanted):
        raise ValueError(
            f"{shown(name, 60)} is {quoted(value)}; only {' or '.join(map(repr, wanted))} is computed here"
        )


def _heads(file: UNetFile) -> Json:
    """How attention is cut up: whatever it is called, one number is that of the heads, and so is each of several."""
    if isinstance(file.attention_head_dim, tuple):
        counts = _each(file, "attention_head_dim")
        widths = {divmod(width, count) for width, count in zip(file.block_out_channels, counts, strict=True)}
        if len(widths) == 1 and (head := widths.pop())[1] == 0:
            return {"head_channels": head[0], "heads": None}
    return {"head_channels": None, "heads": _one(file, "attention_head_dim")}


def _each(file: UNetFile, name: str) -> tuple[int, ...]:
    """A number for each level."""
    values = getattr(file, name)
    if isinstance(values, tuple) and len(values) != len(file.block_out_channels):
        raise ValueError(f"{name} is {quoted(values)}; want one for each of {len(file.block_out_channels)} levels")
    return values if isinstance(values, tuple) else (values,) * len(file.block_out_channels)


def _one(file: UNetFile, name: str) -> int:
    """The number that holds at every level."""
    if len(set(_each(file, name))) != 1:
        raise ValueError(f"{name} is {quoted(getattr(file, name))}; only the same at every level is computed here")
    return _each(file, name)[0]


def _widths(widths: tuple[int, ...]) -> Json:
    if not widths or any(width % widths[0] for width in widths):
        raise ValueError(f"block_out_channels is {quoted(widths)}; want multiples of the first")
    return {"channels": widths[0], "multipliers": [width // widths[0] for width in widths]}


def _attended(file: UNetFile) -> list[int]:
    """The levels with attention, which must be the same on the way down and up."""
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False, "CrossAttnUpBlock2D": True, "UpBlock2D": False}
    down, up = ([kinds.get(kind) for kind in side] for side in (file.down_block_types, file.up_block_types))
    if None in down or down != up[::-1] or len(down) != len(file.block_out_channels):
        raise ValueError(
            f"down_block_types is {quoted(file.down_block_types, 150)} and up_block_types "
            f"{quoted(file.up_block_types, 150)}; only {len(file.block_out_channels)} levels with or without cross-"
            "attention, the same down and up, are computed here"
        )
    return [level for level, attended in enumerate(down) if attended]


def _padding(folder: Path) -> Literal["zero", "eot"] | None:
    """What the tokenizer fills prompts up with. Raises ValueError for anything else, and for words of its own."""
    own = _read_if_there(folder / "tokenizer" / "added_tokens.json")
    if words := [word for word, token in own.items() if not isinstance(token, int) or token >= VOCABULARY]:
        raise ValueError(f"the tokenizer beside it has a word of its own, {quoted(words[0])}, and ours has not")
    for name in TOKENS:
        token = _read_if_there(folder / name).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            if token not in ("!", "<|endoftext|>"):
                raise ValueError(f"pad_token of {name} is {quoted(token)}; want '!' or '<|endoftext|>'")
            return "zero" if token == "!" else "eot"
    return None


def _read_if_there(path: Path) -> Json:
    return read_json(path) if path.is_file() else {}


def _native_size(side: int | None, vae: VAEConfig) -> int | None:
    """The side of pictures in pixels for one of latents, to the nearest size that the levels divide."""
    unit = vae.factor * 2 ** (LEVELS - 1)
    return None if side is None else max(1, round(side * vae.factor / unit)) * unit


def _check_index(path: Path) -> None:
    """Raise ValueError when model_index.json names other networks than these."""
    if not (path / INDEX).is_file():
        return
    for name, value in read_json(path / INDEX).items():
        kind = value[1] if isinstance(value, list) and len(value) == 2 else None
        wanted = INDEX_CLASSES.get(name)
        if kind is not None and wanted is not None and kind not in wanted:
            raise ValueError(f"{shown(path / INDEX)} has {name} {quoted(kind)}; want {' or '.join(wanted) or 'none'}")
