"""The command line as a whole: help, mistakes in typing, and errors of every kind as one sentence."""

import errno
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from command_line import ALONE, LEARN, PROMPT, FullDisk, files, refused, swap_arguments

from photoswap.__main__ import build_parser, main
from photoswap.commands import COMMANDS
from photoswap.commands.common import UNTIL_THE_END, load_model, make_repeatable


@pytest.mark.parametrize(
    "name", sorted(COMMANDS.keys() - {"weights", "methods", "web"})
)  # no model; one that draws itself nothing
def test_help_shows_an_example_and_the_common_flags(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    told = capsys.readouterr().out
    assert end.value.code == 0
    assert f"  photoswap {name}" in told
    assert all(flag in told for flag in ("--model", "--device", "--seed", "--out", "--overwrite"))
    assert ("--dtype" in told) == (name not in ("demo", "evaluate"))  # which learn in float32 and have no other way


def test_help_is_answered_without_the_networks():
    """Importing torch takes seconds; nobody who asks for help, or has made a slip in typing, waits for it."""
    code = f"""
import sys
from photoswap.__main__ import main
commands = [[name] for name in {sorted(COMMANDS)}] + [["weights", "fetch"], ["weights", "convert"]]
for line in [["--help"], ["--version"], *([*command, "--help"] for command in commands)]:
    try:
        main(line)
    except SystemExit as end:
        assert end.code == 0
for line in [[], ["generate", "x", "--steps", "0"], ["demo", "--out", "."], ["swap", "--seed", "x"]]:
    assert main(line) == 2, line
assert not {{"torch", "numpy", "PIL", "open_clip", "gradio"}} & sys.modules.keys(), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.getcwd(), stdout=subprocess.DEVNULL)


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
        ([], "want one of demo, evaluate, generate, learn, invert, mask"),
        (["bake"], "invalid choice"),
        (["generate"], "required: prompt"),
        (["generate", "x", "--size", "big"], "'big' is no size; want 768 or 768x512"),
        (["generate", "x", "--steps", "many"], "'many' is out of bounds; want a whole number, 1..1000"),
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
        "learn": [pictures / "references", *ALONE, "--out", tmp_path / "a"],
    }[command]
    assert "the disk is full" in refused(capsys, command, *arguments, *tiny)
    assert files(tmp_path) == []


def test_interrupted(tiny, tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("photoswap.drawing.generate", stop)
    assert main(["generate", PROMPT, *tiny, "--out", str(tmp_path / "a.png")]) == 130
    assert capsys.readouterr().err == "photoswap: interrupted; no file was left half-written\n"
    assert files(tmp_path) == []


def test_bugs_are_not_disguised_as_mistakes(tiny, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("photoswap.drawing.generate", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["generate", PROMPT, *tiny, "--out", str(tmp_path / "a.png")])


def test_debug_shows_where_an_error_comes_from(tmp_path):
    with pytest.raises(ValueError, match="no model"):
        main(["generate", PROMPT, "--debug", "--model", str(tmp_path / "x"), "--out", str(tmp_path / "a.png")])


def on_the_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory")


def no_pages():
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


@pytest.mark.parametrize(
    "take",
    [
        on_the_gpu,
        no_pages,
        lambda: torch.empty(2**58, dtype=torch.uint8),
        lambda: np.empty(2**58, dtype=np.uint8),
        lambda: bytearray(2**62),
    ],
)
def test_too_little_memory(tiny, tmp_path, capsys, monkeypatch, take):
    """The GPU's, the system's, and what torch, numpy and Python say when they ask for more than any machine has."""
    monkeypatch.setattr("photoswap.drawing.generate", lambda *_, **__: take())
    told = refused(capsys, "generate", PROMPT, *tiny, "--out", tmp_path / "a.png")
    assert "there is too little memory for this; try a smaller --size" in told
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "message",
    ["x" * 20_000, "a few words " * 2_000, "\x1b[2J\x07" * 5_000, "one\ntwo\r\n\nthree", "\udcff\u202e"],
    ids=["a word", "words", "controls", "lines", "no text"],
)
@pytest.mark.filterwarnings("always::UserWarning")
def test_a_sentence_is_one_line_of_bounded_length(message, tmp_path, capsys, monkeypatch):
    """Whatever a message quotes: of a long one the beginning and the end are kept, and no control character."""

    def fail(*_, **__):
        warnings.warn(message, stacklevel=1)
        raise ValueError(f"begin {message} end")

    monkeypatch.setattr("weights.load.load_as", fail)
    assert main(["generate", PROMPT, "--device", "cpu", "--out", str(tmp_path / "a.png")]) == 2
    warning, sentence = capsys.readouterr().err.splitlines()
    assert sentence.startswith("photoswap: begin ") and sentence.endswith(" end")
    for line in (warning, sentence):
        assert len(line) < 650 and line.isprintable()


@pytest.mark.parametrize("flag", ["--size", "--steps", "--preset", "--device", "--model", "--mask", "--x", "--concept"])
def test_long_values_are_shortened_when_they_are_quoted(flag, tiny, pictures, tmp_path, capsys):
    more = [*tiny, flag, "1" * 30_000]
    told = refused(capsys, *swap_arguments(pictures / "source.png", [], tmp_path / "out", *more))
    assert len(told) < 650
    assert files(tmp_path) == []


def test_the_gpu_is_made_to_add_in_a_fixed_order(monkeypatch):
    """For the whole process, once a model is loaded there; on the CPU nothing is changed."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert not torch.are_deterministic_algorithms_enabled()
    make_repeatable(torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    try:
        with warnings.catch_warnings():
            make_repeatable(torch.device("cuda"))
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            warnings.warn("scatter does not have a deterministic implementation", UserWarning, stacklevel=1)
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_the_models_device_is_made_repeatable(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr("photoswap.commands.common.make_repeatable", seen.append)
    with UNTIL_THE_END:  # as `main` does, or a later command would put back what this one found
        load_model(build_parser().parse_args(["generate", PROMPT, *tiny]))
    assert seen == [torch.device("cpu")]
