"""The autoencoder: against stored outputs, and what is asked of any network."""

import golden_bounds
import pytest
import reference
import torch
from golden_bounds import assert_golden
from golden_model import golden_model
from tiny import VAE, assert_gradients_reach_everything, assert_rows_are_independent, distance, drawn, normal

from models import SD21, Autoencoder
from models.vae import ImageAttention


@pytest.fixture
def vae(device):
    return drawn(Autoencoder(VAE), device).requires_grad_(False)


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_moments_and_reconstruction_are_the_golden_ones(layout, device):
    assert_golden(golden_bounds.vae_distance(golden_model(layout, device), device), device)


def test_both_layouts_are_bitwise_the_same_network(device):
    ldm, diffusers = (golden_model(layout, device).vae.state_dict() for layout in ("ldm", "diffusers"))
    assert ldm.keys() == diffusers.keys()
    assert all(torch.equal(ldm[key], diffusers[key]) for key in ldm)


def test_parameter_count_is_the_published_one():
    with torch.device("meta"):
        assert sum(p.numel() for p in Autoencoder(SD21.vae).parameters()) == 83_653_863


def test_shapes_of_non_square_pictures(vae, device):
    moments = vae.encode(normal(2, 3, 16, 40, device=device))
    assert moments.shape == (2, 8, 2, 5) and moments.dtype == torch.float32
    assert vae.decode(vae.mean(moments)).shape == (2, 3, 16, 40)


def test_the_decoder_has_one_block_a_level_more(vae):
    assert [len(level.resblocks) for level in vae.encoder.down] == [1] * 4
    assert [len(level.resblocks) for level in vae.decoder.up] == [2] * 4
    assert [level.downsample is None for level in vae.encoder.down] == [False, False, False, True]
    assert [level.upsample is None for level in vae.decoder.up] == [False, False, False, True]


def test_attention_over_places(device):
    layer = drawn(ImageAttention(8, groups=4), device)
    x = normal(2, 8, 3, 2, device=device)
    tokens = reference.group_norm(layer.norm, x).flatten(2).mT
    expected = reference.attention_layer(layer, tokens, tokens).mT.reshape(2, 8, 3, 2)
    assert distance(layer(x), reference.exact(x) + expected) < 1e-6
    assert_gradients_reach_everything(layer, lambda: layer(x))


def test_log_variance_is_held_within_bounds(vae, device):
    moments = torch.cat([torch.zeros(1, 4, 1, 1), torch.tensor([-1e4, -30.0, 3.0, 1e4]).reshape(1, 4, 1, 1)], dim=1)
    mean, log_variance = vae.split(moments.to(device))
    assert not mean.any()
    assert log_variance.flatten().tolist() == [-30.0, -30.0, 3.0, 20.0]


def test_samples_have_the_moments(vae, device):
    mean, log_variance = torch.full((1, 4, 64, 64), 2.0), torch.full((1, 4, 64, 64), -2.0)
    moments = torch.cat([mean, log_variance], dim=1).to(device)
    drawn_latents = vae.sample(moments, torch.Generator().manual_seed(0))
    assert drawn_latents.device.type == device.type
    assert abs(drawn_latents.mean().item() - 2.0) < 0.02  # 16384 draws: standard error 0.003
    assert abs(drawn_latents.std().item() - torch.tensor(-1.0).exp().item()) < 0.02
    again = vae.sample(moments, torch.Generator().manual_seed(0))
    assert torch.equal(drawn_latents, again)


def test_gradients_reach_everything(device):
    vae = drawn(Autoencoder(VAE), device)
    images, generator = normal(2, 3, 16, 16, device=device), torch.Generator()
    assert_gradients_reach_everything(vae, lambda: vae.decode(vae.sample(vae.encode(images), generator)))


def test_rows_are_independent(vae, device):
    assert_rows_are_independent(lambda x: vae.decode(vae.mean(vae.encode(x))), normal(2, 3, 16, 16, device=device))


@pytest.mark.parametrize("shape", [(1, 3, 12, 16), (1, 3, 16, 20), (1, 4, 16, 16), (3, 16, 16)])
def test_pictures_of_another_shape_are_refused(shape, vae, device):
    with pytest.raises(ValueError, match=r"images are \(.*\); the encoder wants \(b, 3, h, w\).*multiples of 8"):
        vae.encode(normal(*shape, device=device))


@pytest.mark.parametrize("shape", [(1, 8, 2, 2), (4, 2, 2)])
def test_latents_of_another_shape_are_refused(shape, vae, device):
    with pytest.raises(ValueError, match=r"latents are \(.*\); the decoder wants \(b, 4, h, w\)"):
        vae.decode(normal(*shape, device=device))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_float32(dtype, vae, device):
    latents = normal(1, 4, 2, 2, device=device)
    wide = vae.decode(latents)
    half = vae.to(dtype).decode(latents.to(dtype))
    assert half.dtype == dtype
    assert distance(half, wide) < (1e-2 if dtype == torch.float16 else 6e-2)  # about fifteen layers of rounding
