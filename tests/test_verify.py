"""Verifying: what a sound checkpoint is called, and one sentence for every way of being unsound."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import tiny_config, tiny_model, write_tiny_model

from models.config import MODELS
from weights.folder import save_folder
from weights.published import PUBLISHED, VARIABLE, Published, sha256
from weights.verify import verify


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture
def published(tiny_file, tmp_path, monkeypatch):
    """The tiny model as if it had been published as sd21, in the cache folder."""
    entry = Published("a/b", "c", "published.safetensors", tiny_file.stat().st_size, sha256(tiny_file))
    monkeypatch.setitem(PUBLISHED, "sd21", entry)
    monkeypatch.setitem(MODELS, "sd21", replace(tiny_config(), name="sd21"))
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    shutil.copy(tiny_file, tmp_path / entry.file)
    return tmp_path / entry.file


def refused(path, **what) -> str:
    with pytest.raises(ValueError) as error:
        verify(path, **what)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_sound_file_is_described(tiny_file):
    report = verify(tiny_file)
    (file,) = report.files
    assert (file.path, file.bytes, file.sha256) == (tiny_file, tiny_file.stat().st_size, sha256(tiny_file))
    assert file.tensors == len(load_file(tiny_file)) and file.dtypes == (torch.float32,) and file.published is None
    assert report.layout == "single file" and report.config == tiny_config() and report.by == "the note in it"
    assert abs(report.noise_response) < 0.3


def test_a_sound_folder_is_described(tmp_path):
    save_folder(tiny_model(), tmp_path / "model", torch.float16)
    report = verify(tmp_path / "model")
    assert report.layout == "folder" and len(report.files) == 3
    assert {file.dtypes for file in report.files} == {(torch.float16,)}


def test_a_pickled_checkpoint_is_described(tmp_path, tiny_file):
    torch.save({"state_dict": load_file(tiny_file)}, tmp_path / "model.ckpt")
    (file,) = verify(tmp_path / "model.ckpt", tiny_config()).files
    assert file.tensors == len(load_file(tiny_file)) and file.sha256 == sha256(tmp_path / "model.ckpt")


def test_a_published_file_is_known_by_any_name(published, tmp_path):
    report = verify("sd21")
    assert report.files[0].published == "sd21" and report.by == "its name (sd21)"
    assert verify(published).files[0].published == "sd21"
    renamed = published.rename(tmp_path / "other.safetensors")
    assert verify(renamed).files[0].published == "sd21"


def test_a_file_that_is_not_what_it_is_called(published):
    whole = published.read_bytes()
    published.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for asked in ("sd21", published):
        assert "is not published.safetensors as published: its SHA-256 is" in refused(asked)
    published.write_bytes(whole[:-1])
    assert f"it has {len(whole) - 1} bytes, not {len(whole)}" in refused("sd21")


def test_a_truncated_file(tmp_path, tiny_file):
    whole = tiny_file.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "no checkpoint, or only part of one" in refused(tmp_path / "cut.safetensors")


def test_a_renamed_file(tmp_path, tiny_file):
    shutil.copy(tiny_file, tmp_path / "model.ckpt")
    assert "safetensors file by its content" in refused(tmp_path / "model.ckpt")


def test_a_wrong_shape(tmp_path, tiny_file):
    save_file(load_file(tiny_file) | {"model.diffusion_model.out.2.bias": torch.zeros(3)}, tmp_path / "b.safetensors")
    assert "out.2.bias is (3,), wanted (4,)" in refused(tmp_path / "b.safetensors", config=tiny_config())


def test_nan_is_named_by_its_official_key_wherever_it_is(tmp_path, tiny_file):
    state = load_file(tiny_file)
    spare = "cond_stage_model.model.text_projection"  # not needed, and so not looked at by load
    for key in [spare, *list(state)[:5]]:
        ill = state | {spare: torch.zeros(3)}
        ill[key] = ill[key].clone().fill_(float("nan"))
        save_file(ill, tmp_path / "ill.safetensors")
        assert f"ill.safetensors holds NaN or infinity in {key}: fetch it again" in refused(
            tmp_path / "ill.safetensors", config=tiny_config()
        )
    save_file({key: torch.full_like(tensor, torch.inf) for key, tensor in state.items()}, tmp_path / "ill.safetensors")
    assert f"and {len(state) - 3} more" in refused(tmp_path / "ill.safetensors", config=tiny_config())


def test_a_contradiction_is_said(tmp_path, tiny_file):
    with pytest.warns(UserWarning, match="predicts eps according to the prediction asked for .* and v according to"):
        verify(tiny_file, prediction="eps")
    config = replace(tiny_config(), noise=replace(tiny_config().noise, prediction="eps"))
    with pytest.warns(UserWarning, match="predicts eps according to the configuration given, and v according to"):
        verify(tiny_file, config)


def test_a_name_that_the_probe_overrules_is_not_said_to_be_who_says_so(tmp_path, tiny_file, monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", tiny_config())
    eps = replace(tiny_config(), name="twin", noise=replace(tiny_config().noise, prediction="eps"))
    monkeypatch.setitem(MODELS, "twin", eps)
    save_file(load_file(tiny_file), tmp_path / "my-base.safetensors")
    with pytest.warns(UserWarning, match="would predict eps by its name, and a probe finds v"):
        report = verify(tmp_path / "my-base.safetensors")
    assert report.by is None and report.config == tiny_config()


def test_a_progress_bar_is_shown_when_asked_for(tiny_file, capsys):
    verify(tiny_file, progress=True)
    assert "checking tiny.safetensors" in capsys.readouterr().err
