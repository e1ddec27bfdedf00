"""A short name for the very weights and numbers of a model, by which files made with one know it again."""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from models.stable_diffusion import StableDiffusion
from weights.load import networks_of

PIECE = 2**20  # weights summed at once: they stay in a CPU's cache, and little is held beside the model


def fingerprint(model: StableDiffusion) -> str:
    """Sixteen hexadecimal digits that tell models apart, also those that differ by a concept.

    They cover the numbers of the networks and of the noise, and every weight as float16. So a
    checkpoint has one fingerprint, loaded in float16 or in float32, on every device; in bfloat16, whose rounding loses
    more, it has another. Nothing but sums leaves a device. It guards against mistakes, not against forgery.
    """
    config = model.config
    numbers = (config.unet, config.vae, config.text, config.noise)
    digest = hashlib.sha256(repr(numbers).encode())
    for part, network in networks_of(model).items():
        for name, tensor in sorted(network.state_dict().items()):
            sums = [_checksum(piece) for piece in tensor.detach().flatten().split(PIECE)]
            digest.update(f"{part}.{name} {tuple(tensor.shape)} {sums}\n".encode())
    return digest.hexdigest()[:16]


def _checksum(weights: Tensor) -> int:
    """The bits of every two weights (n,) as one integer, each times an odd number of its own, summed modulo 2^64.

    Exact in any order of summing. One changed integer, or two that change places, always change the sum.
    """
    pairs = F.pad(weights.to(torch.float16), (0, len(weights) % 2)).view(torch.int32)
    odd = torch.arange(1, 2 * len(pairs), 2, device=pairs.device)
    return int((pairs * odd).sum())
