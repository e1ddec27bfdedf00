"""What learns, a page for each way: networks, factors beside them, a word, keys and values and a word."""

from typing import Any

from train.config import LearnConfig
from train.methods.custom_diffusion import CustomDiffusion
from train.methods.dreambooth import DreamBooth
from train.methods.lora import LoRA
from train.methods.method import Group, LearningMethod, Placed
from train.methods.textual_inversion import TextualInversion

LEARNING_METHODS: dict[str, LearningMethod[Any]] = {
    "dreambooth": DreamBooth(),
    "lora": LoRA(),
    "textual-inversion": TextualInversion(),
    "custom-diffusion": CustomDiffusion(),
}


def method_of(config: LearnConfig) -> LearningMethod[Any]:
    """The method that a configuration is for."""
    return LEARNING_METHODS[config.method]


__all__ = [
    "LEARNING_METHODS",
    "CustomDiffusion",
    "DreamBooth",
    "Group",
    "LearningMethod",
    "LoRA",
    "Placed",
    "TextualInversion",
    "method_of",
]
