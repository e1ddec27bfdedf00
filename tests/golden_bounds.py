"""How far this model may be from the stored outputs, and how far it is.

Each bound is twice what was measured; both stand here. The stored outputs were computed in float32, so most of what is
measured is their own rounding: a float64 model is no nearer.
"""

import torch
from golden_model import golden, golden_attention
from tiny import distance
from torch import Tensor

from models.hooks import Hook, Site, reading
from models.stable_diffusion import StableDiffusion
from models.unet import UNet

# measured in float32 on the CPU and, where two numbers stand, in float64
BOUNDS = {
    "unet.output": 2.1e-6,  # 1.02e-6, 1.07e-6
    "map": 4e-3,  # 1.5e-3, 2.0e-3
    "output": 2e-2,  # 7.8e-3, 9.8e-3
    "text.context": 7e-7,  # 0 (the same kernels), 3.5e-7
    "vae.moments": 1.7e-6,  # 8.7e-7, 8.4e-7
    "vae.latent": 1.9e-6,  # 9.5e-7, 9.3e-7
    "vae.reconstruction": 2.05e-6,  # 1.01e-6, 1.02e-6
    "ddim.sampling": 4e-6,  # 1.81e-6 to 1.97e-6
    "ddim.inversion": 5.4e-6,  # 1.3e-6 to 2.7e-6
    "ddim.inversion.v.offset0": 3.2e-5,  # 1.6e-5, 1.3e-5: the stored run has lost most of this itself
}
ELSEWHERE = 5  # in float32 another device sums in another order; in float64 the bounds hold on every one


def bound(key: str, device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """How far a value may be from the stored one."""
    return BOUNDS[key] * (ELSEWHERE if device.type != "cpu" and dtype == torch.float32 else 1)


def unet_inputs(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """The stored latents, timesteps and context."""
    latents, t, context = (golden(f"unet.{key}", device) for key in ("latent", "timestep", "context"))
    return latents.to(dtype), t, context.to(dtype)


@torch.no_grad()
def unet_distance(unet: UNet, device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """How far the prediction is from the stored one."""
    return {"unet.output": distance(unet(*unet_inputs(device, dtype)), golden("unet.output", device))}


@torch.no_grad()
def attention_distance(unet: UNet, slot: str, device: torch.device, dtype: torch.dtype = torch.float32) -> dict:
    """The share of numbers at the worst site that round to another half-precision number than the stored one.

    A distance would only see that the stored maps and outputs were rounded to half precision, 2e-4 of their size.
    """
    seen: dict[Site, Tensor] = {}
    table = {site: Hook(**{slot: reading(lambda x, s=site: seen.update({s: x}))}) for site in unet.sites}
    unet(*unet_inputs(device, dtype), table)
    stored = golden_attention(unet.sites, slot, device)
    assert set(seen) == set(stored) and len(stored) == 20
    return {slot: max((seen[s].half() != stored[s].half()).double().mean().item() for s in stored)}


@torch.no_grad()
def text_distance(model: StableDiffusion, device: torch.device) -> dict[str, float]:
    """How far the context is from the stored one."""
    context = model.text_encoder(golden("text.tokens", device))
    return {"text.context": distance(context, golden("text.context", device))}


@torch.no_grad()
def vae_distance(model: StableDiffusion, device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """How far moments, latents and reconstruction are from the stored ones, each from the stored value before it."""
    vae, scale = model.vae, model.config.vae.scale_factor
    moments = vae.encode(golden("vae.image", device).to(dtype))
    found = {
        "vae.moments": moments,
        "vae.latent": vae.mean(moments) * scale,
        "vae.reconstruction": vae.decode(golden("vae.latent", device).to(dtype) / scale),
    }
    return {key: distance(value, golden(key, device)) for key, value in found.items()}


def assert_golden(found: dict[str, float], device: torch.device, dtype: torch.dtype = torch.float32) -> None:
    """Every value is within its bound."""
    far = {key: value for key, value in found.items() if not value < bound(key, device, dtype)}
    assert not far, f"{far}, beyond {[bound(key, device, dtype) for key in far]}"
