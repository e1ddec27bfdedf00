"""Half precision judged against float32 on the same weights, and logits far beyond those of real weights.

Latent diffusion's code builds a map as softmax(q.float() k.float()^T / sqrt d), autocast or not, and goes back to half
precision only for the product with v; without that upcast SD 2.1 gives black pictures in float16. The unit roundoff u,
half the distance from 1 to the next number, is 2^-11 in float16 and 2^-8 in bfloat16. N roundings one after another,
each at most u and as often up as down, leave about u sqrt(N / 3): a network loses some multiples of u, and eight times
more in bfloat16.
"""

from contextlib import nullcontext
from copy import deepcopy
from functools import cache

import pytest
import reference
import torch
from golden_model import golden, golden_model
from tiny import distance, normal
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import CrossAttention, Hook, SelfAttention, attend, mapped_attention, reading

HALVES = [torch.float16, torch.bfloat16]
ROUNDOFF = {torch.float16: 2**-11, torch.bfloat16: 2**-8}


def projections(device, dtype, n=24, m=77, width=64, rows=2, heads=3):
    q = normal(rows, heads, n, width, device=device, seed=1)
    k, v = (normal(rows, heads, m, width, device=device, seed=seed) for seed in (2, 3))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def as_it_is(m):
    return m


# One attention layer


@pytest.mark.parametrize("dtype", HALVES)
def test_a_map_knows_of_half_precision_only_through_its_inputs(dtype, device):
    q, k, v = projections(device, dtype)
    maps = []
    mapped_attention(q * 4, k * 4, v, reading(maps.append))  # logits of about 16, as peaked as real ones
    assert maps[0].dtype == torch.float32
    assert distance(maps[0], reference.attention_map(q * 4, k * 4)) < 1e-5  # float32 exponentials of such logits
    half = (q * 4 @ (k * 4).mT * q.shape[-1] ** -0.5).softmax(-1)
    assert distance(half, maps[0]) > 1e-3  # what the upcast is for


@pytest.mark.parametrize("dtype", HALVES)
def test_the_product_with_the_values_is_the_official_one(dtype, device):
    """Probabilities are rounded to half precision once, as under the official code's autocast, and the sums once."""
    q, k, v = projections(device, dtype)
    official = (q.float() @ k.float().mT * q.shape[-1] ** -0.5).softmax(-1).to(dtype) @ v
    assert distance(mapped_attention(q, k, v, as_it_is), official) < ROUNDOFF[dtype]


@pytest.mark.parametrize("how", ["fused", "mapped"])
@pytest.mark.parametrize("dtype", HALVES)
def test_attention_loses_two_roundings(how, dtype, device):
    """One of the probabilities and one of the result; each is at most u, and half of that on average."""
    q, k, v = projections(device, dtype)
    out = attend(q, k, v) if how == "fused" else mapped_attention(q, k, v, as_it_is)
    error = distance(out, reference.attention(q, k, v))
    print(f"{how} attention in {dtype}: relative error {error:.1e}, {error / ROUNDOFF[dtype]:.2f} u")
    assert error < ROUNDOFF[dtype]


@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("how", ["fused", "mapped"])
@pytest.mark.parametrize("dtype", HALVES)
def test_an_attention_layer_is_near_float32(how, kind, dtype, device):
    """Three projections, the map, its product and the last projection: about six roundings."""
    layer = SelfAttention(64, heads=4) if kind == "self" else CrossAttention(64, 48, heads=4)
    layer = layer.to(device).requires_grad_(False)
    inputs = (normal(2, 30, 64, device=device), *([normal(2, 77, 48, device=device, seed=2)] * (kind == "cross")))
    hook = Hook(map=as_it_is) if how == "mapped" else Hook()
    half = layer.to(dtype)(*(x.to(dtype) for x in inputs), hook=hook)
    wide = layer.to(torch.float32)(*(x.to(dtype).float() for x in inputs), hook=hook)
    error = distance(half, wide)
    print(f"{how} {kind}-attention layer in {dtype}: relative error {error:.1e}, {error / ROUNDOFF[dtype]:.2f} u")
    assert half.dtype == dtype
    assert error < 3 * ROUNDOFF[dtype]


# Logits beyond those of real weights


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", ["any", "math"])
@pytest.mark.parametrize("size", [1e2, 1e4])
@pytest.mark.parametrize("dtype", HALVES)
def test_fused_attention_is_finite_at_any_logits(dtype, size, backend, causal, device):
    q, k, v = projections(device, dtype, n=77)
    with sdpa_kernel(SDPBackend.MATH) if backend == "math" else nullcontext():
        out = attend(q * size, k * size, v, causal)
    check_huge(out, q * size, k * size, v, causal)


@pytest.mark.parametrize("autocast", [None, *HALVES])
@pytest.mark.parametrize("size", [1e2, 1e4])
@pytest.mark.parametrize("dtype", HALVES)
def test_mapped_attention_is_finite_at_any_logits(dtype, size, autocast, device):
    q, k, v = projections(device, dtype)
    maps = []
    with torch.autocast(device.type, autocast) if autocast else nullcontext():
        out = mapped_attention(q * size, k * size, v, reading(maps.append))
    torch.testing.assert_close(maps[0].sum(-1), torch.ones_like(maps[0][..., 0]), rtol=0, atol=1e-5)
    check_huge(out, q * size, k * size, v)


def check_huge(out, q, k, v, causal=False):
    """Against loops in float64. The largest logit takes all, so a result is a row of v, or two mixed in a near tie."""
    assert q.isfinite().all() and k.isfinite().all()
    assert out.isfinite().all()
    if q.abs().max() < 1e4:  # beyond, float32 itself no longer says which of two keys is the nearest
        assert distance(out, reference.attention(q, k, v, causal)) < 2 * ROUNDOFF[v.dtype]
    assert out.abs().max() <= v.abs().max() * (1 + 2 * ROUNDOFF[v.dtype])


def test_without_the_upcast_such_logits_are_nan(device):
    """What these tests would find: float16 ends at 65504, where q k^T has its millions."""
    q, k, _ = projections(device, torch.float16)
    assert ((q * 100) @ (k * 100).mT).softmax(-1).isnan().any()
    assert (q * 100).isfinite().all()


# Whole networks, on weights that are rounded for both alike


@cache
def model(dtype, device):
    return golden_model("ldm", device, dtype)


@cache
def widened(dtype, device):
    """The golden model with the weights of `dtype`, computing in float32."""
    wide = deepcopy(model(dtype, device))
    for network in (wide.unet, wide.vae, wide.text_encoder):
        network.float()
    return wide


def unet_inputs(dtype, device):
    latents, t, context = (golden(f"unet.{key}", device) for key in ("latent", "timestep", "context"))
    return latents.to(dtype), t, context.to(dtype)


def mapped_everywhere(unet, maps):
    return {site: Hook(map=reading(lambda m, s=site: maps.update({s: m}))) for site in unet.sites}


def outcome(part, dtype, device, wide):
    """What one network makes of its golden input, rounded to dtype: in dtype, or in float32 on the same weights."""
    networks = widened(dtype, device) if wide else model(dtype, device)
    compute = torch.float32 if wide else dtype
    latents, t, context = (x.to(compute) if x.is_floating_point() else x for x in unet_inputs(dtype, device))
    if part == "text":
        return networks.text_encoder(golden("text.tokens", device))
    if part == "encoder":
        return networks.vae.encode(golden("vae.image", device).to(dtype).to(compute))
    if part == "decoder":
        scaled = golden("vae.latent", device) / networks.config.vae.scale_factor
        return networks.vae.decode(scaled.to(dtype).to(compute))
    return networks.unet(latents, t, context, mapped_everywhere(networks.unet, {}) if part == "mapped unet" else {})


@pytest.mark.parametrize("part", ["unet", "mapped unet", "text", "encoder", "decoder"])
@torch.no_grad()
def test_networks_in_half_precision_are_near_float32(part, device):
    """The bounds are in u: N = 60 to 100 roundings follow each other, so 5 u is expected, and 10 u is none too many.

    That the error in units of u is the same for both is the sharper test: a bug does not shrink eightfold.
    """
    errors = {}
    for dtype in HALVES:
        half = outcome(part, dtype, device, wide=False)
        assert half.dtype == dtype
        errors[dtype] = distance(half, outcome(part, dtype, device, wide=True))
        print(f"golden {part} in {dtype}: relative error {errors[dtype]:.1e}, {errors[dtype] / ROUNDOFF[dtype]:.1f} u")
        assert errors[dtype] < 10 * ROUNDOFF[dtype]
    assert 4 < errors[torch.bfloat16] / errors[torch.float16] < 16


@pytest.mark.parametrize("dtype", HALVES)
@torch.no_grad()
def test_maps_of_a_half_precision_network_are_near_float32(dtype, device):
    seen: dict[bool, dict] = {False: {}, True: {}}
    for wide, maps in seen.items():
        unet = (widened if wide else model)(dtype, device).unet
        latents, t, context = unet_inputs(dtype, device)
        compute = torch.float32 if wide else dtype
        unet(latents.to(compute), t, context.to(compute), mapped_everywhere(unet, maps))
    errors = {site: distance(seen[False][site], seen[True][site]) for site in seen[True]}
    worst = max(errors, key=errors.get)
    print(f"maps in {dtype}: largest relative error {errors[worst]:.1e} at {worst}")
    assert all(m.dtype == torch.float32 for m in seen[False].values())
    assert errors[worst] < 10 * ROUNDOFF[dtype]


@pytest.mark.parametrize("dtype", HALVES)
@torch.no_grad()
def test_a_float32_network_under_autocast_is_near_float32(dtype, device):
    unet, inputs = widened(torch.float16, device).unet, unet_inputs(torch.float32, device)
    for table in ({}, mapped_everywhere(unet, {})):
        with torch.autocast(device.type, dtype):
            out = unet(*inputs, table)
        error = distance(out, golden("unet.output", device))
        print(f"golden unet, {'mapped' if table else 'fused'}, under autocast to {dtype}: relative error {error:.1e}")
        assert error < 10 * ROUNDOFF[dtype]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
@torch.no_grad()
def test_a_network_whose_logits_overflow_half_precision_stays_finite(dtype, mapped, device):
    """Queries and keys 300 times larger: logits in the hundred thousands, where softmax picks one key for good."""
    unet = deepcopy(model(dtype, device).unet)
    for name, parameter in unet.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight")):
            parameter.mul_(300)
    largest = []

    def watch(q, k, v):
        largest.append((q.float() @ k.float().mT).abs().max().item())
        return q, k, v

    maps = {}
    table = mapped_everywhere(unet, maps) if mapped else {}
    watched = {site: table.get(site, Hook()).then(Hook(qkv=watch)) for site in unet.sites}
    out = unet(*unet_inputs(dtype, device), watched)
    assert max(largest) > 2 * torch.finfo(torch.float16).max
    assert out.isfinite().all()
    assert all(m.isfinite().all() for m in maps.values()) and len(maps) == mapped * len(unet.sites)
