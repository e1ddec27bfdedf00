"""The ways of inverting: what each costs and promises, and how a swap is served by it."""

import json
from typing import get_args

import pytest
import torch
from safetensors import safe_open
from swap_model import SOURCE, TARGET, picture, swap_model
from test_inversion import own_picture

import photoswap.commands.invert as command
from photoswap import injections
from photoswap.inversion import Inversion, invert_image, reconstruct, synthesize
from photoswap.inversions import INVERSIONS
from photoswap.inversions.file import GUIDED, InversionName
from photoswap.methods import Photoswap
from photoswap.pipeline import swap
from photoswap.side_by_side import side_by_side
from photoswap.staging import make_pictures
from samplers import belm, edict, guided_eps
from weights.load import networks_of

SIZE = (64, 64)
NOTHING = {"phi": 0, "M": 0, "A": 0}


def wide_model(device, prediction):
    """In float64, where rounding hides nothing."""
    model = swap_model(device, prediction)
    for network in networks_of(model).values():
        network.to(torch.float64)
    return model


@pytest.fixture(scope="module")
def model(device):
    return swap_model(device)


def test_every_way_can_be_asked_for():
    assert set(get_args(InversionName)) == {*INVERSIONS, "seed", "none"}
    assert set(command.INVERSIONS) == set(INVERSIONS) and set(command.GUIDED) == set(GUIDED) - {"seed"}


@pytest.mark.parametrize(
    ("method", "guided", "plain"),
    [("direct", 4, 4), ("ddim", 4, 4), ("negative-prompt", 4, 4), ("edict", 16, 8), ("belm", 8, 4)],
)
def test_what_an_inversion_in_four_steps_costs(method, guided, plain, model, monkeypatch):
    for scale, wanted in ((3.0, guided), (1.0, plain)):
        rows, forward = [], model.unet.forward
        monkeypatch.setattr(
            model.unet, "forward", lambda z, *rest, f=forward, rows=rows: rows.append(len(z)) or f(z, *rest)
        )
        inversion = invert_image(model, picture(), SOURCE, method, 4, scale, SIZE)
        assert sum(rows) == wanted
        assert inversion.guidance_scale == (scale if method in GUIDED else 1.0)
        monkeypatch.setattr(model.unet, "forward", forward)


@pytest.mark.parametrize(("prediction", "guidance"), [("eps", 3.0), ("v", 3.0), ("v", 1.0)])
def test_the_exact_ones_lead_back_by_the_sampler_that_made_them(prediction, guidance, device):
    model = wide_model(device, prediction)
    eps = guided_eps(model.unet, model.schedule, model.encode_text(""), model.encode_text(SOURCE), guidance)
    steps, names = model.schedule.sampling(4), ("direct", "ddim", "edict", "belm")
    found = {name: invert_image(model, picture(), SOURCE, name, 4, guidance, SIZE).trajectory for name in names}
    clean = found["direct"][:1]
    back = belm.sample(eps, (found["belm"][-1:], found["belm"][-2:-1]), steps)
    assert (back - clean).abs().max() < 1e-10  # float64 rounding
    pairs = edict.invert(eps, (clean, clean), steps)
    assert (torch.cat([first for first, _ in pairs]) - found["edict"]).abs().max() < 1e-10  # two rows or one
    for half in edict.sample(eps, pairs[-1], steps):
        assert (half - clean).abs().max() < 1e-10
    assert (
        (found["belm"][-1] - found["ddim"][-1]).abs().max()
        > 1e-3
        < (found["edict"][-1] - found["ddim"][-1]).abs().max()
    )


@pytest.mark.parametrize("method", ["edict", "belm"])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_their_source_is_given_back_whatever_the_guidance(method, guidance, model):
    inversion = invert_image(model, picture(), SOURCE, method, 3, 3.0)
    wanted = own_picture(model, picture())
    assert reconstruct(model, inversion, guidance).tobytes() == wanted.tobytes()
    assert reconstruct(model, inversion, guidance, alone=True).tobytes() != wanted.tobytes()
    swapped = swap(model, inversion, TARGET, Photoswap.scaled(3, guidance_scale=guidance), source_prompt="a dog")
    assert torch.equal(swapped.source_latents, inversion.source_at(2))


def slow_negative_prompt(model, clean, prompts, n, weight, away):
    """Inversion and both rows written out, a call a row. away: what guidance leads from, a context a row."""
    schedule, contexts = model.schedule, [model.encode_text(prompt) for prompt in prompts]
    alphas = [float(schedule.alpha_bar[0]), *(float(schedule.alpha_bar[t]) for t in reversed(schedule.timesteps(n)))]
    ts = list(reversed(schedule.timesteps(n)))

    def eps(z, t, level, context):
        out = model.unet(z, t, context)
        return out if schedule.prediction == "eps" else level**0.5 * out + (1 - level) ** 0.5 * z

    def carried(z, e, a, b):
        return b**0.5 * (z - (1 - a) ** 0.5 * e) / a**0.5 + (1 - b) ** 0.5 * e

    z = clean
    for i in range(n):
        z = carried(z, eps(z, ts[i], alphas[i], contexts[0]), alphas[i], alphas[i + 1])
    rows = [z, z]
    for i in reversed(range(n)):
        for row in (0, 1):
            cond = eps(rows[row], ts[i], alphas[i + 1], contexts[row])
            uncond = eps(rows[row], ts[i], alphas[i + 1], away[row])
            rows[row] = carried(rows[row], uncond + weight * (cond - uncond), alphas[i + 1], alphas[i])
    return rows


@torch.no_grad()
@pytest.mark.parametrize("steps", [6, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_negative_prompt_leads_source_and_target_away_from_the_source(prediction, steps, device):
    model = wide_model(device, prediction)
    inversion = invert_image(model, picture(), SOURCE, "negative-prompt", steps, size=SIZE)
    swapped = swap(model, inversion, TARGET, Photoswap(steps=steps, guidance_scale=7.5, **NOTHING))
    clean, (told, empty) = inversion.source_at(steps - 1), (model.encode_text(SOURCE), model.encode_text(""))

    def apart(away):
        rows = slow_negative_prompt(model, clean, (SOURCE, TARGET), steps, 7.5, away)
        ours = (swapped.source_latents, swapped.target_latents)
        return [(a - b).abs().max().item() for a, b in zip(ours, rows, strict=True)]

    assert max(apart((told, told))) < 1e-10
    assert min(apart((empty, empty))) > 1e-3
    assert swapped.settings["row_calls"] == 3 * steps  # the source's two halves are one


@torch.no_grad()
def test_negative_prompt_comes_back_as_ddim_does_without_guidance(model):
    """At any guidance, where ddim under guidance does not."""
    inversion = {
        name: invert_image(model, picture(), SOURCE, name, 5, size=SIZE) for name in ("ddim", "negative-prompt")
    }
    plain = reconstruct(model, inversion["ddim"], 1.0).tobytes()
    assert reconstruct(model, inversion["negative-prompt"], 7.5).tobytes() == plain
    assert reconstruct(model, inversion["ddim"], 7.5).tobytes() != plain


def test_negative_prompt_serves_every_injection(device):
    """The source's one row stands in for both of its halves, as it would if computed twice."""
    model = wide_model(device, "v")
    inversion = invert_image(model, picture(), SOURCE, "negative-prompt", 5, size=SIZE)
    method = Photoswap(steps=5, phi=2, M=4, A=3)
    pictures = make_pictures(model, inversion, method, (SOURCE, TARGET))
    assert pictures[injections.SOURCE].uncond is None and pictures[injections.TARGET].uncond is not None
    *_, ours = side_by_side(model.unet, model.schedule, pictures, method)
    object.__setattr__(pictures[injections.SOURCE], "uncond", pictures[injections.SOURCE].context)
    *_, wanted = side_by_side(model.unet, model.schedule, pictures, method)
    assert all((ours.latents[name] - wanted.latents[name]).abs().max() < 1e-10 for name in pictures)  # float64 rounding


@pytest.mark.parametrize("method", ["negative-prompt", "edict", "belm"])
def test_a_file_keeps_them(method, model, tmp_path):
    inversion = invert_image(model, picture(), SOURCE, method, 2, 3.0, SIZE)
    inversion.save(tmp_path / "a")
    loaded = Inversion.load(tmp_path / "a")
    for name in ("method", "guidance_scale", "uncond_prompt", "returns_stored", "made_under_guidance"):
        assert getattr(loaded, name) == getattr(inversion, name), name
    assert torch.equal(loaded.trajectory, inversion.trajectory.cpu())
    assert loaded.uncond_prompt == (SOURCE if method == "negative-prompt" else "")


def test_the_inversion_of_a_picture_is_at_the_guidance_it_was_made_for(model, tmp_path):
    drawn = synthesize(model, SOURCE, 0, 2, 4.0, SIZE)
    assert drawn.made_under_guidance and not invert_image(model, picture(), SOURCE, "ddim", 1).made_under_guidance
    drawn.save(tmp_path / "a")
    with safe_open(tmp_path / "a", "pt") as file:
        (text,) = file.metadata().values()
    assert json.loads(text)["version"] == 3  # readers of the second know fewer ways and say that they are too old


@pytest.mark.parametrize("method", INVERSIONS)
def test_whoever_asks_is_told_of_each_step_and_may_end_it(method, model):
    """And weights that null-text froze learn again afterwards."""
    told = []
    invert_image(model, picture(), SOURCE, method, 2, 3.0, SIZE, on_step=lambda *step: told.append(step))
    walked = [("inversion", 1, 2), ("inversion", 2, 2)]
    assert told == walked + [("null-text", 1, 2), ("null-text", 2, 2)] * (method == "null-text")

    def end(name, done, steps):
        if (name, done) == told[-2][:2]:
            raise KeyboardInterrupt

    learning = [p.requires_grad for p in model.unet.parameters()]
    with pytest.raises(KeyboardInterrupt):
        invert_image(model, picture(), SOURCE, method, 2, 3.0, SIZE, on_step=end)
    assert [p.requires_grad for p in model.unet.parameters()] == learning
