"""train.miniature: the drawn data, the autoencoder, the diffusion, and all of it in a row at a tiny size."""

from dataclasses import replace
from functools import partial
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import assert_gradients_reach_everything, distance, drawn, normal
from tiny_model import tiny_config
from torch import nn

from models.vae import Autoencoder
from train.miniature import autoencoder, data, diffusion, export
from train.miniature.autoencoder import (
    batch,
    deepened,
    edges,
    held_out,
    reconstruction_loss,
    reconstruction_psnr,
    whiten,
)
from train.miniature.data import SHARES, draw_chunk
from train.miniature.diffusion import Diffusion, EncodedPictures, HeldOut, encode_pictures, timesteps
from train.world import caption
from weights.load import load as load_model

SIDE = 64


@pytest.fixture
def tiny(monkeypatch):
    """Chunks of three pictures of 64 px, and networks of the size of tests."""
    for room in (data, autoencoder, diffusion):
        monkeypatch.setattr(room, "SIZE", SIDE)
    for room in (autoencoder, diffusion):
        monkeypatch.setattr(room, "MINIATURE", tiny_config())
    monkeypatch.setattr(data, "CHUNK_SIZE", 3)
    monkeypatch.setattr(data, "Pool", ThreadPool)  # which sees the smaller numbers


def call(monkeypatch, room, **options):
    monkeypatch.setattr("sys.argv", [room.__name__, *(f"--{name}={value}" for name, value in options.items())])
    room.main()


def tiny_vae(device, seed=0):
    return drawn(Autoencoder(tiny_config().vae), device, seed).requires_grad_(False)


def pictures(count, side=SIDE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


# Autoencoder


def test_a_batch_is_of_crops_and_mirrored_crops():
    """Each pixel of this picture says where it is: red its column, green its row, blue which picture."""
    y, x = np.mgrid[:128, :128].astype(np.uint8)
    chunks = [np.stack([np.dstack([x, y, np.full_like(x, 2 * chunk + i)]) for i in (0, 1)]) for chunk in (0, 1)]
    subjects = np.zeros((2, 2, 128, 128), bool)
    subjects[:, :, 90:100, 20:40] = True
    images, masks = batch(chunks, [np.packbits(part, axis=-1) for part in subjects], 64, 64, np.random.default_rng(0))
    assert images.shape == (64, 3, 64, 64) and images.dtype == torch.float32
    column, row, which = ((images + 1) * 127.5).round().long().unbind(1)
    assert torch.equal(which, which[:, :1, :1].expand_as(which)) and set(which.flatten().tolist()) == {0, 1, 2, 3}
    assert (row.diff(dim=1) == 1).all() and (row[:, 0, 0] % 8 == 0).all() and len(row[:, 0, 0].unique()) > 5
    steps = column.diff(dim=2)[:, 0, 0]
    assert (column.diff(dim=2) == steps[:, None, None]).all() and set(steps.tolist()) == {1, -1}
    assert (column.amin((1, 2)) % 8 == 0).all()
    assert torch.equal(masks, (row >= 90) & (row < 100) & (column >= 20) & (column < 40))
    assert masks.any(2).any(1).float().mean() > 0.6  # three quarters are aimed at it; chance meets it with 0.31


def test_a_batch_fills_the_range():
    white = np.stack([np.zeros((128, 128, 3), np.uint8), np.full((128, 128, 3), 255, np.uint8)])
    images, masks = batch([white], [np.zeros((2, 128, 16), np.uint8)], 8, 128, rng())
    assert not masks.any()
    assert images.min() == -1 and images.max() == 1 and images.shape == (8, 3, 128, 128)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_edges_are_differences_of_neighbours():
    across, down = edges(torch.arange(12.0).reshape(1, 1, 3, 4))
    assert across.shape == (1, 1, 3, 3) and down.shape == (1, 1, 2, 4)
    assert (across == 1).all() and (down == 4).all()


def test_the_autoencoders_loss_reaches_every_parameter(device):
    model, images = tiny_vae(device), normal(2, 3, 32, 32, device=device).clamp(-1, 1)
    loss, square = reconstruction_loss(model, images, torch.Generator().manual_seed(0), 1e-4)
    assert loss.isfinite() and loss > 2 * square > 0
    again, _ = reconstruction_loss(model, images, torch.Generator().manual_seed(0), 1e-4)
    assert torch.equal(loss, again)
    assert_gradients_reach_everything(model, lambda: reconstruction_loss(model, images, torch.Generator(), 1e-4)[0])


def test_the_pull_is_the_divergence_from_a_unit_gaussian(device):
    """Between the Gaussian of the moments and N(0, 1), as torch.distributions has it; summed over channels."""
    model, images = tiny_vae(device), normal(2, 3, 32, 32, device=device).clamp(-1, 1)
    without, whole = (
        reconstruction_loss(model, images, torch.Generator().manual_seed(0), weight)[0] for weight in (0.0, 1.0)
    )
    mean, log_variance = model.split(model.encode(images))
    ours, unit = torch.distributions.Normal(mean, (0.5 * log_variance).exp()), torch.distributions.Normal(0.0, 1.0)
    wanted = torch.distributions.kl_divergence(ours, unit).sum(1).mean()
    torch.testing.assert_close(whole - without, wanted, rtol=1e-3, atol=1e-4)  # a small difference of two sums


def test_whitening_changes_latents_and_no_picture(device):
    model, images = tiny_vae(device), normal(60, 3, 32, 32, device=device, seed=3).clamp(-1, 1)
    before, moments = model.decode(model.mean(model.encode(images))), model.encode(images)
    whiten(model, images)
    again = model.encode(images)
    latents = model.mean(again) * model.config.scale_factor
    # sums over 60 x 16 numbers in float32, and a gain of some tens on their rounding
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4, device=device), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4, device=device), rtol=1e-4, atol=0)
    assert distance(model.decode(model.mean(again)), before) < 1e-5
    gain = model.mean(again).std((0, 2, 3)) / model.mean(moments).std((0, 2, 3))
    spread = again.chunk(2, 1)[1] - moments.chunk(2, 1)[1]
    torch.testing.assert_close(spread, 2 * gain.log()[:, None, None].expand_as(spread), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("error", "decibels"), [(0.0, float("inf")), (0.2, 20.0), (0.002, 60.0)])
def test_psnr_is_of_the_whole_range(error, decibels):
    """The range is 2 wide: 10 log10(4 / error^2)."""
    same = lambda x: x  # noqa: E731
    model = SimpleNamespace(encode=same, mean=same, decode=lambda x: x + error)
    images = torch.zeros(60, 3, 8, 8, dtype=torch.float64)
    assert reconstruction_psnr(model, images) == pytest.approx(decibels)
    far = SimpleNamespace(encode=same, mean=same, decode=lambda x: 5 * x)
    assert reconstruction_psnr(far, images + 1) == float("inf")  # clipped


def test_the_subject_counts_three_times(device):
    """An error of one everywhere costs the same with masks and without; one inside the subject costs more."""
    same = lambda x: x  # noqa: E731
    images, subjects = torch.zeros(1, 3, 8, 8, device=device), torch.zeros(1, 8, 8, dtype=torch.bool, device=device)
    subjects[:, :4] = True

    def loss(error, masks):
        model = SimpleNamespace(
            encode=same, split=lambda x: (x, torch.full_like(x, -100.0)), decode=lambda x: x + error
        )
        return float(reconstruction_loss(model, images, torch.Generator(), 0.0, masks)[0])

    inside = subjects[:, None].float()
    assert loss(1.0, subjects) == pytest.approx(loss(1.0, None)) == pytest.approx(4.5)
    assert loss(inside, subjects) - loss(1 - inside, subjects) == pytest.approx(4.5 * (0.75 - 0.25))


def test_a_deeper_autoencoder_starts_as_the_shallower_one(device):
    config = replace(tiny_config().vae, res_blocks=1)
    shallow, deep = (drawn(Autoencoder(replace(config, res_blocks=n)), device, n) for n in (1, 2))
    deep.load_state_dict(deepened(deep, shallow.state_dict()))
    images = normal(2, 3, 32, 32, device=device)
    with torch.no_grad():
        assert torch.equal(deep.encode(images), shallow.encode(images))
        assert torch.equal(
            deep.decode(shallow.mean(deep.encode(images))), shallow.decode(shallow.mean(shallow.encode(images)))
        )
    assert sum(p.numel() for p in deep.parameters()) > sum(p.numel() for p in shallow.parameters())


@pytest.mark.parametrize("mixed", [False, True])
def test_what_is_held_out_was_never_trained_on(mixed):
    images, masks = held_out("small", 12, mixed=mixed)
    again, _ = held_out("small", 12, mixed=mixed)
    assert images.shape == (12, 3, 128, 128) and masks.shape == (12, 128, 128) and masks.dtype == torch.bool
    assert torch.equal(images, again) and (masks.float().mean((1, 2)) > 0.03).all()


# Diffusion


@pytest.mark.parametrize("count", [1, 7, 10, 128])
def test_timesteps_are_spread_over_the_whole_range(count):
    t = timesteps(count, rng())
    assert t.dtype == torch.int64 and t.shape == (count,) and t.min() >= 0 and t.max() <= 999
    ordered = t.sort().values.double()
    place = torch.arange(count, dtype=torch.float64) * 1000 / count
    assert (ordered >= place.floor()).all() and (ordered <= place + 1000 / count).all()
    assert count == 1 or not torch.equal(t, t.sort().values)


def test_every_timestep_comes_as_often():
    random = rng()
    counts = torch.bincount(torch.cat([timesteps(8, random) for _ in range(2500)]), minlength=1000)
    assert counts.shape == (1000,) and counts.float().mean() == 20
    assert counts.float().var() == pytest.approx(20, rel=0.25)  # as of 20000 independent draws, nearly


def question(model, device, rows=3):
    """Of latents twice as wide as the coarsest level needs: a map over one token has no gradient."""
    latents, noise = (normal(rows, 4, 16, 16, device=device, seed=seed) for seed in (1, 2))
    tokens = torch.arange(rows * 77, device=device).reshape(rows, 77)
    return model.loss(latents, tokens, torch.tensor([10, 500, 990])[:rows], noise)


def test_the_loss_is_finite_and_reaches_every_parameter(tiny, device):
    model = drawn(Diffusion(), device)
    assert question(model, device).isfinite()
    assert_gradients_reach_everything(model, lambda: question(model, device))


def test_the_loss_is_of_the_velocity(tiny, device):
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (arXiv:2202.00512): who answers that has no loss left."""
    model, latents, noise = Diffusion(), *(normal(2, 4, 8, 8, device=device, seed=seed) for seed in (1, 2))
    t = torch.tensor([10, 900])
    alpha = model.schedule.alpha_bar[t][:, None, None, None].to(device)
    v = (alpha.sqrt() * noise - (1 - alpha).sqrt() * latents).float()
    model.unet, model.text = Says(v), nn.Identity()
    assert model.loss(latents, torch.zeros(2, 77, device=device), t, noise) < 1e-10  # float32 rounding, squared
    model.unet = Says(noise)
    assert model.loss(latents, torch.zeros(2, 77, device=device), t, noise) > 0.1


class Says(nn.Module):
    """One answer to everything."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, latents, t, context):
        return self.answer


def test_every_picture_is_encoded_with_its_mirror_image(device):
    model, images = tiny_vae(device), pictures(5)
    latents = encode_pictures(model, images, count=2)
    assert latents.shape == (5, 2, 4, 8, 8) and latents.dtype == np.float16
    flipped = encode_pictures(model, images[:, :, ::-1], count=3)
    assert np.allclose(flipped, latents[:, ::-1], rtol=1e-2, atol=1e-3)  # float16, and batches of another size
    assert not np.allclose(latents[:, 0], latents[:, 1], atol=0.05)
    image = torch.from_numpy(images[3]).permute(2, 0, 1)[None].to(device) / 127.5 - 1
    wanted = model.mean(model.encode(image))[0] * model.config.scale_factor
    assert distance(torch.from_numpy(latents[3, 0]), wanted) < 1e-3  # float16 keeps eleven bits


@pytest.fixture
def drawn_folder(tiny, tmp_path, device):
    """Two chunks, and an autoencoder."""
    for number in (0, 1):
        draw_chunk(("small", 0, SHARES, False, number, tmp_path))
    torch.save(tiny_vae(device).state_dict(), tmp_path / "autoencoder.pt")
    return tmp_path


def test_latents_are_encoded_once_and_drawn_with_their_captions(drawn_folder, device, monkeypatch):
    arguments = (drawn_folder, [drawn_folder], drawn_folder / "autoencoder.pt", str(device))
    latents = EncodedPictures(*arguments)
    with monkeypatch.context() as forbidden:
        forbidden.setattr(diffusion, "encode_pictures", None)
        again = EncodedPictures(*arguments)
    torch.save(tiny_vae(device).state_dict() | {"quant_conv.bias": torch.ones(8)}, drawn_folder / "autoencoder.pt")
    assert not torch.equal(EncodedPictures(*arguments).values, latents.values)
    assert torch.equal(latents.values, again.values) and latents.values.shape == (6, 2, 4, 8, 8)
    monkeypatch.setattr(diffusion, "FORGET", 0.0)
    values, texts = latents.next_batch(100, rng())
    assert values.shape == (100, 4, 8, 8) and values.dtype == torch.float32
    assert texts == again.next_batch(100, rng())[1]
    places = [[torch.equal(one, row.float()) for row in latents.values.flatten(0, 1)].index(True) for one in values]
    assert set(places) == set(range(12))
    said = [
        (text, caption(latents.scenes[place // 2], mirrored=bool(place % 2)))
        for text, place in zip(texts, places, strict=True)
    ]
    assert all(text in ("", whole) for text, whole in said)
    assert 2 <= sum(text == "" for text, _ in said) <= 25  # a tenth: 10 on average, 3 its deviation
    monkeypatch.setattr(diffusion, "FORGET", 0.5)
    assert len(set(latents.next_batch(100, rng())[1])) > 20


def test_latents_of_folders_add_up_and_each_is_encoded_once(drawn_folder, device, monkeypatch):
    other = drawn_folder / "other"
    draw_chunk(("small", 1, (0.0, 1.0, 0.0), False, 0, other))
    out, weights = drawn_folder / "out", drawn_folder / "autoencoder.pt"
    first = EncodedPictures(out, [drawn_folder], weights, str(device))
    counts = []
    monkeypatch.setattr(
        diffusion, "encode_pictures", lambda model, part: counts.append(len(part)) or encode_pictures(model, part)
    )
    both = EncodedPictures(out, [drawn_folder, other], weights, str(device))
    assert counts == [3] and len(both.scenes) == len(both.values) == 9
    assert torch.equal(both.values[:6], first.values) and both.scenes[:6] == first.scenes
    assert all(scene.others for scene in both.scenes[6:])
    assert not list(out.glob(".*"))


def test_a_mirrored_pair_is_named_from_the_other_side(drawn_folder, device, monkeypatch):
    other = drawn_folder / "other"
    draw_chunk(("small", 1, (0.0, 1.0, 0.0), False, 0, other))
    latents = EncodedPictures(drawn_folder, [other], drawn_folder / "autoencoder.pt", str(device))
    monkeypatch.setattr(diffusion, "FORGET", 0.0)
    monkeypatch.setattr(diffusion, "EMPTY", 0.0)
    values, texts = latents.next_batch(40, rng())
    both = latents.values.flatten(0, 1)
    places = [next(i for i, row in enumerate(both) if torch.equal(one, row.float())) for one in values]
    assert {place % 2 for place in places} == {0, 1}
    for place, text in zip(places, texts, strict=True):
        assert text == caption(latents.scenes[place // 2], mirrored=bool(place % 2))
    assert all(caption(scene) != caption(scene, mirrored=True) for scene in latents.scenes)


def test_the_loss_of_the_average_leaves_the_model_alone(drawn_folder, device):
    held = HeldOut("small", drawn_folder / "autoencoder.pt", str(device), count=2)
    model, average = drawn(Diffusion(), device), drawn(Diffusion(), device, 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert held.loss_of_average(model, average.state_dict()) == held.loss(average) != held.loss(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_held_out_question_is_always_the_same(drawn_folder, device):
    held, again = (HeldOut("small", drawn_folder / "autoencoder.pt", str(device), count=4) for _ in range(2))
    model = drawn(Diffusion(), device)
    assert held.loss(model) == held.loss(model) == again.loss(model)
    assert held.latents.shape == held.noise.shape == (4, 4, 8, 8) and held.tokens.shape == (4, 77)
    assert not any(p.grad is not None for p in model.parameters())


# All of it


def test_from_nothing_to_a_checkpoint(tiny, tmp_path, device, monkeypatch, capsys):
    """The four commands in a row; the second run of a finished training changes nothing."""
    monkeypatch.setattr(diffusion, "HeldOut", partial(HeldOut, count=2))
    call(monkeypatch, data, out=tmp_path / "data", count=6, workers=1)
    first = tmp_path / "autoencoder"
    call(monkeypatch, autoencoder, data=tmp_path / "data", out=first, device=device, steps=4, batch=4, full=0.5)
    assert "held-out looks" in capsys.readouterr().out
    options = {"data": tmp_path / "data", "autoencoder": first / "autoencoder.pt", "out": tmp_path / "diffusion"}
    averages = []
    for _ in range(2):
        call(monkeypatch, diffusion, **options, device=device, steps=4, batch=2)
        averages.append(torch.load(tmp_path / "diffusion" / "checkpoint.pt", weights_only=True)["ema"])
    ema, again = averages
    assert all(torch.equal(ema[name], again[name]) for name in ema)
    out = tmp_path / "model.safetensors"
    export.export(first / "autoencoder.pt", tmp_path / "diffusion" / "checkpoint.pt", out, tiny_config())
    model = load_model(out)
    options["out"] = tmp_path / "continued"
    with monkeypatch.context() as no_step:
        no_step.setattr(diffusion.Trainer, "progress", lambda self: self.save() or iter(()))
        call(no_step, diffusion, **options, init=out, device=device)
    begun = torch.load(tmp_path / "continued" / "checkpoint.pt", weights_only=True)
    assert begun["step"] == 0 and all(
        torch.equal(t.cpu(), ema[k].cpu().half().float()) for k, t in begun["ema"].items()
    )
    assert torch.equal(model.unet.conv_in.weight, ema["unet.conv_in.weight"].cpu().half().float())
    with torch.no_grad():
        latents = model.encode_image(torch.zeros(1, 3, SIDE, SIDE))
        assert model.unet(latents, 500, model.encode_text("a photo of a red cat")).isfinite().all()
