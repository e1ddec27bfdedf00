"""The three networks as one value."""

from dataclasses import dataclass, replace

import pytest
import torch
from golden_bounds import bound
from golden_model import golden, golden_model
from tiny import MODEL, distance, drawn, normal
from torch import nn

from models import Autoencoder, StableDiffusion, TextEncoder, Tokenizer, UNet
from models.stable_diffusion import LatentDiffusion
from samplers import Schedule
from weights import fingerprint


@pytest.fixture(scope="module")
def model(device):
    networks = (UNet(MODEL.unet), Autoencoder(MODEL.vae), TextEncoder(MODEL.text))
    networks = (drawn(network, device).requires_grad_(False) for network in networks)
    return StableDiffusion(*networks, tokenizer=Tokenizer(), config=MODEL)


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@torch.no_grad()
def test_latents_and_pictures_are_the_golden_ones(layout, device):
    model = golden_model(layout, device)
    latents = model.encode_image(golden("vae.image", device))
    assert distance(latents, golden("vae.latent", device)) < bound("vae.latent", device)
    stored = golden("vae.reconstruction", device).clamp(-1, 1)
    assert distance(model.decode(golden("vae.latent", device)), stored) < bound("vae.reconstruction", device)


def test_device_and_dtype(model, device):
    assert model.device.type == device.type and model.dtype == torch.float32


def test_text_becomes_context(model):
    one, two = model.encode_text("a cat"), model.encode_text(["a cat", ""])
    assert one.shape == (1, 77, 24) and two.shape == (2, 77, 24)
    torch.testing.assert_close(two[:1], one, rtol=1e-5, atol=1e-5)  # a batch may sum in another order


def test_pictures_become_scaled_latents(model, device):
    images = normal(2, 3, 16, 24, device=device).clamp(-1, 1)
    latents = model.encode_image(images)
    assert latents.shape == (2, 4, 2, 3) and latents.dtype == torch.float32
    assert torch.equal(latents, model.vae.mean(model.vae.encode(images)) * MODEL.vae.scale_factor)
    first = model.encode_image(images, torch.Generator().manual_seed(0))
    again = model.encode_image(images, torch.Generator().manual_seed(0))
    assert torch.equal(first, again) and not torch.equal(first, latents)


def test_latents_become_clipped_pictures(model, device):
    images = model.decode(normal(1, 4, 2, 3, device=device) * 5)
    assert images.shape == (1, 3, 16, 24) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1


def test_latents_stay_float32_around_half_precision_networks(device):
    model = golden_model("ldm", device, torch.float16)
    with torch.no_grad():
        latents = model.encode_image(golden("vae.image", device))
        images = model.decode(latents)
    assert model.dtype == torch.float16
    assert latents.dtype == images.dtype == torch.float32
    assert distance(latents, golden("vae.latent", device)) < 1e-2  # the rounding of half precision


def test_gradients_flow_through_every_door(device):
    networks = (drawn(n, device) for n in (UNet(MODEL.unet), Autoencoder(MODEL.vae), TextEncoder(MODEL.text)))
    model = StableDiffusion(*networks, tokenizer=Tokenizer(), config=MODEL)
    context = model.encode_text("a cat")
    latents = model.encode_image(normal(1, 3, 64, 64, device=device))
    model.unet(latents, 5, context).sum().backward()
    for network in (model.text_encoder.layers, model.vae.encoder, model.unet):
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_schedule_is_the_one_of_the_configuration(model):
    other = replace(model.schedule, prediction="v", spacing="trailing", rescale_zero_snr=True)
    changed = model.with_schedule(other)
    assert changed.schedule is changed.config.noise is other
    assert changed.unet is model.unet and model.schedule == MODEL.noise
    with pytest.raises(AttributeError):
        model.schedule = other  # a second place to keep it in would be saved by nobody


@dataclass
class ByExample(LatentDiffusion):
    """A model whose context comes from elsewhere than from text."""

    mapper: nn.Linear

    @property
    def networks(self):
        return {**super().networks, "image": self.mapper}


def test_a_model_needs_no_text_encoder(model, device):
    other = ByExample(model.unet, model.vae, nn.Linear(3, 24).to(device), config=model.config)
    assert list(other.networks) == ["unet", "vae", "image"] and list(model.networks) == ["unet", "vae", "text"]
    latents = other.encode_image(normal(1, 3, 64, 64, device=device))
    assert other.unet(latents, 999, other.mapper(normal(1, 5, 3, device=device))).shape == latents.shape
    assert other.decode(latents).shape == (1, 3, 64, 64)
    assert other.schedule == model.schedule and other.with_schedule(Schedule()).mapper is other.mapper
    before = fingerprint(other)
    with torch.no_grad():
        other.mapper.bias += 1
    assert len({before, fingerprint(other), fingerprint(model)}) == 3
