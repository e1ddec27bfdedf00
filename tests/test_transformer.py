"""The transformer inside the U-Net against loops in float64."""

import reference
import torch
from tiny import assert_gradients_reach_everything, assert_rows_are_independent, distance, drawn, normal

from models import GEGLU, Hook, Site, SpatialTransformer, TransformerBlock

SITE = Site("up", 1, 0, "self")


def test_geglu_gates_the_first_half_with_the_second(device):
    layer = drawn(GEGLU(6), device)
    x = normal(2, 5, 6, device=device)
    assert layer(x).shape == x.shape
    assert distance(layer(x), reference.geglu(layer, x)) < 1e-6
    assert_gradients_reach_everything(layer, lambda: layer(x))
    assert_rows_are_independent(layer, x)


def test_transformer_block(device):
    block = drawn(TransformerBlock(12, 8, heads=3, site=SITE), device)
    x, context = normal(2, 6, 12, device=device), normal(2, 5, 8, device=device, seed=2)
    out = block(x, context)
    assert out.shape == x.shape and out.dtype == torch.float32
    assert distance(out, reference.transformer_block(block, x, context)) < 1e-6
    assert_gradients_reach_everything(block, lambda: block(x, context))
    assert_rows_are_independent(block, x, context)


def test_a_transformer_block_looks_its_two_sites_up(device):
    block = drawn(TransformerBlock(12, 8, heads=3, site=SITE), device)
    x, context = normal(2, 6, 12, device=device), normal(2, 5, 8, device=device, seed=2)
    assert [str(block.self_site), str(block.cross_site)] == ["up.1.0.self", "up.1.0.cross"]
    silent = Hook(output=torch.zeros_like)
    out = block(x, context, {block.self_site: silent, block.cross_site: silent})
    moved = x + block.attn1.to_out.bias
    moved = moved + block.attn2.to_out.bias
    torch.testing.assert_close(out, moved + block.ff(block.norm3(moved)), rtol=1e-5, atol=1e-6)


def test_spatial_transformer(device):
    layer = drawn(SpatialTransformer(12, 8, heads=3, groups=4, site=SITE, depth=2), device)
    x, context = normal(2, 12, 2, 3, device=device), normal(2, 5, 8, device=device, seed=2)
    out = layer(x, context)
    assert out.shape == x.shape and out.dtype == torch.float32
    assert distance(out, reference.spatial_transformer(layer, x, context)) < 1e-6
    assert [str(block.self_site) for block in layer.blocks] == ["up.1.0.self", "up.1.1.self"]
    assert_gradients_reach_everything(layer, lambda: layer(x, context))
    assert_rows_are_independent(layer, x, context)


def test_a_fresh_spatial_transformer_starts_as_the_identity(device):
    layer = SpatialTransformer(12, 8, heads=3, groups=4, site=SITE).to(device)
    x = normal(2, 12, 2, 3, device=device)
    assert torch.equal(layer(x, normal(2, 5, 8, device=device)), x)
