"""The numbers of learning a concept, by method; train/presets.py has sets of them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

from train.base_config import FREE, LearnConfig
from train.presets import PRESETS
from train.ranges import Layers
from train.word_config import Beside, CustomDiffusionConfig, TextualInversionConfig
from weights.records import listed, quoted

__all__ = [
    "CONFIGS",
    "FREE",
    "Beside",
    "CustomDiffusionConfig",
    "DreamBoothConfig",
    "LearnConfig",
    "LoRAConfig",
    "TextualInversionConfig",
    "dreambooth_config",
    "learn_config",
]


@dataclass(frozen=True)
class DreamBoothConfig(LearnConfig):
    """DreamBooth: all of the U-Net learns, and of the text encoder.

    The defaults are Photoswap's for SD 2.1 (arXiv:2305.18286, section 4): AdamW at 1e-6, 800 steps, U-Net and text
    encoder. What the paper leaves open is as in its authors' later script (200 class pictures, batch 1, prior weight 1)
    and in the training script that this one calls: AdamW's other numbers, clipping, latents drawn from the Gaussian.
    PRESETS has the training script's own defaults as "script".

    text_learning_rate: None takes learning_rate. token_steps: of all steps the first teach the token's embedding alone,
    at token_learning_rate (train/token_first.py); that wants train_text_encoder.
    """

    method: ClassVar[str] = "dreambooth"

    train_text_encoder: bool = True
    text_learning_rate: float | None = None
    token_steps: int = 0
    token_learning_rate: float = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_steps and not self.train_text_encoder:
            raise ValueError("token_steps teach the token's embedding first; that wants train_text_encoder")


@dataclass(frozen=True)
class LoRAConfig(LearnConfig):
    """LoRA: a product of two thin matrices learns beside every layer that is named.

    The defaults are those of the example that diffusers gives for its script train_dreambooth_lora.py: rank 4, 1e-4,
    500 steps, attention alone, no class pictures.

    rank: columns of one factor and rows of the other. alpha: what is added is alpha / rank x up @ down; None takes the
    rank. layers: "attention", the projections of every attention layer, as in diffusers; "linear", all that is linear
    in the transformers, as in kohya's sd-scripts. train_text_encoder: its layers too. text_learning_rate: None takes
    learning_rate.
    """

    method: ClassVar[str] = "lora"

    steps: int = 500
    learning_rate: float = 1e-4
    prior_weight: float = 0.0
    rank: int = 4
    alpha: float | None = None
    layers: Layers = "attention"
    train_text_encoder: bool = False
    text_learning_rate: float | None = None


CONFIGS: Mapping[str, type[LearnConfig]] = {
    config.method: config for config in (DreamBoothConfig, LoRAConfig, TextualInversionConfig, CustomDiffusionConfig)
}


def learn_config(method: str, preset: str, class_word: str, **changes: Any) -> LearnConfig:
    """The configuration of a method (CONFIGS) by the name of a preset (PRESETS), a model's or "script", with changes.

    A preset's steps for the token alone (`token_steps`) are a share of its steps, and none where the text encoder does
    not learn. Raises ValueError for an unknown name, and for a change of a setting that the method does not have.
    """
    if method not in CONFIGS:
        raise ValueError(f"no method {quoted(method)} to learn by; there are {', '.join(CONFIGS)}")
    presets, config = PRESETS[method], CONFIGS[method]
    if preset not in presets:
        raise ValueError(
            f"no preset for {preset!r} in {method}; there are {', '.join(presets)}, or fill {config.__name__} yourself"
        )
    known = [field.name for field in fields(config)]
    if strange := [name for name in changes if name not in known]:
        raise ValueError(f"{method} has no setting {listed(strange)}; it has {', '.join(known)}")
    return config(class_word, **{**_fitting(presets[preset], changes), **changes})


def _fitting(preset: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A preset beside changes: its steps for the token alone are a share of all, where the text encoder learns."""
    own = dict(preset)
    steps = changes.get("steps", own.get("steps"))
    if "token_steps" in own and isinstance(steps, int):  # else it is refused soon, by name
        share = own["token_steps"] * steps // own["steps"]
        own["token_steps"] = share if changes.get("train_text_encoder", True) else 0
    return own


def dreambooth_config(name: str, class_word: str, **changes: Any) -> DreamBoothConfig:
    """The configuration of DreamBooth by that preset, a model's or "script", with changes.

    Raises ValueError for an unknown name.
    """
    return cast(DreamBoothConfig, learn_config("dreambooth", name, class_word, **changes))
