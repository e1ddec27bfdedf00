"""A whole Stable Diffusion so small that every command runs in seconds: 128 px pictures, random weights."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny import MODEL, drawn

from models.config import ModelConfig
from models.stable_diffusion import StableDiffusion
from samplers import Schedule
from weights.load import meta_model, networks_of, save


def tiny_config() -> ModelConfig:
    """The structure of SD 2.1, four levels and all; of its 1.6 M parameters most are the vocabulary's."""
    unet = replace(MODEL.unet, attention_levels=(0, 1, 2))
    return replace(MODEL, unet=unet, noise=Schedule(prediction="v"), native_size=128)


def tiny_model(seed: int = 0) -> StableDiffusion:
    """Every parameter drawn from the seed."""
    return drawn_model(tiny_config(), torch.device("cpu"), seed)


def tiny_painter(device: torch.device | str = "cpu", seed: int = 0) -> StableDiffusion:
    """The same with nine channels, told by a prompt what to paint."""
    config = tiny_config()
    painting = replace(config, name="tiny-inpainting", unet=replace(config.unet, in_channels=9))
    return drawn_model(painting, torch.device(device), seed)


def drawn_model(config: ModelConfig, device: torch.device, seed: int) -> StableDiffusion:
    """A model of this configuration, every parameter drawn from the seed."""
    model = meta_model(config)
    for network in networks_of(model).values():
        drawn(network.to_empty(device=device), device, seed).eval()
    return model


def write_tiny_model(path: Path, seed: int = 0) -> Path:
    """A checkpoint of it in the single-file layout."""
    save(tiny_model(seed), path)
    return path
