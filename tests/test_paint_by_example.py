"""Paint by Example, whole: every stored number of the official code, from pictures to painted pictures."""

import pytest
import torch
from golden_paint import (
    CONFIG,
    SINGLE,
    TRAJECTORY,
    digests,
    folder_state,
    golden_mask,
    golden_painter,
    paint_golden,
    picture,
    stored_digests,
    write_folder,
)
from tiny import distance

from models.hooks import Hook, reading
from models.images import to_tensor
from models.inpainting import latent_mask, left_of, painting
from models.paint_by_example import PaintByExample, reference_tensor
from samplers import Schedule, guided_eps, plms, walk
from weights.load import load_as


@pytest.fixture(scope="module")
def painter(device):
    model = golden_painter(device)
    for network in model.networks.values():
        network.requires_grad_(False)
    return model


def close(found, key, device, tolerance=SINGLE):
    assert distance(found, paint_golden(key, device)) < tolerance, key


def references(device):
    """The stored reference, and the same mirrored."""
    pixels = reference_tensor(picture("reference.image")).to(device)
    return torch.cat([pixels, pixels.flip(-1)])


def test_the_reference_becomes_one_token(painter, device):
    """4e-7 at most; the pixels exactly."""
    pixels = references(device)
    assert torch.equal(pixels[:1], paint_golden("reference.pixels", device))
    pooled = painter.image_encoder.tower(pixels)
    close(pooled, "reference.pooled", device)
    close(painter.image_encoder.map(pooled), "reference.mapped", device)
    close(painter.encode_reference(pixels), "reference.context", device)
    assert torch.equal(painter.unconditional(), paint_golden("reference.empty", device))


def test_the_picture_without_its_masked_part(painter, device):
    """1.0e-6 and 5e-7; the mask exactly, with its edges of 127 and 128."""
    mask = golden_mask(device)
    assert {127, 128} <= set(paint_golden("mask", device).unique().tolist())
    assert torch.equal(1 - mask, paint_golden("masked.keep", device))
    image = to_tensor(picture("image"))[None].to(device)
    moments = painter.vae.encode(left_of(image, mask))
    close(moments, "masked.moments", device)
    mean, log_variance = painter.vae.split(moments)
    drawn = mean + (0.5 * log_variance).exp() * paint_golden("masked.noise", device)
    close(drawn * CONFIG.vae.scale_factor, "masked.latent", device)


@pytest.mark.parametrize("resize", ["bilinear", "antialiased", "nearest"])
def test_the_mask_at_the_size_of_latents(painter, resize, device):
    found = 1 - latent_mask(golden_mask(device), 8, resize)
    assert (found - paint_golden(f"mask.{resize}", device)).abs().max() < 1e-6  # exact on the CPU


def test_the_channels_beside_the_latents(painter, device):
    """In the order of training: the rest of the picture, then where it is kept."""
    image, mask = to_tensor(picture("image"))[None].to(device), golden_mask(device)
    beside = painter.surroundings(image, mask)
    mean = painter.vae.split(paint_golden("masked.moments", device))[0] * CONFIG.vae.scale_factor
    assert distance(beside[:, :4], mean) < SINGLE
    assert (beside[:, 4:] - paint_golden("mask.bilinear", device)).abs().max() < 1e-6
    nearest = painter.surroundings(image, mask, resize="nearest")[:, 4:]
    assert torch.equal(nearest, paint_golden("mask.nearest", device))
    stored = paint_golden("unet.input", device)[:1, 4:]
    assert torch.equal(painter.beside(stored[:, :4], 1 - stored[:, 4:]), stored)
    drawn = [painter.surroundings(image, mask, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][:, :4], beside[:, :4]) and torch.equal(drawn[0][:, 4:], beside[:, 4:])


def unet_inputs(device):
    return (paint_golden(f"unet.{key}", device) for key in ("input", "timestep", "context"))


def test_one_call_of_the_unet(painter, device):
    """1.3e-6."""
    close(painter.unet(*unet_inputs(device)), "unet.output", device)


def test_hooks_have_the_addresses_they_have_elsewhere(painter, device):
    """A context of one token leaves a softmax nothing to choose: A is one everywhere, and psi the token's values."""
    maps, outputs = {}, {}
    cross = [site for site in painter.unet.sites if site.kind == "cross"]
    table = {
        site: Hook(
            map=reading(lambda x, s=site: maps.update({s: x})),
            output=reading(lambda x, s=site: outputs.update({s: x})),
        )
        for site in cross
    }
    latents, t, context = unet_inputs(device)
    hooked = painter.unet(latents, t, context, table)
    assert len(cross) == 10 and list(maps) == cross
    for site in cross:
        assert maps[site].shape[-1] == 1 and torch.equal(maps[site], torch.ones_like(maps[site]))
        assert (outputs[site] - outputs[site][:, :1]).abs().max() < 1e-6  # the same at every place
    close(hooked, "unet.output", device)
    prepared = painter.unet(latents, t, painter.unet.prepare_context(context))
    assert torch.equal(prepared, painter.unet(latents, t, context))


def trajectory(painter, device, walk, mask):
    """Ten guided steps as the script has them, start first; and the network's outputs in the order called."""
    schedule, calls = Schedule(prediction="eps"), []
    rest, start = paint_golden("masked.latent", device), paint_golden("start", device)
    network = painting(painter.unet, painter.beside(rest, 1 - paint_golden(f"mask.{mask}", device)))

    def noting(latents, t, context):
        calls.append(network(latents, t, context))
        return calls[-1]

    eps = guided_eps(noting, schedule, painter.unconditional(), paint_golden("reference.context", device)[:1], 5.0)
    assert schedule.timesteps(10) == paint_golden("timesteps", device).tolist()
    return torch.cat([start, *walk(eps, start, schedule.sampling(10))]), torch.stack(calls)


def test_plms_is_the_official_one(painter, device):
    """1.8e-6; the second call is the first step's other half."""
    latents, calls = trajectory(painter, device, plms.walk, "bilinear")
    close(latents, "plms.latents", device, TRAJECTORY)
    close(calls, "plms.calls", device, TRAJECTORY)
    close((painter.decode(latents[-1:]) + 1) / 2, "plms.image", device, TRAJECTORY)


def test_plms_with_the_mask_of_other_tools(painter, device):
    """1.8e-6; with the official mask it ends 3.7e-2 away."""
    latents, _ = trajectory(painter, device, plms.walk, "nearest")
    close(latents, "plms.nearest.latents", device, TRAJECTORY)
    assert distance(latents[-1:], paint_golden("plms.latents", device)[-1:]) > 1e-2


def test_ddim_is_the_official_one(painter, device):
    """1.8e-6."""
    latents, calls = trajectory(painter, device, walk, "bilinear")
    close(latents, "ddim.latents", device, TRAJECTORY)
    close(calls, "ddim.calls", device, TRAJECTORY)


def test_alpha_bar_is_the_official_one(painter, device):
    assert (painter.schedule.alpha_bar.to(device) - paint_golden("schedule.alphas_cumprod", device)).abs().max() < 1e-6


def test_every_tensor_is_in_the_other_librarys_file_under_the_name_we_give_it():
    """The two layouts are stored once, so the hashes of the other one's tensors stand for it."""
    assert {network: digests(state) for network, state in folder_state().items()} == stored_digests()


def test_the_other_layout_is_the_same_model(painter, tmp_path, device):
    """Its own small files say what it is, the image encoder's flat; nothing is told by us."""
    other = load_as(PaintByExample, write_folder(tmp_path / "golden-paint"), device)
    assert other.config == CONFIG
    for name, network in painter.networks.items():
        state = other.networks[name].state_dict()
        assert state.keys() == network.state_dict().keys()
        assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
