"""The stored outputs again in float64, where nothing rounds, and what one wrong line does to them."""

import math
import re

import golden_bounds
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from golden_bounds import BOUNDS, assert_golden
from golden_model import golden_model
from torch import nn

from models import GEGLU, Attention, Downsample, ResBlock, SpatialTransformer, TextEncoder
from models import attention as attention_module
from models import blocks as blocks_module
from models.clip import MLP

WIDE = torch.float64


def found(key, model, device):
    """The distance of one stored value, in float64; the network it belongs to runs alone."""
    networks = {
        "unet": lambda: golden_bounds.unet_distance(model.unet, device, WIDE),
        "text": lambda: golden_bounds.text_distance(model, device),
        "vae": lambda: golden_bounds.vae_distance(model, device, WIDE),
    }
    return networks[key.split(".")[0]]()[key]


def test_float64_is_within_the_same_bounds(device):
    model = golden_model("ldm", device, WIDE)
    values = golden_bounds.unet_distance(model.unet, device, WIDE) | golden_bounds.vae_distance(model, device, WIDE)
    for slot in ("map", "output"):
        values |= golden_bounds.attention_distance(model.unet, slot, device, WIDE)
    values |= golden_bounds.text_distance(model, device)
    assert values.keys() == {key for key in BOUNDS if not key.startswith("ddim")}
    assert_golden(values, device, WIDE)


def norms_of(network, kind, value, names=("norm", "norm1", "norm2", "norm3", "final_norm", "norm_out")):
    """Another epsilon in the norms of all modules of a kind."""
    for module in network.modules():
        if isinstance(module, kind):
            for name in names:
                if hasattr(module, name):
                    getattr(module, name).eps = value


EPSILONS = {
    "the transformer's norm": ("unet.output", lambda m: norms_of(m.unet, SpatialTransformer, 1e-5)),
    "the U-Net's residual blocks": ("unet.output", lambda m: norms_of(m.unet, ResBlock, 1e-6)),
    "the transformer block's layer norms": (
        "unet.output",
        lambda m: norms_of(m.unet, nn.Module, 1e-6, ("norm3",)),
    ),
    "the text encoder's last norm": ("text.context", lambda m: norms_of(m.text_encoder, TextEncoder, 1e-6)),
    "the decoder's last norm": (
        "vae.reconstruction",
        lambda m: norms_of(m.vae.decoder, nn.Module, 1e-5, ("norm_out",)),
    ),
    "the encoder's last norm": ("vae.moments", lambda m: norms_of(m.vae.encoder, nn.Module, 1e-5, ("norm_out",))),
    "the VAE's residual blocks": ("vae.moments", lambda m: norms_of(m.vae, ResBlock, 1e-5)),
}


@pytest.mark.parametrize("where", EPSILONS)
def test_a_wrong_epsilon_falls_outside(where, device):
    """1e-5 for 1e-6 or the reverse: the smallest mistake there is."""
    key, mistake = EPSILONS[where]
    model = golden_model("ldm", device, WIDE)
    mistake(model)
    assert found(key, model, device) > BOUNDS[key]


def test_a_wrong_epsilon_shows_in_the_maps_and_outputs(device):
    unet = golden_model("ldm", device, WIDE).unet
    norms_of(unet, SpatialTransformer, 1e-5)
    for slot in ("map", "output"):
        assert golden_bounds.attention_distance(unet, slot, device, WIDE)[slot] > BOUNDS[slot]


def tanh_gelu(self, x):
    value, gate = self.proj_in(x).chunk(2, dim=-1)
    return self.proj_out(value * F.gelu(gate, approximate="tanh"))


def gate_first(self, x):
    gate, value = self.proj_in(x).chunk(2, dim=-1)
    return self.proj_out(value * F.gelu(gate))


def sines_first(t, channels, dtype):
    angles = t.double()[:, None] * torch.exp(
        -math.log(10000.0) * torch.arange(channels // 2).to(t.device) / (channels // 2)
    )
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)


MISTAKES = {
    "heads interleaved": (
        "unet.output",
        Attention,
        "split",
        lambda s, x: rearrange(x, "b n (d h) -> b h n d", h=s.heads),
    ),
    "no 1/sqrt d": (
        "unet.output",
        attention_module,
        "attend",
        lambda q, k, v, causal=False: F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=1.0),
    ),
    "tanh for erf": ("unet.output", GEGLU, "forward", tanh_gelu),
    "the gate first": ("unet.output", GEGLU, "forward", gate_first),
    "sines first": ("unet.output", blocks_module, "timestep_embedding", sines_first),
    "quick GELU": (
        "text.context",
        MLP,
        "forward",
        lambda s, x: s.linear2((h := s.linear1(x)) * torch.sigmoid(1.702 * h)),
    ),
    "tanh for erf in the text": (
        "text.context",
        MLP,
        "forward",
        lambda s, x: s.linear2(F.gelu(s.linear1(x), approximate="tanh")),
    ),
    "padded all around": (
        "vae.moments",
        Downsample,
        "forward",
        lambda s, x: F.conv2d(x, s.conv.weight, s.conv.bias, 2, 1),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_line_falls_far_outside(mistake, device, monkeypatch):
    key, where, name, wrong = MISTAKES[mistake]
    model = golden_model("ldm", device, WIDE)
    monkeypatch.setattr(where, name, wrong)
    assert found(key, model, device) > 10 * BOUNDS[key]


def test_the_last_text_layer_run_is_the_penultimate(device):
    """Running one layer less, or leaving the final norm out."""
    for name, wrong in (("layers", lambda layers: layers[:-1]), ("final_norm", lambda _: nn.Identity())):
        model = golden_model("ldm", device, WIDE)
        setattr(model.text_encoder, name, wrong(getattr(model.text_encoder, name)))
        assert golden_bounds.text_distance(model, device)["text.context"] > 10 * BOUNDS["text.context"]


def test_the_order_of_skips_and_channels_falls_outside(device, monkeypatch):
    cat = torch.cat
    model = golden_model("ldm", device, WIDE)
    monkeypatch.setattr(torch, "cat", lambda xs, dim=0: cat(xs[::-1] if dim == 1 and xs[0].dim() == 4 else xs, dim=dim))
    assert golden_bounds.unet_distance(model.unet, device, WIDE)["unet.output"] > 10 * BOUNDS["unet.output"]


def test_every_norm_has_the_published_epsilon(device):
    """The U-Net's last norm is told apart here alone: with another epsilon it stays within the stored rounding."""
    model = golden_model("ldm", device)
    seen = {"unet": set(), "vae": set(), "text": set()}
    for part, network in (("unet", model.unet), ("vae", model.vae), ("text", model.text_encoder)):
        for name, norm in network.named_modules():
            if isinstance(norm, nn.GroupNorm | nn.LayerNorm):
                place = "transformer" if re.search(r"transformers\.\d+\.norm$", name) else "elsewhere"
                seen[part].add((type(norm).__name__, place, norm.eps))
    assert seen == {
        "unet": {
            ("GroupNorm", "elsewhere", 1e-5),
            ("GroupNorm", "transformer", 1e-6),
            ("LayerNorm", "elsewhere", 1e-5),
        },
        "vae": {("GroupNorm", "elsewhere", 1e-6)},
        "text": {("LayerNorm", "elsewhere", 1e-5)},
    }
