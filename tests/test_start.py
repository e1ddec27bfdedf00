"""train.miniature.start: weights of an earlier training, or of a complete checkpoint, to go on from."""

import pytest
import torch
from tiny_model import tiny_config, tiny_model

from train.miniature import diffusion
from train.miniature.diffusion import Diffusion
from train.miniature.start import autoencoder_weights, diffusion_weights
from weights.load import networks_of, save


@pytest.fixture
def checkpoint(tmp_path):
    """A model, and its file."""
    model = tiny_model()
    save(model, tmp_path / "model.safetensors")
    return model, tmp_path / "model.safetensors"


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_complete_checkpoint_gives_its_networks(checkpoint, monkeypatch):
    model, path = checkpoint
    networks = networks_of(model)
    assert same(autoencoder_weights(path), networks["vae"].state_dict())
    monkeypatch.setattr(diffusion, "MINIATURE", tiny_config())
    learner = Diffusion()
    learner.load_state_dict(diffusion_weights(path))
    assert same(learner.unet.state_dict(), networks["unet"].state_dict())
    assert same(learner.text.state_dict(), networks["text"].state_dict())


def test_what_a_training_left_gives_its_average(tmp_path):
    average = {"unet.a": torch.ones(2), "text.b": torch.zeros(1)}
    torch.save({"ema": average, "module": {}}, tmp_path / "checkpoint.pt")
    torch.save({"quant_conv.bias": torch.ones(8)}, tmp_path / "autoencoder.pt")
    assert same(diffusion_weights(tmp_path / "checkpoint.pt"), average)
    assert autoencoder_weights(tmp_path / "autoencoder.pt")["quant_conv.bias"].sum() == 8


def test_weights_saved_on_a_device_that_is_not_here_are_read(tmp_path, monkeypatch):
    """A training on a GPU is continued where there is none: torch.load is told to bring everything to the CPU."""
    asked = []

    def spy(path, **options):
        asked.append(options["map_location"])
        return {"ema": {}}

    monkeypatch.setattr(torch, "load", spy)
    (tmp_path / "a.pt").touch()
    autoencoder_weights(tmp_path / "a.pt"), diffusion_weights(tmp_path / "a.pt")
    assert asked == ["cpu", "cpu"]


def test_a_file_that_is_not_there_says_what_makes_it(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*; run python -m train\.miniature\.autoencoder first"):
        autoencoder_weights(tmp_path / "autoencoder.pt")
    with pytest.raises(ValueError, match=r"no file .*; run python -m train\.miniature\.diffusion first"):
        diffusion_weights(tmp_path / "checkpoint.pt")
    torch.save({"module": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="no average of weights"):
        diffusion_weights(tmp_path / "checkpoint.pt")
