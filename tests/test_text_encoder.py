"""The text encoder: against stored outputs, and what is asked of any network."""

from dataclasses import replace

import golden_bounds
import pytest
import reference
import torch
from golden_bounds import assert_golden
from golden_model import golden_model
from tiny import TEXT, assert_gradients_reach_everything, distance, drawn

from models import SD15, SD21, TextEncoder


def tokens(device, rows=2):
    ids = torch.randint(1, 49408, (rows, 77), generator=torch.Generator().manual_seed(3))
    return ids.to(device)


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_context_is_the_golden_one(layout, device):
    assert_golden(golden_bounds.text_distance(golden_model(layout, device), device), device)


def test_both_layouts_are_bitwise_the_same_network(device):
    ldm, diffusers = (golden_model(layout, device).text_encoder.state_dict() for layout in ("ldm", "diffusers"))
    assert ldm.keys() == diffusers.keys()
    assert all(torch.equal(ldm[key], diffusers[key]) for key in ldm)


@pytest.mark.parametrize(("config", "count"), [(SD21, 340_387_840), (SD15, 123_060_480)], ids=["sd21", "sd15"])
def test_parameter_counts_are_the_published_ones(config, count):
    """Those of ViT-H/14 without its last layer, and of ViT-L/14."""
    with torch.device("meta"):
        assert sum(p.numel() for p in TextEncoder(config.text).parameters()) == count


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_equals_reference(activation, device):
    encoder = drawn(TextEncoder(replace(TEXT, activation=activation)), device)
    ids = tokens(device, rows=1)
    x = reference.exact(encoder.token_embedding.weight)[ids.cpu()] + reference.exact(encoder.position_embedding.weight)
    for layer in encoder.layers:
        x = reference.clip_layer(layer, x, getattr(reference, activation), causal=True)
    out = encoder(ids)
    assert out.shape == (1, 77, 24) and out.dtype == torch.float32
    assert distance(out, reference.layer_norm(encoder.final_norm, x)) < 1e-5


def test_only_the_layers_that_run_exist():
    assert len(TextEncoder(TEXT).layers) == TEXT.layers < TEXT.stored_layers


def test_a_token_sees_only_those_before_it(device):
    encoder = drawn(TextEncoder(TEXT), device)
    ids = tokens(device)
    changed = ids.clone()
    changed[:, 40] += 1
    before, after = encoder(ids), encoder(changed)
    torch.testing.assert_close(after[:, :40], before[:, :40], rtol=1e-5, atol=1e-6)
    assert (after[:, 40:] - before[:, 40:]).abs().amax(-1).min() > 1e-6


def test_gradients_reach_everything_and_checkpointing_changes_none(device):
    encoder = drawn(TextEncoder(TEXT), device)
    gradients = []
    for encoder.gradient_checkpointing in (False, True):
        assert_gradients_reach_everything(encoder, lambda: encoder(tokens(device)))
        gradients.append({name: p.grad.clone() for name, p in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("enabled", "runs"), [(False, 1), (True, 2)])
def test_checkpointing_runs_every_layer_twice(enabled, runs, device):
    encoder = drawn(TextEncoder(TEXT), device)
    encoder.gradient_checkpointing = enabled
    ran = []
    for i, layer in enumerate(encoder.layers):
        layer.norm2.register_forward_hook(lambda *_, i=i: ran.append(i))
    encoder(tokens(device)).sum().backward()
    assert sorted(ran) == sorted(list(range(TEXT.layers)) * runs)


def test_rows_are_independent(device):
    encoder = drawn(TextEncoder(TEXT), device)
    ids = tokens(device)
    alone = encoder(ids[:1])
    torch.testing.assert_close(encoder(ids)[:1], alone, rtol=1e-5, atol=1e-5)  # a batch may sum in another order


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_float32(dtype, device):
    encoder = drawn(TextEncoder(TEXT), device)
    wide, half = encoder(tokens(device)), encoder.to(dtype)(tokens(device))
    assert half.dtype == dtype
    assert distance(half, wide) < (1e-2 if dtype == torch.float16 else 6e-2)


def test_the_encoder_compiles_whole(device):
    encoder = drawn(TextEncoder(TEXT), device)
    torch._dynamo.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")(tokens(device))
    assert distance(compiled, encoder(tokens(device))) < 1e-6


def test_other_shapes_are_refused(device):
    encoder = TextEncoder(TEXT).to(device)
    with pytest.raises(ValueError, match=r"tokens are torch\.int64 \(2, 76\); wanted integers of shape \(b, 77\)"):
        encoder(tokens(device)[:, :76])
    with pytest.raises(ValueError, match=r"tokens are torch\.float32"):
        encoder(tokens(device).float())
