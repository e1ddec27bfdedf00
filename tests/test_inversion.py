"""Trajectories, and the pictures they come back to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from swap_model import SOURCE, picture, swap_model

import photoswap.inversions.null_text as null_text
from models.images import load_image, to_image, to_tensor
from photoswap.inversion import Inversion, initial_noise, invert_image, reconstruct, synthesize
from samplers import guided_eps, invert, sample
from weights import fingerprint
from weights.load import networks_of

STEPS = 5


@pytest.fixture(scope="module")
def model(device):
    return swap_model(device)


def inverted(model, method="direct", **settings):
    """An inversion in five steps; null-text, which is slow, on a quarter of the area."""
    size = (64, 64) if method == "null-text" else None
    return invert_image(model, picture(), SOURCE, method, **{"steps": STEPS, "size": size, **settings})


def own_picture(model, image):
    """What the autoencoder alone makes of a picture."""
    with torch.no_grad():
        return to_image(model.decode(model.encode_image(to_tensor(image)[None]))[0])


def settings_of(inversion):
    return {name: getattr(inversion, name) for name in ("prompt", "method", "guidance_scale", "model", "seed")}


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_the_trajectory_is_ddim_backwards_at_guidance_one(device, prediction):
    model = swap_model(device, prediction)
    with torch.no_grad():
        clean, context = model.encode_image(to_tensor(picture())[None]), model.encode_text(SOURCE)
    wanted = invert(guided_eps(model.unet, model.schedule, None, context, 1.0), clean, model.schedule.inversion(STEPS))
    inversion = inverted(model)
    assert torch.equal(inversion.trajectory, torch.cat(wanted))
    assert inversion.trajectory.dtype == torch.float32 and inversion.steps == STEPS
    assert torch.equal(inversion.source_at(-1), wanted[-1]) and torch.equal(inversion.source_at(STEPS - 1), wanted[0])


@pytest.mark.parametrize("prediction", ["v", "eps"])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_direct_comes_back_to_what_the_autoencoder_makes_bit_for_bit(device, prediction, guidance):
    model = swap_model(device, prediction)
    assert reconstruct(model, inverted(model), guidance).tobytes() == own_picture(model, picture()).tobytes()


def sampled_error(model, inversion, guidance):
    """Mean square distance in latents between where the source's row lands and where it should."""
    nulls, context = inversion.null_contexts, model.encode_text(SOURCE)
    empty = model.encode_text("")
    eps = guided_eps(
        model.unet, model.schedule, lambda s: empty if nulls is None else nulls[s.index][None], context, guidance
    )
    landed = sample(eps, inversion.source_at(-1), model.schedule.sampling(inversion.steps))
    return (landed - inversion.source_at(inversion.steps - 1)).square().mean().item()


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_null_text_lands_nearer_than_plain_ddim_under_guidance(device, prediction):
    model = swap_model(device, prediction)
    fitted = inverted(model, "null-text")
    assert sampled_error(model, fitted, 7.5) < sampled_error(model, inverted(model, "ddim", size=(64, 64)), 7.5) / 2


def test_null_text_at_guidance_one_has_nothing_to_fit(model):
    nulls = inverted(model, "null-text", guidance_scale=1.0, steps=2).null_contexts
    assert torch.equal(nulls, model.encode_text("").detach().expand_as(nulls))


class Unmoved:
    """Lands at the same place whatever the null context."""

    def __init__(self, place):
        self.place, self.calls = place, 0

    def __call__(self, null):
        self.calls += 1
        return self.place + 0 * null


def test_null_text_follows_its_published_constants(model, monkeypatch):
    """Fifty steps: Adam afresh at each, rate 1e-2 (1 - i / 100), at most ten turns, stop below 1e-5 + i 2e-5."""
    rates, turns = [], []
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr: rates.append(lr) or adam(parameters, lr=lr))
    for index in (0, 20, 49):
        for share in (1.01, 0.99):
            loss = Unmoved(((1e-5 + index * 2e-5) * share) ** 0.5)
            null_text._fit(torch.zeros(1, 768), loss, torch.zeros(1, 768), index / 50)
            turns.append(loss.calls)
    assert turns == [10, 1] * 3
    assert rates == pytest.approx([1e-2 * (1 - i / 100) for i in (0, 0, 20, 20, 49, 49)])


def test_null_text_goes_on_from_the_step_before(model, monkeypatch):
    """The context fitted at one step is where the next begins, at the guidance of that step, from where it landed."""
    begun, scales, empty = [], [], model.encode_text("").detach()

    def fitted(null, land, wanted, done):
        begun.append(null)
        return null + 1

    landing = null_text._landing
    monkeypatch.setattr(null_text, "_fit", fitted)
    monkeypatch.setattr(null_text, "_landing", lambda *arguments: scales.append(arguments[-1]) or landing(*arguments))
    nulls = inverted(model, "null-text", steps=3, guidance_scale=(7.5, 1.0, 3.0)).null_contexts
    assert scales == [7.5, 1.0, 3.0]
    assert [torch.allclose(null, empty + i) for i, null in enumerate(begun)] == [True, True]  # at 1 nothing is fitted
    assert all(torch.allclose(null, empty[0] + i) for null, i in zip(nulls, (1, 1, 2), strict=True))


@pytest.mark.parametrize(("width", "factor"), [(1024, 1), (768, 1), (192, 2), (48, 4)])
def test_null_text_learns_narrow_contexts_faster(width, factor, monkeypatch):
    rates = []
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr: rates.append(lr) or adam(parameters, lr=lr))
    null_text._fit(torch.zeros(1, width), Unmoved(0.0), torch.zeros(1, width), 0.0)
    assert rates == pytest.approx([1e-2 * factor])


def test_null_text_leaves_the_model_as_it_was(model):
    learning = [p.requires_grad for p in model.unet.parameters()]
    before = fingerprint(model)
    inverted(model, "null-text", steps=1)
    assert [p.requires_grad for p in model.unet.parameters()] == learning and True in learning
    assert not model.unet.gradient_checkpointing and fingerprint(model) == before
    assert all(p.grad is None for network in networks_of(model).values() for p in network.parameters())


def test_null_text_keeps_activations_where_there_is_room(model, monkeypatch):
    """Kept or recomputed, the contexts are the same; what a call keeps is measured, and grows with the places."""
    context, drawn = model.encode_text(SOURCE), torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    drawn, seen, found = drawn.to(model.device), [], {}
    running = null_text._only_inputs_learn
    monkeypatch.setattr(null_text, "_only_inputs_learn", lambda unet, keep: seen.append(keep) or running(unet, keep))
    for free in (0, 2**60):
        monkeypatch.setattr(null_text, "free_bytes", lambda _, free=free: free)
        found[free] = null_text.fit_null_contexts(model, drawn, context, lambda _: 7.5)
    assert seen == [True, False, True, True]  # each fit measures first
    assert torch.allclose(found[0], found[2**60], atol=1e-6)
    sizes = [null_text._activation_bytes(model, drawn[:1, :, :side], context) for side in (8, 16)]
    assert sizes[1] == 2 * sizes[0] > 0
    monkeypatch.undo()
    assert null_text.free_bytes(model.device) > 2**20


def test_null_text_wants_full_precision(device):
    model = swap_model(device)
    for network in networks_of(model).values():
        network.to(torch.bfloat16)
    with pytest.raises(ValueError, match="load the model in float32"):
        inverted(model, "null-text")
    assert inverted(model).trajectory.dtype == torch.float32


@pytest.mark.parametrize("method", ["direct", "ddim", "null-text"])
def test_the_same_call_gives_the_same_bytes_and_a_file_gives_them_back(model, method, tmp_path):
    for name in ("a", "b"):
        before = inverted(model, method, steps=2)
        before.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    after = Inversion.load(tmp_path / "a")
    assert settings_of(before) == settings_of(after)
    assert torch.equal(before.trajectory.cpu(), after.trajectory)
    assert after.source.tobytes() == picture().tobytes()
    assert (after.null_contexts is None) == (method != "null-text")
    after.check(model, 2)
    assert reconstruct(model, after).tobytes() == reconstruct(model, before).tobytes()


def test_guidance_for_each_step_survives_the_file(model, tmp_path):
    inverted(model, "null-text", steps=2, guidance_scale=(7.5, 3.0)).save(tmp_path / "a")
    assert Inversion.load(tmp_path / "a").guidance_scale == (7.5, 3.0)
    with pytest.raises(ValueError, match="2 values for 5 steps"):
        inverted(model, "null-text", guidance_scale=(1.0, 2.0))


def test_a_picture_of_another_shape_is_worked_on_near_the_native_area(model):
    wide = invert_image(model, picture(300, 200), SOURCE, steps=1)
    assert wide.trajectory.shape[1:] == (4, 16, 24) and wide.source.size == (300, 200)
    assert invert_image(model, picture(300, 200), SOURCE, steps=1, size=(64, 128)).trajectory.shape[1:] == (4, 16, 8)


def test_a_picture_opened_by_the_caller_is_inverted_upright_and_over_white(model, tmp_path):
    """As the command line would read the same file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = picture(128, 64).convert("RGBA")
    clear.putalpha(128)
    clear.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        ours = invert_image(model, opened, SOURCE, steps=1)
    wanted = invert_image(model, load_image(tmp_path / "a.png"), SOURCE, steps=1)
    assert ours.source.size == (64, 128) and ours.source.tobytes() == wanted.source.tobytes()
    assert torch.equal(ours.trajectory, wanted.trajectory)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "magic"}, "direct, null-text, negative-prompt"),
        ({"method": "seed"}, "want one of"),
        ({"size": (100, 128)}, "64"),
    ],
)
def test_senseless_requests_are_refused(model, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        invert_image(model, picture(), SOURCE, steps=1, **settings)


@torch.no_grad()
def written_out(model, noise, scales):
    """Guided DDIM with a scale for every step, by its formula; the model predicts v."""
    null, context = model.encode_text(""), model.encode_text(SOURCE)
    trajectory = [noise]
    for step, scale in zip(model.schedule.sampling(len(scales)), scales, strict=True):
        z, (a, b) = trajectory[-1], (step.alpha_from, step.alpha_to)
        uncond, cond = model.unet(z, step.t, null), model.unet(z, step.t, context)
        v = uncond + scale * (cond - uncond)
        x0, eps = a**0.5 * z - (1 - a) ** 0.5 * v, a**0.5 * v + (1 - a) ** 0.5 * z
        trajectory.append(b**0.5 * x0 + (1 - b) ** 0.5 * eps)
    return torch.cat(trajectory[::-1])


def test_guidance_of_each_step_is_that_step_s_where_a_source_is_drawn_and_where_it_is_reconstructed(model):
    scales = (7.5, 1.0, 3.0)
    drawn = synthesize(model, SOURCE, 1, steps=3, guidance_scale=scales)
    wanted = written_out(model, drawn.source_at(-1), scales)
    assert torch.allclose(drawn.trajectory, wanted, atol=1e-4)  # batches of two rows and of one, three guided steps
    plain = replace(drawn, method="ddim", guidance_scale=1.0, seed=None)  # whose source is sampled anew
    with torch.no_grad():
        picture_of_it = to_image(model.decode(wanted[:1])[0])
    off = np.abs(np.asarray(reconstruct(model, plain, scales), int) - np.asarray(picture_of_it, int))
    assert off.max() <= 1  # of 255


def test_a_synthetic_source_is_a_prompt_and_a_seed(model, tmp_path):
    drawn, again, other = (synthesize(model, SOURCE, seed, steps=STEPS) for seed in (1, 1, 2))
    assert torch.equal(drawn.trajectory, again.trajectory) and not torch.equal(drawn.trajectory, other.trajectory)
    assert torch.equal(drawn.source_at(-1), initial_noise(model, torch.Generator().manual_seed(1)))
    drawn.save(tmp_path / "a")
    loaded = Inversion.load(tmp_path / "a")
    assert settings_of(loaded) == settings_of(drawn) and loaded.source is None and loaded.seed == 1
    assert synthesize(model, SOURCE, 1, steps=1, size=(192, 64)).trajectory.shape[1:] == (4, 8, 24)


def test_bars_are_shown_only_when_asked_for(model, capsys):
    inverted(model, "null-text", steps=1)
    assert capsys.readouterr() == ("", "")
    inverted(model, "null-text", steps=1, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "inversion" in err and "null-text" in err


def slow_nulls(model, trajectory, weight, warm=True, shrinking=True):
    """Null-text optimisation written out, Adam too: the unconditional context of each step."""
    schedule, n = model.schedule, len(trajectory) - 1
    context, empty, z, found = model.encode_text(SOURCE), model.encode_text(""), trajectory[n:], []
    null, unet = empty, model.unet

    def eps(z, t, level, context):
        out = unet(z, t, context)
        return out if schedule.prediction == "eps" else level**0.5 * out + (1 - level) ** 0.5 * z

    def landed(null, cond, t, a, b):
        e = eps(z, t, a, null)
        e = e + weight * (cond - e)
        return b**0.5 * (z - (1 - a) ** 0.5 * e) / a**0.5 + (1 - b) ** 0.5 * e

    for i, t in enumerate(schedule.timesteps(n)):
        a = float(schedule.alpha_bar[t])
        b = float(schedule.alpha_bar[schedule.timesteps(n)[i + 1] if i + 1 < n else 0])
        with torch.no_grad():
            cond = eps(z, t, a, context)
        null = (null if warm else empty).detach()
        first, second = torch.zeros_like(null), torch.zeros_like(null)
        rate = 0.01 * (768 / null.shape[-1]) ** 0.5 * (1 - i / n / 2 if shrinking else 1)
        for turn in range(1, 11):
            null = null.detach().requires_grad_()
            loss = ((landed(null, cond, t, a, b) - trajectory[n - 1 - i]) ** 2).mean()
            (slope,) = torch.autograd.grad(loss, null)
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            steady = (second / (1 - 0.999**turn)).sqrt() + 1e-8
            null = null.detach() - rate * first / (1 - 0.9**turn) / steady
            if loss.item() < 1e-5 + 1e-3 * i / n:
                break
        with torch.no_grad():
            z = landed(null, cond, t, a, b)
        found.append(null)
    return torch.cat(found)


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_null_text_is_the_published_optimisation_step_by_step(device, prediction):
    """Each step starts from what the one before it found, at a rate that shrinks."""
    model = swap_model(device, prediction)
    for network in networks_of(model).values():
        network.to(torch.float64)
    ours = inverted(model, "null-text", steps=2)
    wanted = slow_nulls(model, ours.trajectory, 7.5)
    assert (ours.null_contexts - wanted).abs().max() < 1e-8  # Adam divides by slopes that may be small
    for broken in ({"warm": False}, {"shrinking": False}) if prediction == "v" else ():
        assert (ours.null_contexts - slow_nulls(model, ours.trajectory, 7.5, **broken)).abs().max() > 1e-2, broken
