"""What the tests of the method share: a complete tiny model on the device under test, and a picture for it."""

import numpy as np
import torch
from PIL import Image
from tiny_model import tiny_model

from models.stable_diffusion import StableDiffusion
from samplers import Schedule
from weights.load import networks_of

SOURCE, TARGET = "a photo of a cat on a mat", "a photo of a sks cat on a mat"


def swap_model(device: torch.device, prediction: str = "v", seed: int = 0) -> StableDiffusion:
    """Random weights, every parameter drawn; predicting v or eps."""
    model = tiny_model(seed)
    for network in networks_of(model).values():
        network.to(device)
    return model.with_schedule(Schedule(prediction=prediction))


def picture(width: int = 128, height: int = 128, seed: int = 0) -> Image.Image:
    """Random colours, smooth enough to survive resizing."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
