"""Telling eps from v: by the network's own answer, on networks whose answer is known, and who is believed."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import drawn
from tiny_model import tiny_config, tiny_model, write_tiny_model

from models.config import MODELS, SD21, SD21_BASE
from models.unet import UNet
from samplers import Schedule
from weights.folder import save_folder
from weights.load import load, save
from weights.probe import noise_response, settle, verdict
from weights.published import PUBLISHED, Published, sha256
from weights.recognise import NOTE, Recognised, predicting

V = tiny_config()
EPS = replace(V, name="tiny-base", noise=Schedule(prediction="eps"))
ANSWERS = {
    "eps": lambda net, latents, *_, **__: latents,
    "v": lambda net, latents, *_, **__: 0.07 * latents - 0.5,
    "unclear": lambda net, latents, *_, **__: 0.5 * latents,
    "nan": lambda net, latents, *_, **__: latents * float("nan"),
}


def nine_channel_model():
    config = replace(V, unet=replace(V.unet, in_channels=9))
    return replace(tiny_model(), unet=drawn(UNet(config.unet), torch.device("cpu")).eval(), config=config)


@pytest.fixture
def answering(monkeypatch):
    """Have every U-Net answer as told."""
    return lambda kind: monkeypatch.setattr(UNet, "forward", ANSWERS[kind])


@pytest.fixture
def twins(monkeypatch):
    """Two known models with the same networks, as SD 2.1 and 2.1-base are."""
    monkeypatch.setitem(MODELS, "tiny", V)
    monkeypatch.setitem(MODELS, "tiny-base", EPS)


@pytest.fixture
def bare(tmp_path):
    """A checkpoint that says nothing of what it is."""
    state = load_file(write_tiny_model(tmp_path / "whole.safetensors"))
    save_file(state, tmp_path / "bare.safetensors")
    return tmp_path / "bare.safetensors"


# The probe


@pytest.mark.parametrize(("kind", "found"), [("eps", "eps"), ("v", "v"), ("unclear", None), ("nan", None)])
def test_the_verdict_on_known_answers(answering, kind, found):
    answering(kind)
    assert verdict(noise_response(tiny_model())) == found


@pytest.mark.parametrize(("slope", "constant"), [(0, 0), (0, -40), (1, 0), (1, -40), (-0.2, 3)])
def test_the_noise_response_is_the_share_of_the_noise(monkeypatch, slope, constant):
    monkeypatch.setattr(UNet, "forward", lambda net, latents, *_, **__: slope * latents + constant)
    assert noise_response(tiny_model()) == pytest.approx(slope, abs=1e-5)  # float32 beside a constant of 40


def test_the_network_is_asked_once_at_the_last_timestep_about_noise(monkeypatch, device):
    asked = []

    def forward(net, latents, t, context, **_):
        asked.append((latents, t, context))
        return latents

    monkeypatch.setattr(UNet, "forward", forward)
    before = torch.get_rng_state()
    model = tiny_model()
    for network in (model.unet, model.text_encoder):
        network.to(device)
    noise_response(model)
    ((latents, t, context),) = asked
    assert t == 999 and latents.device.type == device.type
    assert abs(latents.mean()) < 0.1 and abs(latents.std() - 1) < 0.1
    assert torch.equal(context, model.encode_text(""))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_real_network_in_any_dtype(dtype):
    """Drawn at random it echoes nothing, like a v network: the probe tells trained networks apart, no others."""
    model = tiny_model()
    for network in (model.unet, model.text_encoder):
        network.to(dtype)
    assert abs(noise_response(model)) < 0.3


@pytest.mark.parametrize(("kind", "found"), [("eps", "eps"), ("v", "v"), ("unclear", None)])
def test_a_network_of_nine_channels_is_asked_about_the_noise_among_them(monkeypatch, kind, found):
    """The mask says to paint everywhere, and nothing of a picture is left."""

    def forward(net, latents, t, context, **how):
        assert latents.shape[1] == 9 and torch.all(latents[:, 4] == 1) and torch.all(latents[:, 5:] == 0)
        return ANSWERS[kind](net, latents[:, :4], t, context, **how)

    monkeypatch.setattr(UNet, "forward", forward)
    assert verdict(noise_response(nine_channel_model())) == found


def test_a_network_of_nine_channels_loads_and_answers(tmp_path):
    model = nine_channel_model()
    assert abs(noise_response(model)) < 0.3
    save(model, tmp_path / "nine.safetensors")
    again = load(tmp_path / "nine.safetensors")
    assert again.config == model.config and torch.equal(again.unet.conv_in.weight, model.unet.conv_in.weight)


def test_the_miniature_was_trained_on_v(device):
    model = load("miniature", device)
    assert model.schedule.prediction == "v"
    assert verdict(noise_response(model)) == "v"


def test_the_miniature_read_as_eps_is_contradicted():
    """And a network that predicts eps is made of it: its v, converted at every call."""
    with pytest.warns(
        UserWarning, match="predicts eps according to the prediction asked for.* and v according to a pr"
    ):
        load("miniature", prediction="eps")
    model = load("miniature")
    schedule, velocity = model.schedule, model.unet.forward
    model.unet.forward = lambda z, t, context: schedule.to_eps(velocity(z, t, context), z, t)
    assert verdict(noise_response(model)) == "eps"


# Who is believed


@pytest.mark.parametrize(("kind", "config"), [("eps", EPS), ("v", V)])
def test_where_nobody_says_the_probe_decides_and_says_so(twins, bare, answering, kind, config):
    answering(kind)
    with pytest.warns(
        UserWarning, match=f"nothing says whether .*bare.* a probe finds {kind}: it returns -?[01].* of pure noise"
    ):
        model = load(bare)
    assert model.config == config and model.schedule.prediction == kind


@pytest.mark.parametrize("kind", ["unclear", "nan"])
def test_where_nobody_can_tell_it_is_asked(twins, bare, answering, kind):
    answering(kind)
    with pytest.raises(ValueError, match=r"a probe cannot tell .*: say which \(prediction, --prediction\)"):
        load(bare)
    assert load(bare, prediction="eps").config == EPS


@pytest.fixture
def never_asked(monkeypatch):
    """A probe costs ten seconds at full size."""

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(UNet, "forward", refuse)


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_a_flag_is_believed_and_nobody_asked(twins, bare, never_asked, kind):
    assert load(bare, prediction=kind).schedule.prediction == kind
    assert load(bare.rename(bare.with_name("my-512.safetensors")), prediction=kind).schedule.prediction == kind


@pytest.mark.parametrize("config", ["tiny", "tiny-base", V, EPS])
def test_a_configuration_is_believed_and_nobody_asked(twins, bare, never_asked, config):
    assert load(bare, config=config).config == (MODELS[config] if isinstance(config, str) else config)


def test_a_known_model_is_not_asked(tmp_path, twins, never_asked, monkeypatch):
    """The note in it, a published name, a published hash, the scheduler of a folder."""
    noted = write_tiny_model(tmp_path / "noted.safetensors")
    assert load(noted).config == V
    save_file(load_file(noted), tmp_path / "plain.safetensors")
    entry = Published("a/b", "c", "published.safetensors", noted.stat().st_size, sha256(tmp_path / "plain.safetensors"))
    entry = replace(entry, bytes=(tmp_path / "plain.safetensors").stat().st_size)
    monkeypatch.setitem(PUBLISHED, "tiny-base", entry)
    assert load(tmp_path / "plain.safetensors").config == EPS
    (tmp_path / "plain.safetensors").rename(tmp_path / entry.file)
    assert load(tmp_path / entry.file).config == EPS
    save_folder(tiny_model(), tmp_path / "folder")
    (tmp_path / "folder" / NOTE).unlink()
    assert load(tmp_path / "folder").schedule.prediction == "v"


def test_a_flag_against_a_sure_witness_is_obeyed_and_checked(tmp_path, twins, answering):
    path = write_tiny_model(tmp_path / "noted.safetensors")
    answering("v")
    with pytest.warns(
        UserWarning, match="predicts eps according to the prediction asked for.* and v according to a pr"
    ):
        assert load(path, prediction="eps").schedule.prediction == "eps"


def test_a_flag_overrules_what_is_noted(tmp_path, answering):
    answering("eps")
    path = write_tiny_model(tmp_path / "noted.safetensors")
    assert load(path).schedule.prediction == "v"  # as noted: the network is not asked
    assert load(path, prediction="v").schedule.prediction == "v"
    model = load(path, prediction="eps")
    assert model.schedule.prediction == "eps" and model.config == replace(V, noise=Schedule(prediction="eps"))
    with pytest.raises(ValueError, match="prediction is 'epsilon': want 'eps' or 'v'"):
        load(path, prediction="epsilon")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tiny-768", "v"), ("tiny_512", "eps"), ("my-base", "eps"), ("SD-Base-512", "eps"), ("database-768", "v")],
)
def test_a_telling_name_needs_no_probe(twins, bare, answering, name, kind):
    answering("nan")
    assert load(bare.rename(bare.with_name(f"{name}.safetensors"))).schedule.prediction == kind


@pytest.mark.parametrize("name", ["database", "baseline", "768-from-512", "base-768"])
def test_a_name_that_tells_nothing_or_both_leaves_it_to_the_probe(twins, bare, answering, name):
    answering("eps")
    with pytest.warns(UserWarning, match="a probe finds eps"):
        load(bare.rename(bare.with_name(f"{name}.safetensors")))


def test_a_published_file_is_known_by_its_hash(twins, bare, answering, monkeypatch):
    answering("nan")
    entry = Published("a/b", "c", "published.safetensors", bare.stat().st_size, sha256(bare))
    monkeypatch.setitem(PUBLISHED, "tiny-base", entry)
    assert load(bare).config == EPS
    monkeypatch.setitem(PUBLISHED, "tiny-base", replace(entry, sha256="0" * 64))
    with pytest.raises(ValueError, match="cannot tell"):
        load(bare)
    assert load(bare.rename(bare.with_name(entry.file))).config == EPS


def test_known_models_of_the_same_networks_stand_in_for_each_other():
    assert predicting(SD21, "eps") == SD21_BASE and predicting(SD21_BASE, "v") == SD21
    assert predicting(SD21, "v") is SD21
    assert predicting(V, "eps") == replace(V, noise=Schedule(prediction="eps"))


def test_settling_leaves_the_networks_alone(answering):
    answering("eps")
    model = tiny_model()
    with pytest.warns(UserWarning, match="finds eps"):
        settled = settle(model, Recognised(V, None, False), "it")
    assert settled.unet is model.unet and model.schedule.prediction == "v"
    assert settled.schedule == replace(model.schedule, prediction="eps")


def test_what_was_settled_is_saved(twins, bare, answering, tmp_path):
    answering("eps")
    with pytest.warns(UserWarning, match="finds eps"):
        save(load(bare), tmp_path / "again.safetensors")
    assert load(tmp_path / "again.safetensors").config == EPS
