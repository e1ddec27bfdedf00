"""`photoswap generate`, and what every command refuses about its model."""

import pytest
from command_line import PROMPT, FullDisk, files, refused
from PIL import Image

from photoswap.__main__ import main


def test_generate_writes_the_same_bytes_again(tiny, tmp_path, capsys):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = ["--seed", seed, "--out", str(tmp_path / f"{name}.png")]
        assert main(["generate", PROMPT, "--steps", "2", *out, *tiny]) == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (128, 128)
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "a.png")


def test_generate_at_a_size_with_a_concept(tiny, concept, tmp_path):
    out = tmp_path / "new" / "folder" / "a.png"
    flags = ["--steps", "1", "--size", "128x64", "--concept", str(concept), "--out", str(out)]
    assert main(["generate", "a photo of a sks cat", *flags, *tiny]) == 0
    with Image.open(out) as picture:
        assert picture.size == (128, 64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_concept_learnt_in_float32_draws_in_half_precision(tiny, concept, tmp_path, dtype):
    flags = ["--steps", "1", "--concept", str(concept), "--dtype", dtype, "--out", str(tmp_path / "a.png")]
    assert main(["generate", "a photo of a sks cat", *flags, *tiny]) == 0
    assert files(tmp_path) == ["a.png"]


def test_a_file_that_is_no_checkpoint(pictures, tmp_path, capsys):
    told = refused(capsys, "generate", PROMPT, "--model", pictures / "source.png", "--out", tmp_path / "a.png")
    assert "source.png is no checkpoint" in told
    assert files(tmp_path) == []


def test_a_truncated_checkpoint(tiny, tmp_path, capsys):
    with open(tiny[1], "rb") as file:
        whole = file.read()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    told = refused(capsys, "generate", PROMPT, "--model", tmp_path / "cut.safetensors", "--out", tmp_path / "a.png")
    assert "cut.safetensors is no checkpoint, or only part of one" in told
    assert files(tmp_path) == ["cut.safetensors"]


def test_an_official_model_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PHOTOSWAP_WEIGHTS", str(tmp_path))
    told = refused(capsys, "generate", PROMPT, "--model", "sd21", "--out", tmp_path / "a.png")
    assert "`photoswap weights fetch sd21` gets it" in told


def test_no_such_model(tmp_path, capsys):
    told = refused(capsys, "generate", PROMPT, "--model", tmp_path / "nowhere.safetensors", "--out", tmp_path / "a.png")
    assert "no model" in told and "miniature, sd21, sd21-base, sd15" in told
    assert files(tmp_path) == []


@pytest.mark.parametrize("device", ["cuda:63", "banana", "meta"])
def test_no_such_device(tiny, tmp_path, capsys, device):
    told = refused(capsys, "generate", PROMPT, *tiny, "--device", device, "--out", tmp_path / "a.png")
    assert f"no device '{device}' here; there is " in told and "cpu" in told
    assert files(tmp_path) == []


def test_no_such_configuration(tiny, tmp_path, capsys):
    told = refused(capsys, "generate", PROMPT, *tiny, "--config", "sdxl", "--out", tmp_path / "a.png")
    assert "no configuration 'sdxl'" in told


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_steps_that_no_schedule_has(tiny, tmp_path, capsys, steps):
    told = refused(capsys, "generate", PROMPT, "--steps", steps, *tiny, "--out", tmp_path / "a.png")
    assert str(steps) in told


def test_a_full_disk_keeps_the_result_of_before(tiny, tmp_path, capsys, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"from before")
    monkeypatch.setattr("weights.atomic.os.fsync", FullDisk(1))
    refused(capsys, "generate", PROMPT, "--steps", 1, *tiny, "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"from before"
    assert files(tmp_path) == ["a.png"]
