"""Is a checkpoint complete, undamaged, and the one it is called?"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from models.config import AnyConfig
from models.stable_diffusion import LatentDiffusion
from weights.fetch import check_published
from weights.files import Checkpoint, open_files
from weights.load import is_finite, load_as
from weights.probe import noise_response, settle
from weights.published import PUBLISHED, locate, sha256
from weights.recognise import Prediction, recognise
from weights.records import shown


@dataclass(frozen=True)
class File:
    """One file: its size and hash, the tensors in it, and the name under which it was published, if it was."""

    path: Path
    bytes: int
    sha256: str
    tensors: int
    dtypes: tuple[torch.dtype, ...]
    published: str | None


@dataclass(frozen=True)
class Report:
    """A sound checkpoint. by: who says what it predicts; None: a probe of the network. noise_response: its finding."""

    files: tuple[File, ...]
    layout: str
    config: AnyConfig
    by: str | None
    noise_response: float


def verify(
    name_or_path: str | os.PathLike,
    config: AnyConfig | str | os.PathLike | None = None,
    prediction: Prediction | None = None,
    progress: bool = False,
) -> Report:
    """Read every byte of a checkpoint and report what it is.

    Asked by a published name, or for a file that bears one, it must be that file, byte for byte. Then everything that
    `load` asks for, and no tensor may hold NaN or infinity, one that is not needed neither. The network is always asked
    what it predicts: warns when that is not what is said. Raises ValueError with the first fault.
    """
    path = locate(name_or_path)
    names = {published.here: name for name, published in PUBLISHED.items()}
    if path.is_file() and path.name in names:
        check_published(path, PUBLISHED[names[path.name]], progress)
    opened = open_files(path)
    for checkpoint in opened.values():
        check_finite(checkpoint)
    told = recognise(opened, path, str(name_or_path), config, prediction)
    model = load_as(LatentDiffusion, name_or_path, config=config, prediction=prediction)
    if told.sure:
        settle(model, told._replace(sure=False), str(path))
    by = told.by if model.config.noise == told.config.noise else None  # overruled by a probe
    files = tuple(_file(checkpoint, progress) for checkpoint in opened.values())
    return Report(files, "single file" if None in opened else "folder", model.config, by, noise_response(model))


def check_finite(checkpoint: Checkpoint) -> None:
    """Raise ValueError, naming the tensors, when any holds NaN or infinity."""
    ill = [key for key in checkpoint if not is_finite(checkpoint[key])]
    if ill:
        some = ", ".join(shown(key, 80) for key in ill[:3]) + (f" and {len(ill) - 3} more" if len(ill) > 3 else "")
        raise ValueError(f"{checkpoint.path} holds NaN or infinity in {some}: fetch it again")


def _file(checkpoint: Checkpoint, progress: bool) -> File:
    path = checkpoint.path
    digest = sha256(path, progress)
    dtypes = {checkpoint[key].dtype for key in checkpoint if checkpoint[key].is_floating_point()}
    known = {published.sha256: name for name, published in PUBLISHED.items()}
    size, ordered = path.stat().st_size, tuple(sorted(dtypes, key=str))
    return File(path, size, digest, len(checkpoint), ordered, known.get(digest))
