"""Attention against loops in float64, with and without the map."""

import pytest
import reference
import torch
from tiny import assert_gradients_reach_everything, assert_rows_are_independent, distance, drawn, flash_dtype, normal
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import CrossAttention, Hook, SelfAttention, attend, mapped_attention, reading


def projections(device, rows=2, heads=3, n=6, m=5, width=4):
    return (
        normal(rows, heads, n, width, device=device, seed=1),
        normal(rows, heads, m, width, device=device, seed=2),
        normal(rows, heads, m, width, device=device, seed=3),
    )


@pytest.mark.parametrize("how", ["fused", "mapped"])
def test_attention_is_softmax_times_values(how, device):
    q, k, v = projections(device)
    out = attend(q, k, v) if how == "fused" else mapped_attention(q, k, v, lambda m: m)
    assert out.shape == q.shape and out.dtype == q.dtype
    assert distance(out, reference.attention(q, k, v)) < 1e-6  # float32 rounding of sums of 5


def test_causal_attention_hides_later_keys(device):
    q, k, v = projections(device, n=5, m=5)
    assert distance(attend(q, k, v, causal=True), reference.attention(q, k, v, causal=True)) < 1e-6


def test_fused_equals_mapped_in_float64(device):
    q, k, v = (x.double() for x in projections(device))
    assert distance(attend(q, k, v), mapped_attention(q, k, v, lambda m: m)) < 1e-14  # a bug would not shrink so far


def test_the_map_is_the_softmax(device):
    q, k, v = projections(device)
    maps = []
    mapped_attention(q, k, v, reading(maps.append))
    assert distance(maps[0], reference.attention_map(q, k)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_maps_are_at_least_float32_and_their_rows_sum_to_one(dtype, device):
    q, k, v = (x.to(dtype) for x in projections(device))
    maps = []
    out = mapped_attention(q, k, v, reading(maps.append))
    assert out.dtype == dtype
    assert maps[0].dtype == torch.promote_types(dtype, torch.float32)
    assert maps[0].min() >= 0
    torch.testing.assert_close(maps[0].sum(-1), torch.ones_like(maps[0][..., 0]), rtol=0, atol=1e-6)


def test_maps_stay_float32_under_autocast(device):
    q, k, v = projections(device)
    maps = []
    with torch.autocast(device.type, dtype=torch.bfloat16):
        mapped_attention(q, k, v, reading(maps.append))
    assert maps[0].dtype == torch.float32
    assert distance(maps[0], reference.attention_map(q, k)) < 1e-6  # bfloat16 products would miss by 1e-2


@pytest.mark.parametrize(("width", "learns", "exact"), [(16, True, True), (64, True, False), (16, False, False)])
def test_where_a_cpu_learns_in_bfloat16_narrow_heads_are_computed_in_float32(width, learns, exact):
    q, k, v = (torch.randn(2, 3, n, width, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (40, 50, 51))
    v = v[:, :, :50].requires_grad_()
    with torch.set_grad_enabled(learns), torch.autocast("cpu", torch.bfloat16):
        out = attend(q, k, v)
    wanted = attend(q.float(), k.float(), v.float())
    assert out.dtype == torch.bfloat16 and out.requires_grad == learns
    assert torch.equal(out, wanted.bfloat16()) == exact
    assert distance(out.double(), wanted.double()) < 1e-2  # 8 bits
    if learns:
        out.float().square().sum().backward()
        (slope,) = torch.autograd.grad(wanted.square().sum(), v)
        assert distance(v.grad.double(), slope.double()) < 2e-2


@pytest.mark.parametrize("how", ["fused", "mapped"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_huge_logits_in_half_precision_stay_finite(how, dtype, device):
    q, k, v = (x.to(dtype) for x in projections(device))
    q, k = q * 500, k * 500  # q k^T is about 1e6; float16 ends at 65504
    out = attend(q, k, v) if how == "fused" else mapped_attention(q, k, v, lambda m: m)
    assert out.isfinite().all()
    assert distance(out, reference.attention(q, k, v)) < 1e-2  # the rounding of v in half precision


def test_the_map_returned_is_the_one_used(device):
    q, k, v = projections(device, n=5, m=5)
    identity = torch.eye(5, device=device).expand(2, 3, 5, 5)
    assert torch.equal(mapped_attention(q, k, v, lambda m: identity), v)


def test_unmapped_attention_runs_on_the_flash_backend(device):
    q, k, v = (x.to(flash_dtype(device)) for x in projections(device, n=64, m=64, width=16))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert attend(q, k, v).isfinite().all()


def layer_and_inputs(kind, device):
    x = normal(2, 6, 12, device=device)
    if kind == "self":
        return drawn(SelfAttention(12, heads=3), device), (x,), x
    context = normal(2, 5, 8, device=device, seed=2)
    return drawn(CrossAttention(12, 8, heads=3), device), (x, context), context


@pytest.mark.parametrize("kind", ["self", "cross"])
class TestLayers:
    def test_equals_reference(self, kind, device):
        layer, inputs, context = layer_and_inputs(kind, device)
        out = layer(*inputs)
        assert out.shape == inputs[0].shape and out.dtype == torch.float32
        assert distance(out, reference.attention_layer(layer, inputs[0], context)) < 1e-6

    def test_mapped_equals_fused(self, kind, device):
        layer, inputs, _ = layer_and_inputs(kind, device)
        assert distance(layer(*inputs, hook=Hook(map=lambda m: m)), layer(*inputs)) < 1e-6

    def test_gradients_reach_everything(self, kind, device):
        layer, inputs, _ = layer_and_inputs(kind, device)
        assert_gradients_reach_everything(layer, lambda: layer(*inputs))

    def test_rows_are_independent(self, kind, device):
        layer, inputs, _ = layer_and_inputs(kind, device)
        assert_rows_are_independent(layer, *inputs)

    def test_output_is_taken_before_the_projection(self, kind, device):
        layer, inputs, _ = layer_and_inputs(kind, device)
        constant = normal(2, 6, 12, device=device, seed=9)
        replaced = layer(*inputs, hook=Hook(output=lambda out: constant))
        assert torch.equal(replaced, layer.to_out(constant))

    def test_swapping_queries_and_keys_equals_swapping_maps(self, kind, device):
        """Photoswap's M_target := M_source without ever building M: the map of (q_s, k_s), applied to v_t."""
        layer, inputs, _ = layer_and_inputs(kind, device)
        rows = [0, 0]
        fused = layer(*inputs, hook=Hook(qkv=lambda q, k, v: (q[rows], k[rows], v)))
        explicit = layer(*inputs, hook=Hook(map=lambda m: m[rows]))
        assert distance(fused, explicit) < 1e-6
        assert distance(fused, layer(*inputs)) > 1e-2  # and it does change the target
        assert torch.equal(fused[0], layer(*inputs)[0])

    def test_keys_of_two_rows_together(self, kind, device):
        """Every row looks at the keys of both, as one softmax over twice as many: against loops in float64."""
        layer, inputs, context = layer_and_inputs(kind, device)
        union = Hook(qkv=lambda q, k, v: (q, torch.cat([k, k.flip(0)], 2), torch.cat([v, v.flip(0)], 2)))
        both = torch.cat([context, context.flip(0)], dim=1)
        assert distance(layer(*inputs, hook=union), reference.attention_layer(layer, inputs[0], both)) < 1e-6


def test_cross_attention_takes_keys_and_values_made_before(device):
    layer, (x, context), _ = layer_and_inputs("cross", device)
    prepared = layer.keys_values(context)
    assert torch.equal(layer(x, prepared), layer(x, context))
    swap = Hook(qkv=lambda q, k, v: (q, k[[0, 0]], v[[0, 0]]), map=lambda m: m)
    assert torch.equal(layer(x, prepared, swap), layer(x, context, swap))
