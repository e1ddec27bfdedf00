"""Checkpoints that are pickles (.ckpt), without running what a pickle may ask to run.

A pickle is a program. torch's weights-only unpickler knows the few instructions that build tensors and plain
containers, and stops at any other; nothing here ever falls back to Python's own.
"""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")


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


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a .ckpt, memory-mapped where torch wrote it as an archive (since 1.6).

    Raises ValueError when the file asks for anything but tensors and containers, is damaged, or holds no tensors.
    """
    try:
        with warnings.catch_warnings():
            # of a new protocol: what torch cannot read of it, it refuses
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle makes the unpickler raise nearly anything
        if asked := re.search(r"nsupported (?:global: )?GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{path} asks for {asked[1]} on opening, and weights need no program; it was not run: "
                "take the .safetensors of the same model"
            ) from error
        raise ValueError(
            f"{path} is no checkpoint, or only part of one ({_reason(error)}): want a whole .ckpt file"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    named = state.items() if isinstance(state, dict) else ()
    tensors = {key: value for key, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} is a pickle that holds no tensors by name: want a .ckpt of latent diffusion")
    return tensors


def _reason(error: Exception) -> str:
    """What is wrong with a file, out of torch's page on it."""
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(". ")
