"""The first version of the fingerprint, for files that bear it: run only when one is opened.

It hashed the text of the configuration's dataclasses as they were then, and every weight as float16.
"""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import ModelConfig
from models.stable_diffusion import LatentDiffusion
from samplers.schedule import Schedule
from weights.load import networks_of

PIECE = 2**20
FIELDS = {
    "UNetConfig": (
        "in_channels out_channels channels multipliers res_blocks attention_levels head_channels heads "
        "context_channels groups depth linear_projection"
    ),
    "VAEConfig": "channels multipliers res_blocks latent_channels groups scale_factor",
    "TextConfig": "vocabulary width heads layers stored_layers length mlp_ratio activation padding",
    "NoiseConfig": "beta_start beta_end train_steps prediction offset",
    "Schedule": "beta_start beta_end train_steps prediction offset",
}


def fingerprint_v1(model: LatentDiffusion) -> str | None:
    """Sixteen hexadecimal digits; None for a model of a kind that there was not then.

    It is what it was where the weights are float32 or float16 (or float64), and something else in bfloat16.
    """
    config, noise = model.config, model.config.noise
    then = {name: getattr(noise, name) for name in FIELDS["Schedule"].split()}
    if noise != Schedule(**then) or not isinstance(config, ModelConfig):
        return None
    parts = (config.unet, config.vae, config.text, noise, noise)
    texts = (
        f"{kind}({', '.join(f'{name}={getattr(part, name)!r}' for name in names.split())})"
        for (kind, names), part in zip(FIELDS.items(), parts, strict=True)
    )
    digest = hashlib.sha256(f"({', '.join(texts)})".encode())
    for network_name, network in networks_of(model).items():
        for name, tensor in sorted(network.state_dict().items()):
            sums = [_checksum(piece) for piece in tensor.detach().flatten().split(PIECE)]
            digest.update(f"{network_name}.{name} {tuple(tensor.shape)} {sums}\n".encode())
    return digest.hexdigest()[:16]


def _checksum(weights: Tensor) -> int:
    """The bits of every two weights (n,) as one integer, each times an odd number of its own, summed modulo 2^64."""
    pairs = F.pad(weights.to(torch.float16), (0, len(weights) % 2)).view(torch.int32)
    odd = torch.arange(1, 2 * len(pairs), 2, device=pairs.device)
    return int((pairs * odd).sum())
