"""The recogniser: a small residual network (arXiv:1512.03385) with one linear head for each attribute of a subject.

It has learnt from drawn pictures alone and knows nothing of the generator, so that its answers do not depend on
what wrote the picture. What it looks at is a square around one subject, or a complete picture of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import weights
from models.images import to_tensor
from train.world import ACCESSORIES, COLOURS, PATTERNS, PLACES, SPECIES
from train.world.backgrounds import LIGHTS

SQUARE_SIDE = 96
WIDTHS = (24, 40, 64, 96)
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "species": tuple(SPECIES),
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "second": tuple(COLOURS),
    "accessory": ("none", *ACCESSORIES),
    "accessory_colour": tuple(COLOURS),
    "facing": ("left", "right"),
    "place": tuple(PLACES),
    "light": tuple(LIGHTS),
}
JOINTS = ("tilt", "stride", "head", "tail")  # of a Pose; tilt as a multiple of TILT, so that all lie in [-1, 1]
TILT = 0.2
RECOGNISER_FILE = Path(weights.__file__).parent / "recogniser.safetensors"

Square = tuple[float, float, float]


class Block(nn.Module):
    """(b c h w) to (b c_out h/2 w/2): a convolution that halves, and a residual one."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(8, out_channels), nn.GroupNorm(8, out_channels)
        self.conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.down(x)))
        return x + F.silu(self.norm2(self.conv(x)))


class Recogniser(nn.Module):
    """Squares (b 3 96 96) in [-1, 1] to a score for every value of every attribute, and the joints (b 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(c, d) for c, d in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True)))
        side = SQUARE_SIDE // 2 ** len(WIDTHS)
        self.squeeze = nn.Conv2d(WIDTHS[-1], 24, 1)
        features = 24 * side * side + WIDTHS[-1]
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(values)) for name, values in ATTRIBUTES.items()})
        self.joints = nn.Linear(features, len(JOINTS))

    def forward(self, squares: Tensor) -> dict[str, Tensor]:
        x = self.blocks(squares)
        places = rearrange(F.silu(self.squeeze(x)), "b c h w -> b (c h w)")
        features = torch.cat([places, x.mean((2, 3))], dim=1)
        return {name: head(features) for name, head in self.heads.items()} | {"joints": self.joints(features)}


@dataclass(frozen=True)
class Seen:
    """What the recogniser says of one subject: the likeliest value of each attribute, how likely each is, the joints.

    probabilities: for each attribute, of its values in the order of ATTRIBUTES. joints: tilt in radians; stride, head
    and tail in [-1, 1], as in Pose.
    """

    probabilities: dict[str, tuple[float, ...]]
    joints: dict[str, float]

    def __getitem__(self, attribute: str) -> str:
        likely = self.probabilities[attribute]
        return ATTRIBUTES[attribute][likely.index(max(likely))]


def prepare(images: Tensor, boxes: Tensor | None = None) -> Tensor:
    """Squares of pictures, as the network wants them: (b 3 h w) to (b 3 96 96).

    boxes: for each picture the middle of its square and half of its side, x, y, r as fractions of the picture (b 3);
    what lies outside the picture repeats its edge. None takes complete pictures.
    """
    if boxes is None:
        boxes = images.new_tensor([0.5, 0.5, 0.5]).expand(len(images), 3)
    x, y, r = (boxes * 2).unbind(1)
    zero = torch.zeros_like(r)
    matrix = torch.stack([torch.stack([r, zero, x - 1], 1), torch.stack([zero, r, y - 1], 1)], 1)
    grid = F.affine_grid(matrix, [len(images), 3, SQUARE_SIDE, SQUARE_SIDE], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def square_of(mask: Tensor, margin: float = 1.15) -> Square:
    """The square around the subject of a mask (h w), as `prepare` wants it. Raises ValueError on an empty mask."""
    rows, columns = (torch.nonzero(mask.any(dim))[:, 0] for dim in (1, 0))
    if not len(rows):
        raise ValueError("the mask is empty: the subject is hidden completely, and there is nothing to recognise")
    h, w = mask.shape
    (top, bottom), (left, right) = ((line[0].item(), line[-1].item() + 1) for line in (rows, columns))
    radius = margin * max((bottom - top) / h, (right - left) / w) / 2
    return (left + right) / 2 / w, (top + bottom) / 2 / h, radius


@torch.no_grad()
def recognise_subjects(
    model: Recogniser, images: Sequence[Image.Image], masks: Sequence[Image.Image | None] | None = None
) -> list[Seen]:
    """What each picture shows. masks: where its subject is, L; None for a picture of one subject."""
    device = model.joints.weight.device
    squares = []
    for i, image in enumerate(images):
        mask = masks[i] if masks else None
        box = None if mask is None else torch.tensor([square_of(to_tensor(mask.convert("RGB"))[0] > 0)], device=device)
        squares.append(prepare(to_tensor(image)[None].to(device), box))
    answers = model(torch.cat(squares))
    joints = answers.pop("joints").clamp(-1, 1) * torch.tensor([TILT, 1.0, 1.0, 1.0], device=device)
    likely = {name: scores.softmax(1).tolist() for name, scores in answers.items()}
    return [
        Seen(
            {name: tuple(rows[i]) for name, rows in likely.items()}, dict(zip(JOINTS, joints[i].tolist(), strict=True))
        )
        for i in range(len(images))
    ]


def load_recogniser(path: Path = RECOGNISER_FILE, device: str | torch.device = "cpu") -> Recogniser:
    """The trained recogniser. Raises ValueError when there is no such file."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; run python -m train.recogniser.learn first")
    model = Recogniser()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.to(device).eval().requires_grad_(False)
