"""A small random model with the outputs that independent implementations gave for it (see golden/README.md)."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from models.hooks import Site
from models.stable_diffusion import StableDiffusion
from samplers import Schedule
from weights.load import load

FOLDER = Path(__file__).parent / "golden"
LAYOUTS = {"ldm": FOLDER / "ldm_layout.safetensors", "diffusers": FOLDER / "diffusers_layout"}


def golden_config() -> ModelConfig:
    """The model's numbers, from golden/config.json."""
    numbers = json.loads((FOLDER / "config.json").read_text())
    unet, vae, text = numbers["unet"], numbers["vae"], numbers["text"]
    return ModelConfig(
        name="golden",
        unet=UNetConfig(
            in_channels=unet["in_channels"],
            out_channels=unet["out_channels"],
            channels=unet["model_channels"],
            multipliers=tuple(unet["channel_mult"]),
            res_blocks=unet["num_res_blocks"],
            attention_levels=tuple(unet["attention_levels"]),
            head_channels=unet["num_head_channels"],
            context_channels=unet["context_dim"],
            depth=unet["transformer_depth"],
            linear_projection=unet["use_linear_projection"],
        ),
        vae=VAEConfig(
            channels=vae["ch"],
            multipliers=tuple(vae["ch_mult"]),
            res_blocks=vae["num_res_blocks"],
            latent_channels=vae["z_channels"],
            scale_factor=vae["scale_factor"],
        ),
        text=TextConfig(
            vocabulary=text["vocab_size"],
            width=text["width"],
            heads=text["heads"],
            layers=text["use_layers"],
            stored_layers=text["layers"],
            length=text["context_length"],
            mlp_ratio=text["mlp_ratio"],
            activation=text["act"],
        ),
        noise=Schedule(prediction="eps"),
        native_size=128,
    )


def golden_model(layout: str, device: torch.device, dtype: torch.dtype = torch.float32) -> StableDiffusion:
    """The model from one of the two layouts of its file, "ldm" or "diffusers"."""
    config = golden_config()
    if layout == "diffusers":  # that file holds only the layers that run
        config = replace(config, text=replace(config.text, stored_layers=config.text.layers))
    return load(LAYOUTS[layout], device=device, dtype=dtype, config=config)


@cache
def _stored(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def golden(key: str, device: torch.device) -> Tensor:
    """One stored input or output."""
    return _stored("io")[key].to(device)


def golden_attention(sites: tuple[Site, ...], slot: str, device: torch.device) -> dict[Site, Tensor]:
    """The stored maps (slot "map") or outputs (slot "output") of all sites, float32; stored as float16."""
    return {
        site: _stored("attention")[f"site{i // 2:02d}.{site.kind}.{slot}"].to(device, torch.float32)
        for i, site in enumerate(sites)
    }
