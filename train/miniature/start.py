"""Where a training starts from: what an earlier one left, or a complete checkpoint of the miniature."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weights.load import load, networks_of


def autoencoder_weights(path: Path) -> dict[str, Tensor]:
    """The autoencoder's weights in float32, on the CPU.

    path: the autoencoder.pt of train.miniature.autoencoder, or a checkpoint as `load` reads it. Raises ValueError when
    there is no such file.
    """
    if path.suffix != ".pt":
        return networks_of(load(path))["vae"].state_dict()
    return _pickled(path, "train.miniature.autoencoder")


def diffusion_weights(path: Path) -> dict[str, Tensor]:
    """The weights of U-Net and text encoder as "unet.NAME" and "text.NAME", in float32, on the CPU.

    path: the checkpoint.pt of train.miniature.diffusion, of which the average is taken, or a checkpoint as `load` reads
    it. Raises ValueError when there is no such file, or when it holds no average.
    """
    if path.suffix != ".pt":
        networks = networks_of(load(path))
        return {f"{part}.{k}": v for part in ("unet", "text") for k, v in networks[part].state_dict().items()}
    checkpoint = _pickled(path, "train.miniature.diffusion")
    if "ema" not in checkpoint:
        raise ValueError(f"{path} holds no average of weights (ema): give the checkpoint.pt of the diffusion")
    return checkpoint["ema"]


def _pickled(path: Path, maker: str) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; run python -m {maker} first")
    return torch.load(path, map_location="cpu", weights_only=True)
