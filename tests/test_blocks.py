"""Convolutional blocks and the embedding of time against loops in float64."""

import pytest
import reference
import torch
from tiny import assert_gradients_reach_everything, assert_rows_are_independent, distance, drawn, normal

from models import Downsample, ResBlock, TimeEmbedding, Upsample, timestep_embedding


def test_timesteps_are_embedded_cosines_first(device):
    t = [0, 1, 500, 999]
    embedded = timestep_embedding(torch.tensor(t, device=device), 32)
    assert embedded.dtype == torch.float32
    assert embedded[0].tolist() == [1.0] * 16 + [0.0] * 16
    # float32 angles up to 999 are known to 3e-5
    torch.testing.assert_close(embedded.cpu().double(), reference.timestep_embedding(t, 32), rtol=0, atol=2e-4)


def test_timesteps_are_embedded_exactly_in_float64(device):
    embedded = timestep_embedding(torch.tensor([3, 999], device=device), 32, torch.float64)
    assert distance(embedded, reference.timestep_embedding([3, 999], 32)) < 1e-12


def test_time_embedding_is_an_mlp_of_sinusoids(device):
    embedding = drawn(TimeEmbedding(8), device)
    t = torch.tensor([3, 700], device=device)
    hidden = reference.silu(reference.linear(embedding.linear1, timestep_embedding(t, 8)))
    assert distance(embedding(t), reference.linear(embedding.linear2, hidden)) < 1e-6
    assert_gradients_reach_everything(embedding, lambda: embedding(t))


CASES = [(8, 8, 16), (8, 12, 16), (8, 12, None)]


@pytest.mark.parametrize(("wide_in", "wide_out", "time_channels"), CASES)
def test_res_block(wide_in, wide_out, time_channels, device):
    block = drawn(ResBlock(wide_in, wide_out, groups=4, time_channels=time_channels), device)
    x = normal(2, wide_in, 6, 5, device=device)
    times = () if time_channels is None else (normal(2, time_channels, device=device, seed=2),)
    out = block(x, *times)
    assert out.shape == (2, wide_out, 6, 5) and out.dtype == torch.float32
    assert distance(out, reference.res_block(block, x, *times)) < 1e-6
    assert (block.shortcut is None) == (wide_in == wide_out)
    assert_gradients_reach_everything(block, lambda: block(x, *times))
    assert_rows_are_independent(block, x, *times)


def test_a_missing_or_useless_time_embedding_is_refused(device):
    x, time = normal(2, 8, 4, 4, device=device), normal(2, 16, device=device)
    with pytest.raises(ValueError, match="built with time_channels and got no time embedding"):
        ResBlock(8, 8, groups=4, time_channels=16).to(device)(x)
    with pytest.raises(ValueError, match=r"time is \(2, 16\); this ResBlock was built without time_channels"):
        ResBlock(8, 8, groups=4).to(device)(x, time)


def test_a_zeroed_res_block_starts_as_its_shortcut(device):
    block = ResBlock(8, 8, groups=4, time_channels=16, zero=True).to(device)
    x = normal(2, 8, 4, 4, device=device)
    assert torch.equal(block(x, normal(2, 16, device=device)), x)


@pytest.mark.parametrize("symmetric", [True, False])
def test_downsample_pads_all_around_or_right_and_bottom(symmetric, device):
    layer = drawn(Downsample(3, symmetric), device)
    x = normal(2, 3, 6, 8, device=device)
    padding = (1, 1, 1, 1) if symmetric else (0, 1, 0, 1)
    out = layer(x)
    assert out.shape == (2, 3, 3, 4)
    assert distance(out, reference.convolution(layer.conv, reference.pad(x, *padding), stride=2)) < 1e-6
    assert_gradients_reach_everything(layer, lambda: layer(x))
    assert_rows_are_independent(layer, x)


def test_upsample_repeats_pixels_then_smooths(device):
    layer = drawn(Upsample(3), device)
    x = normal(2, 3, 2, 4, device=device)
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    out = layer(x)
    assert out.shape == (2, 3, 4, 8)
    assert distance(out, reference.convolution(layer.conv, reference.pad(repeated, 1, 1, 1, 1))) < 1e-6
    assert_gradients_reach_everything(layer, lambda: layer(x))
    assert_rows_are_independent(layer, x)
