"""The files of a checkpoint, open: one, or one for each network of a folder.

Everything else reads them as mappings from official key to tensor, whatever they are.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from weights.names import NetworkName
from weights.pickles import SUFFIXES, check_dtype, check_name, read_pickle
from weights.published import check_no_training_state
from weights.records import shown

PIECE = 2**26  # bytes of a file that stay in memory while they are converted
HF_FILES: dict[NetworkName, tuple[str, str]] = {  # as they are written; SPELLINGS has what is read
    "unet": ("unet", "diffusion_pytorch_model"),
    "vae": ("vae", "diffusion_pytorch_model"),
    "text": ("text_encoder", "model"),
    "image": ("image_encoder", "model"),  # instead of text, where the context is a picture
}
SPELLINGS = ("{}.safetensors", "{}.fp16.safetensors", "{}.bin", "{}.fp16.bin")


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of one file, memory-mapped: one is read when it is asked for.

    kept_as: the device and dtype (None: its own) in which its tensors will stay; None: as they are. Those that will be
    converted are not needed afterwards, so for every `PIECE` bytes of them a safetensors file is mapped anew: once the
    tensors of a piece are gone its pages are too, where a single mapping would keep all pages until the last of its
    tensors has gone.

    Raises ValueError when the file is no complete safetensors file or .ckpt, or is called like the other kind.
    """

    def __init__(self, path: Path):
        self.path = path
        self.kept_as: tuple[torch.device, torch.dtype | None] | None = None
        self._passing = 0  # bytes handed out of this mapping, to be converted
        check_name(path)
        self._file: Any = _Pickle(path) if path.suffix in SUFFIXES else _open(path)
        self._keys = dict.fromkeys(self._file.keys())

    @property
    def metadata(self) -> dict[str, str]:
        """What the writer noted in the header."""
        return self._file.metadata() or {}

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._keys:
            raise KeyError(key)
        tensor = self._read(key)
        check_dtype(self.path, key, tensor.dtype)
        if not self._stays(tensor):
            self._passing += tensor.nbytes
            if self._passing > PIECE and self.path.suffix not in SUFFIXES:
                self._file, self._passing = _open(self.path), 0
        return tensor

    def _read(self, key: str) -> Tensor:
        try:
            return self._file.get_tensor(key)
        except (SafetensorError, AttributeError, TypeError) as error:  # of a dtype newer than this torch
            raise ValueError(f"{self.path} holds {shown(key, 120)}, which cannot be read ({shown(error)})") from error

    def _stays(self, tensor: Tensor) -> bool:
        if self.kept_as is None:
            return True
        device, dtype = self.kept_as
        return tensor.device == device and dtype in (None, tensor.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class _Pickle:
    """A .ckpt with the methods of an open safetensors file. torch maps it once, and for as long as a tensor lives."""

    def __init__(self, path: Path):
        self._tensors = read_pickle(path)
        self.keys, self.get_tensor = self._tensors.keys, self._tensors.__getitem__

    def metadata(self) -> None:
        """A pickle notes nothing."""


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no checkpoint, or only part of one ({error}): want a complete .safetensors file"
        ) from error


def open_files(path: Path) -> dict[NetworkName | None, Checkpoint]:
    """The open files of a checkpoint: one under None, or one for each network of a folder.

    Raises ValueError when the folder lacks one, or has it in several pieces, and for a file that is a trainer's state.
    """
    if path.is_file():
        check_no_training_state(path)
        return {None: Checkpoint(path)}
    by_picture = (path / HF_FILES["image"][0]).is_dir() and not (path / HF_FILES["text"][0]).is_dir()
    without = "text" if by_picture else "image"
    return {part: Checkpoint(_present(path, *HF_FILES[part])) for part in HF_FILES if part != without}


def _present(path: Path, folder: str, stem: str) -> Path:
    """The file of one network, under the first of its spellings."""
    stems = (stem, "pytorch_model") if stem == "model" else (stem,)  # an encoder's .bin is called otherwise
    spelt = [path / folder / spelling.format(stem) for stem in stems for spelling in SPELLINGS]
    for file in spelt:
        if file.is_file():
            return file
    if pieces := [file for file in spelt if file.with_name(f"{file.name}.index.json").is_file()]:
        raise ValueError(f"{path} has {folder}/{pieces[0].name} in several pieces: want it in one")
    raise ValueError(
        f"{path} holds no {folder}/{stem}.safetensors or .bin: want a folder of unet/, vae/, text_encoder/"
    )
