"""What pictures are measured by, and steered by: features of them, of whichever network is at hand.

The paper's are CLIP ViT-B/32's picture embeddings, as they come, not normalised: `ClipFeatures`, from a file of its
weights. Without it, the drawn world's recogniser gives features of its own (`RecogniserFeatures`), whose numbers
compare with one another and not with the paper's.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol
from zipfile import is_zipfile

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.images import to_tensor
from models.paint_by_example import CLIP_DEVIATION, CLIP_MEAN
from train.recogniser.network import RECOGNISER_FILE, Recogniser, load_recogniser, prepare
from weights.checksum import digest_of

Array = NDArray[np.float64]
REAL_SIDE, CLIP_SIDE = 512, 224  # of real pictures before anything else, and of what CLIP sees
AT_ONCE = 50


class Features(Protocol):
    """Pictures of one size to a row of features each, (n d)."""

    def __call__(self, pictures: Sequence[Image.Image]) -> Array: ...


class NetworkFeatures(Features, Protocol):
    """Features of a network, which pictures can also be steered by."""

    @property
    def known_by(self) -> dict[str, str]:
        """Which network it is, and a digest of its weights."""
        ...

    def embed(self, pixels: Tensor) -> Tensor:
        """Pictures (b 3 h w) in [-1, 1] to features (b d), with gradients."""
        ...


def find_features(file: Path | None = None, device: str | torch.device = "cpu") -> "ClipFeatures | RecogniserFeatures":
    """The features of a file: CLIP ViT-B/32's weights, or a recogniser's; without one those of the shipped recogniser.

    Raises ValueError where there is no such file, and where nothing was named and no recogniser is shipped.
    """
    if file is None and not RECOGNISER_FILE.is_file():
        raise ValueError(
            f"there are no features to go by: give CLIP ViT-B/32's weights with --features, or make a "
            f"{RECOGNISER_FILE.name} by python -m train.recogniser.learn"
        )
    if file is None or _is_recogniser(file):
        return RecogniserFeatures(load_recogniser(file or RECOGNISER_FILE, device))
    return ClipFeatures(file, device=device)


def _is_recogniser(file: Path) -> bool:
    return "joints.weight" in _keys(file)


def _keys(file: Path) -> list[str]:
    """The names in a .safetensors file; none in another."""
    try:
        with safe_open(file, "pt") as opened:
            return list(opened.keys())
    except (OSError, SafetensorError):
        return []


def features_of(
    features: Features, pictures: Iterable[Image.Image], prepare: Callable[[Image.Image], Image.Image] | None = None
) -> Array:
    """The features of many pictures, so many at once. prepare: each first, by default `real_picture`."""
    found, rows = [], []
    for picture in pictures:
        rows.append((prepare or real_picture)(picture))
        if len(rows) == AT_ONCE:
            found.append(features(rows))
            rows = []
    if rows:
        found.append(features(rows))
    if not found:
        raise ValueError("there are no pictures to measure")
    return np.concatenate(found)


def real_picture(picture: Image.Image, side: int = REAL_SIDE) -> Image.Image:
    """The middle square of a picture whose shorter side is brought to `side`, as the published script prepares all."""
    picture = picture.convert("RGB")
    scale = side / min(picture.size)
    w, h = (max(side, round(length * scale)) for length in picture.size)
    left, top = (w - side) // 2, (h - side) // 2
    return picture.resize((w, h), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))


class ClipFeatures:
    """The picture embeddings of a CLIP, ViT-B/32 as published, by the open_clip package.

    weights: a file of them; nothing is downloaded. Raises ValueError where they do not fit.
    """

    def __init__(
        self, weights: str | Path, name: str = "ViT-B-32-quickgelu", device: str | torch.device = "cpu"
    ) -> None:
        import open_clip

        if not Path(weights).is_file():
            raise ValueError(f"no such file of CLIP's weights: {weights}")
        if not (is_zipfile(weights) or _keys(Path(weights))):  # before a network is built for it
            raise ValueError(f"{weights} does not fit {name}: it is neither torch's nor a .safetensors file")
        try:
            self.model = open_clip.create_model(name, pretrained=str(weights), device=device).eval()
        except Exception as error:  # the package's loaders raise what they will, of unpickling too
            raise ValueError(f"{weights} does not fit {name}: {str(error)[:200]}") from None
        self.model.requires_grad_(False)
        self.name, self.device = name, device

    @cached_property
    def known_by(self) -> dict[str, str]:
        """Which network it is, and a digest of its weights."""
        return {self.name: digest_of(self.model.visual.state_dict())}

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> Array:
        """Resized to 224 bicubic, as CLIP's own preparation does."""
        rows = [seen_by_clip(picture) for picture in pictures]
        found = self.model.encode_image(torch.stack(rows).to(self.device))
        return found.double().cpu().numpy()  # type: ignore[no-any-return]

    def embed(self, pixels: Tensor) -> Tensor:
        """Pictures (b 3 h w) in [-1, 1] to features (b 512), with gradients."""
        seen = F.interpolate(pixels.float(), (CLIP_SIDE, CLIP_SIDE), mode="bicubic", antialias=True)
        found: Tensor = self.model.encode_image(_normalised((seen + 1) / 2))
        return found


class RecogniserFeatures:
    """What the drawn world's recogniser has gathered before it answers, averaged over places: 96 numbers."""

    def __init__(self, recogniser: Recogniser) -> None:
        self.recogniser = recogniser

    @cached_property
    def known_by(self) -> dict[str, str]:
        """Which network it is, and a digest of its weights."""
        return {"recogniser": digest_of(self.recogniser.state_dict())}

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> Array:
        pixels = torch.stack([to_tensor(picture.convert("RGB")) for picture in pictures])
        found: Array = self.embed(pixels).double().cpu().numpy()
        return found

    def embed(self, pixels: Tensor) -> Tensor:
        """Pictures (b 3 h w) in [-1, 1] to features (b 96), with gradients."""
        found: Tensor = self.recogniser.blocks(prepare(pixels.to(self.recogniser.joints.weight))).mean((2, 3))
        return found


def seen_by_clip(picture: Image.Image) -> Tensor:
    """A square picture as (3 224 224), normalised."""
    seen = picture.convert("RGB").resize((CLIP_SIDE, CLIP_SIDE), Image.Resampling.BICUBIC)
    return _normalised((to_tensor(seen) + 1) / 2)


def _normalised(shown: Tensor) -> Tensor:
    """Pictures (... 3 h w) in [0, 1] with CLIP's mean and deviation taken out."""
    mean, deviation = (shown.new_tensor(numbers)[:, None, None] for numbers in (CLIP_MEAN, CLIP_DEVIATION))
    return (shown - mean) / deviation
