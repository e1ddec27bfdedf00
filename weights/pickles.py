"""Checkpoints that are pickles (.ckpt), without running what a pickle may ask to run.

A pickle is a program. torch's weights-only unpickler knows the few instructions that build tensors and plain
containers, and stops at any other; nothing here ever falls back to Python's own. Checkpoints of 2022 also name a few
classes of the trainer that wrote them, beside the weights: in their place stands one that takes anything, keeps nothing
and does nothing, so theirs is neither imported nor run.
"""

import re
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from weights.records import quoted, shown

SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGER_KEYS = ("position_ids", "num_updates")  # the keys that end like this hold no weights, and are integers
INERT = (  # what PyTorch Lightning noted of a run's state: its callbacks, and the best loss as a number of NumPy's
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.callbacks.lr_monitor.LearningRateMonitor",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


class Inert:
    """Stands for a class of which only the name is known: made of anything, it keeps none of it and does nothing."""

    def __new__(cls, *_: object) -> "Inert":
        return object.__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


def kind_of(path: Path) -> Literal["pickle", "safetensors"] | None:
    """What a file is by its first bytes, whatever it is called; None: neither."""
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:9] == b"{":  # after the length of the header, the header
        return "safetensors"
    return "pickle" if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80" else None


def check_name(path: Path) -> None:
    """Raise ValueError when a pickle is called like a safetensors file, or the other way round."""
    kind = kind_of(path)
    if kind == "pickle" and path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is a pickle by its content, whatever its name says: rename it to {path.stem}.ckpt")
    if kind == "safetensors" and path.suffix in SUFFIXES:
        raise ValueError(
            f"{path} is a safetensors file by its content, whatever its name says: rename it to {path.stem}.safetensors"
        )


def read_pickle(path: Path, nested: bool = False) -> dict[str, Tensor]:
    """The tensors of a .ckpt, memory-mapped where torch wrote it as an archive (since 1.6).

    nested: also those in dictionaries within it, "OUTER/INNER" to tensor. Raises ValueError when the file asks
    for anything but tensors, containers and what is `INERT`, is damaged, holds no tensors, or holds any that are no
    plain numbers, or not under a name.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(Inert, name) for name in INERT]):
            warnings.simplefilter("ignore")  # torch on its own readers and on tensors that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle makes the unpickler raise nearly anything
        if asked := re.search(r"nsupported (?:global: )?GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{path} asks for {shown(asked[1], 120)} on opening, and weights need no program; it was not run: "
                "take the .safetensors of the same model"
            ) from error
        raise ValueError(
            f"{path} is no checkpoint, or only part of one ({_reason(error)}): want a complete .ckpt file"
        ) from error
    named = _nested(content) if nested else _named(content)
    tensors = {key: value for key, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} is a pickle that holds no tensors by name: want a .ckpt of latent diffusion")
    for key, tensor in tensors.items():
        _check(path, key, tensor)
    return {key: tensor.detach() for key, tensor in tensors.items()}


def check_dtype(path: Path, key: str, dtype: object) -> None:
    """Raise ValueError unless weights may be of that dtype."""
    if dtype not in WEIGHT_DTYPES and not (dtype in (torch.int64, torch.int32) and key.endswith(INTEGER_KEYS)):
        raise ValueError(
            f"{path} holds {shown(key, 120)} as {str(dtype).removeprefix('torch.')}: want weights in float16, "
            "bfloat16, float32 or float64; take a copy that was not quantised"
        )


def _named(content: object) -> Iterable[tuple[Any, Any]]:
    """The entries of the state dict, which is all of the file or under its name in it.

    Asked of dict itself: a crafted OrderedDict may carry an `items` of its own.
    """
    if not isinstance(content, dict):
        return ()
    state = dict.get(content, "state_dict", content)
    return dict.items(state) if isinstance(state, dict) else ()


def _nested(content: object, depth: int = 2) -> Iterable[tuple[Any, Any]]:
    """The entries of the state dict, and those of dictionaries in it, under both names."""
    for key, value in _named(content):
        if isinstance(value, dict) and isinstance(key, str) and depth:
            for inner, one in _nested(value, depth - 1):
                yield (f"{key}/{inner}" if isinstance(inner, str) else inner), one
        else:
            yield key, value


def _check(path: Path, key: object, tensor: Tensor) -> None:
    """Raise ValueError unless this is a plain tensor, all of whose numbers the file holds, under a name."""
    if not isinstance(key, str):
        raise ValueError(f"{path} holds a tensor under {quoted(key)}, which is no name: want a .ckpt of weights")
    kinds = {
        "on no device (meta)": tensor.is_meta,
        "sparse": tensor.layout != torch.strided,
        "quantised": tensor.is_quantized,
        "nested": tensor.is_nested,
        f"a {type(tensor).__name__}": type(tensor) not in (Tensor, torch.nn.Parameter),
    }
    kind = next((kind for kind, holds in kinds.items() if holds), None)
    if kind is None and tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
        kind = "larger than the numbers there are for it"
    if kind is not None:
        raise ValueError(f"{path} holds {shown(key, 120)} as a tensor that is {kind}: want plain weights")


def _reason(error: Exception) -> str:
    """What is wrong with a file, out of torch's page on it."""
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines() or [type(error).__name__]
    return shown(lines[0].split(". ")[0].rstrip(". "), 120)
