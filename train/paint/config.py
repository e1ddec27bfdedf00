"""The numbers of Paint by Example's training, and a painter as small as the miniature."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from models.config import MINIATURE, PaintConfig, VisionConfig
from weights.records import quoted

START = 1e-6  # of the learning rate, at the first step


@dataclass(frozen=True, kw_only=True)
class PaintTraining:
    """How a painter is trained; the defaults are those of the published configuration. Raises ValueError.

    steps: of AdamW at learning_rate, to which it rises in a line from a millionth of that over `warm` steps; over the
    last `cool` it falls in a line to nothing. batch: pictures a step, over all processes. kept: so many rows are made
    and encoded once, and shown again and again (train/paint/kept.py); 0 makes every row anew. unconditional: how often
    all of a step's references give way to the token of no reference. train_tower: whether CLIP's tower learns too: a
    published one stays as it is, one drawn at random has to. size: side of the pictures, None for the model's own.
    bfloat16: the networks run under autocast; weights stay float32. gradient_checkpointing: activations are recomputed
    rather than kept.
    """

    steps: int = 100_000
    batch: int = 16
    learning_rate: float = 1e-5
    warm: int = 10_000
    cool: int = 0
    kept: int = 0
    weight_decay: float = 1e-2
    unconditional: float = 0.2
    train_tower: bool = False
    size: int | None = None
    seed: int = 0
    bfloat16: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least 1")
        if self.warm < 0 or self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"learning_rate is {quoted(self.learning_rate)}, warm {self.warm}, weight_decay {self.weight_decay}; "
                "want a rate above 0 and no negative numbers"
            )
        if not 0 <= self.cool <= self.steps or self.kept < 0:
            raise ValueError(
                f"cool is {self.cool}, kept {self.kept}; want 0 to {self.steps} steps, and no negative number"
            )
        if not 0 <= self.unconditional < 1:
            raise ValueError(f"unconditional is {self.unconditional}; want a share in [0, 1)")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        risen = min(1.0, step / self.warm) if self.warm else 1.0
        left = min(1.0, (self.steps - step) / self.cool) if self.cool else 1.0
        return self.learning_rate * (START + (1 - START) * risen) * left

    def settings(self) -> dict[str, Any]:
        """Every number, as JSON holds it."""
        return asdict(self)


def miniature_painter(base: Any = MINIATURE) -> PaintConfig:
    """A painter on the miniature's U-Net and autoencoder, with a small tower for references of 64 pixels a side."""
    return PaintConfig(
        name="miniature-paint",
        unet=replace(base.unet, in_channels=9),
        vae=base.vae,
        noise=base.noise,
        native_size=base.native_size,
        image=VisionConfig(
            width=128,
            heads=4,
            layers=6,
            size=64,
            patch=8,
            mapper_blocks=2,
            context_channels=base.unet.context_channels,
        ),
    )
