"""What learns, a page for each way: DreamBooth's networks, LoRA's factors."""

from typing import Any

from train.config import LearnConfig
from train.methods.dreambooth import DreamBooth
from train.methods.lora import LoRA
from train.methods.method import Group, LearningMethod, Placed

LEARNING_METHODS: dict[str, LearningMethod[Any]] = {"dreambooth": DreamBooth(), "lora": LoRA()}


def method_of(config: LearnConfig) -> LearningMethod[Any]:
    """The method that a configuration is for."""
    return LEARNING_METHODS[config.method]


__all__ = ["LEARNING_METHODS", "DreamBooth", "Group", "LearningMethod", "LoRA", "Placed", "method_of"]
