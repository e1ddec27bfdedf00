"""train.miniature.export: what the trainings left becomes a checkpoint that loads strictly."""

from dataclasses import replace

import pytest
import torch
from tiny_model import tiny_config, tiny_model

from models.config import MINIATURE
from train.miniature import export as command
from train.miniature.export import export
from weights.load import load, meta_model, networks_of

HALF_A_STEP = 2**-11  # of float16's mantissa: the most that rounding a normal number may change it, relatively


def trained(folder, model):
    """What the two trainings of this model would have left."""
    networks = networks_of(model)
    average = {f"{part}.{k}": v for part in ("unet", "text") for k, v in networks[part].state_dict().items()}
    torch.save(networks["vae"].state_dict(), folder / "autoencoder.pt")
    torch.save({"ema": average, "module": {}, "optimizers": [], "step": 1, "spent": 1.0}, folder / "checkpoint.pt")
    return folder / "autoencoder.pt", folder / "checkpoint.pt"


def parameters(model):
    return {f"{part}.{key}": t for part, net in networks_of(model).items() for key, t in net.state_dict().items()}


def test_the_file_is_the_model_in_float16(tmp_path):
    model, out = tiny_model(), tmp_path / "weights" / "model.safetensors"
    found = export(*trained(tmp_path, model), out, tiny_config())
    again = load(out)
    assert again.config == tiny_config() and again.schedule == model.schedule and again.schedule.prediction == "v"
    exact, read = parameters(model), parameters(again)
    assert exact.keys() == read.keys()
    assert all(torch.equal(read[name], tensor.half().float()) for name, tensor in exact.items())
    assert found.keys() == {"unet", "vae", "text"}
    for part, (error, name) in found.items():
        assert 0 < error < HALF_A_STEP and f"{part}.{name}" in exact
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_the_command_writes_what_loads_as_the_miniature(tmp_path, monkeypatch, capsys):
    model = meta_model(MINIATURE)
    for network in networks_of(model).values():
        for parameter in network.to_empty(device="cpu").parameters():
            parameter.detach().fill_(0.1)
    autoencoder, diffusion = trained(tmp_path, model)
    out = tmp_path / "miniature.safetensors"
    monkeypatch.setattr(
        "sys.argv", ["export", f"--autoencoder={autoencoder}", f"--diffusion={diffusion}", f"--out={out}"]
    )
    command.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(" MB") and [line.split(":")[0] for line in said[1:]] == ["unet", "vae", "text"]
    monkeypatch.setattr("weights.published.MINIATURE_FILE", out)
    assert load("miniature").config == MINIATURE


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda vae, whole: whole["ema"].pop("unet.conv_in.weight"), r"1 tensors are missing.*unet\.conv_in\.weight"),
        (lambda vae, whole: vae.update({"strange": torch.zeros(1)}), r"unknown.*vae\.strange"),
        (lambda vae, whole: whole["ema"]["text.final_norm.bias"].fill_(1e6), r"cannot hold text\.final_norm\.bias"),
        (lambda vae, whole: vae["quant_conv.bias"].fill_(float("nan")), r"cannot hold vae\.quant_conv\.bias"),
        (lambda vae, whole: whole.pop("ema"), "no average of weights"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, spoil, sentence):
    autoencoder, diffusion = trained(tmp_path, tiny_model())
    vae, whole = torch.load(autoencoder), torch.load(diffusion)
    spoil(vae, whole)
    torch.save(vae, autoencoder), torch.save(whole, diffusion)
    with pytest.raises(ValueError, match=sentence):
        export(autoencoder, diffusion, tmp_path / "out" / "model.safetensors", tiny_config())
    assert not (tmp_path / "out").exists()


def test_missing_files_and_other_sizes_are_named(tmp_path, monkeypatch, capsys):
    autoencoder, diffusion = trained(tmp_path, tiny_model())
    with pytest.raises(ValueError, match=r"no file .*nowhere.* run python -m train\.miniature\.autoencoder first"):
        export(tmp_path / "nowhere.pt", diffusion, tmp_path / "out")
    other = replace(tiny_config(), vae=replace(tiny_config().vae, channels=16))
    with pytest.raises(ValueError, match="of another shape"):
        export(autoencoder, diffusion, tmp_path / "out", other)
    nowhere = tmp_path / "nowhere.pt"
    monkeypatch.setattr("sys.argv", ["export", f"--autoencoder={autoencoder}", f"--diffusion={nowhere}"])
    with pytest.raises(SystemExit):
        command.main()
    assert "train.miniature.diffusion first" in capsys.readouterr().err
