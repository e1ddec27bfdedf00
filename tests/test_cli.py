"""The command line as a whole: help, mistakes in typing, and errors of every kind as one sentence."""

import os
import subprocess
import sys

import pytest
import torch
from command_line import LEARN, PROMPT, FullDisk, files, refused

from photoswap.__main__ import main
from photoswap.commands import COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"weights"}))  # which runs no model
def test_help_shows_an_example_and_the_common_flags(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    told = capsys.readouterr().out
    assert end.value.code == 0
    assert f"  photoswap {name}" in told
    assert all(flag in told for flag in ("--model", "--device", "--dtype", "--seed", "--out"))


def test_help_is_answered_without_the_networks():
    """Importing torch takes seconds; nobody who asks for help waits for it."""
    code = "import sys, photoswap.__main__ as m; m.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=os.getcwd()).returncode == 0


@pytest.mark.parametrize("command", ["swap", "invert", "learn"])
def test_a_truncated_picture(tiny, pictures, tmp_path, capsys, command):
    whole = (pictures / "source.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    flags = {
        "swap": ["--prompt", PROMPT, "--subject", "dog", "--target", "cat"],
        "invert": ["--prompt", PROMPT, "--out", tmp_path / "out.safetensors"],
        "learn": LEARN,
    }[command]
    told = refused(capsys, command, tmp_path / "cut.png", *tiny, "--out", tmp_path / "out", *flags)
    assert "cut.png" in told and "cut short" in told
    assert files(tmp_path) == ["cut.png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "want one of demo, generate, learn, invert, swap"),
        (["paint"], "invalid choice"),
        (["generate"], "required: prompt"),
        (["generate", "x", "--size", "big"], "'big' is no size; want 768 or 768x512"),
        (["generate", "x", "--steps", "many"], "invalid int value: 'many'"),
        (["learn", "x", "--class", "cat", "--dtype", "float16"], "round to nothing in float16"),
        (["generate", "x", "--out", "picture.txt"], "want a name that ends in .png"),
        (["generate", "x", "--out", "."], "is a folder"),
        (["swap", "--subject", "dog", "--out", __file__], "is a file"),
    ],
)
def test_mistakes_in_typing(arguments, sentence, capsys):
    assert sentence in refused(capsys, *arguments)


@pytest.mark.parametrize("command", ["generate", "invert", "learn"])
def test_a_full_disk(tiny, pictures, tmp_path, capsys, monkeypatch, command):
    monkeypatch.setattr("weights.atomic.os.fsync", FullDisk(1))
    arguments = {
        "generate": [PROMPT, "--steps", 1, "--out", tmp_path / "a" / "a.png"],
        "invert": ["--prompt", PROMPT, "--steps", 1, "--out", tmp_path / "a" / "a.safetensors"],
        "learn": [pictures / "references", *LEARN, "--prior-weight", 0, "--out", tmp_path / "a"],
    }[command]
    assert "the disk is full" in refused(capsys, command, *arguments, *tiny)
    assert files(tmp_path) == []


def test_interrupted(tiny, tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("photoswap.swap.generate", stop)
    assert main(["generate", PROMPT, *tiny, "--out", str(tmp_path / "a.png")]) == 130
    assert capsys.readouterr().err == "photoswap: interrupted; no file was left half-written\n"
    assert files(tmp_path) == []


def test_bugs_are_not_disguised_as_mistakes(tiny, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("photoswap.swap.generate", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["generate", PROMPT, *tiny, "--out", str(tmp_path / "a.png")])


def test_debug_shows_where_an_error_comes_from(tmp_path):
    with pytest.raises(ValueError, match="no model"):
        main(["generate", PROMPT, "--debug", "--model", str(tmp_path / "x"), "--out", str(tmp_path / "a.png")])


def test_too_little_memory(tiny, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("photoswap.swap.generate", fail)
    assert "too little memory" in refused(capsys, "generate", PROMPT, *tiny, "--out", tmp_path / "a.png")
