"""A whole Stable Diffusion so small that every command runs in seconds: 128 px pictures, random weights."""

from pathlib import Path

import torch

from models.config import ModelConfig, NoiseConfig, TextConfig, UNetConfig, VAEConfig
from models.stable_diffusion import StableDiffusion
from weights.load import fill, meta_model, networks_of, save


def tiny_config() -> ModelConfig:
    """The structure of SD 2.1, four levels and all, in 0.9 M parameters, most of them the vocabulary's."""
    return ModelConfig(
        name="tiny",
        unet=UNetConfig(
            channels=8, multipliers=(1, 2, 2, 2), res_blocks=1, head_channels=8, context_channels=16, groups=4
        ),
        vae=VAEConfig(channels=8, multipliers=(1, 1, 1, 1), res_blocks=1, groups=4),
        text=TextConfig(width=16, heads=2, layers=2, stored_layers=3),
        noise=NoiseConfig(prediction="v"),
        native_size=128,
    )


def tiny_model(seed: int = 0) -> StableDiffusion:
    """Random weights, small enough that pictures are neither black nor noise clipped to the corners."""
    model = meta_model(tiny_config())
    generator = torch.Generator().manual_seed(seed)
    for network in networks_of(model).values():
        shapes = {key: value.shape for key, value in network.state_dict().items()}
        drawn = {
            key: torch.randn(shape, generator=generator) / max(1, shape[1:].numel()) ** 0.5
            for key, shape in shapes.items()
        }
        fill(network, drawn, "cpu", torch.float32)
    return model


def write_tiny_model(path: Path, seed: int = 0) -> Path:
    """A checkpoint of it in the single-file layout."""
    save(tiny_model(seed), path)
    return path
