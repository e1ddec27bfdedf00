"""The command line: what each command writes, and one sentence for every mistake."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import write_tiny_model

from photoswap.__main__ import main
from photoswap.commands import COMMANDS
from train.learner import Learner

PROMPT = "a photo of a dog on grass"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model file and the flags that make it quick."""
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    return ["--model", str(path), "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of three references, and one picture of another shape beside it."""
    home = tmp_path_factory.mktemp("pictures")
    (home / "references").mkdir()
    for i in range(3):
        paint((150, 140), i).save(home / "references" / f"{i}.png")
    paint((300, 180), 3).save(home / "source.png")
    return home


@pytest.fixture(scope="module")
def concept(tiny, pictures, tmp_path_factory):
    """A concept learnt in two steps."""
    out = tmp_path_factory.mktemp("concept")
    assert main(["learn", str(pictures / "references"), *LEARN, "--out", str(out), *tiny]) == 0
    return out / "concept.safetensors"


LEARN = ["--class", "cat", "--steps", "2", "--class-pictures", "2", "--size", "64"]


def paint(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth colours: a small random picture, enlarged."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def refused(capsys, *arguments: object) -> str:
    """Run a command that must end in one sentence and exit code 2; returns the sentence."""
    assert main([str(a) for a in arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("photoswap: ") and told.err.count("\n") == 1
    assert "Traceback" not in told.err
    return told.err


def files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# What the commands write


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


@pytest.mark.gpu
def test_the_gpu_gives_the_same_bytes_again(tiny, pictures, tmp_path):
    """Learning too, whose backward pass adds atomically unless told otherwise. In processes of their own."""
    for name in ("a", "b"):
        learn = ["learn", pictures / "references", *LEARN, *tiny, "--device", "cuda", "--out", tmp_path / name]
        subprocess.run([sys.executable, "-m", "photoswap", *map(str, learn)], check=True)
    a, b = ((tmp_path / name / "concept.safetensors").read_bytes() for name in ("a", "b"))
    assert a == b


def test_swap_writes_two_pictures_and_a_record_that_repeats_them(tiny, pictures, concept, tmp_path):
    flags = ["--prompt", PROMPT, "--subject", "dog", "--concept", str(concept), "--steps", "4", "--blend"]
    arguments = ["swap", str(pictures / "source.png"), *flags, *tiny]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 0
    assert files(tmp_path / "a") == ["grid.png", "result.png", "swap.json"]
    for name in ("grid.png", "result.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "result.png") as result:
        assert result.size == (300, 180)
    record = json.loads((tmp_path / "a" / "swap.json").read_text())
    assert record["seed"] == 0 and record["arguments"]["source"] == str(pictures / "source.png")
    assert record["settings"]["source_prompt"] == PROMPT
    assert record["settings"]["target_prompt"] == "a photo of a sks cat on grass"
    assert record["settings"]["plan"]["steps"] == 4
    assert set(record["seconds"]) >= {"load", "invert", "denoise", "decode"}


def test_swap_of_an_inversion_is_the_swap_of_its_picture(tiny, pictures, tmp_path):
    common = ["--subject", "dog", "--target", "red fox", *tiny]
    source, held = str(pictures / "source.png"), str(tmp_path / "held.safetensors")
    invert = ["invert", source, "--prompt", PROMPT, "--steps", "3", "--out", held, *tiny]
    assert main([*invert, "--reconstruction", str(tmp_path / "again.png")]) == 0
    assert main(["swap", held, *common, "--out", str(tmp_path / "a")]) == 0
    assert main(["swap", source, "--prompt", PROMPT, "--steps", "3", *common, "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "result.png").read_bytes() == (tmp_path / "b" / "result.png").read_bytes()
    assert (tmp_path / "again.png").is_file()


def test_swap_of_a_drawn_source(tiny, tmp_path):
    flags = ["--prompt", PROMPT, "--subject", "dog", "--target", "cat", "--steps", "2", "--seed", "5"]
    assert main(["swap", *flags, *tiny, "--out", str(tmp_path / "a")]) == 0
    held = str(tmp_path / "held.safetensors")
    assert main(["invert", "--prompt", PROMPT, "--seed", "5", "--steps", "2", "--out", held, *tiny]) == 0
    assert main(["swap", held, "--subject", "dog", "--target", "cat", *tiny, "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "result.png").read_bytes() == (tmp_path / "b" / "result.png").read_bytes()


def test_outside_a_mask_the_source_is_kept(tiny, pictures, tmp_path):
    mask = Image.new("L", (300, 180), 0)
    mask.paste(255, (100, 50, 200, 130))
    mask.save(tmp_path / "mask.png")
    flags = [
        "--prompt",
        PROMPT,
        "--subject",
        "dog",
        "--target",
        "cat",
        "--steps",
        "2",
        "--mask",
        str(tmp_path / "mask.png"),
    ]
    assert main(["swap", str(pictures / "source.png"), *flags, *tiny, "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "result.png") as result, Image.open(pictures / "source.png") as source:
        outside = np.array(mask) == 0
        assert (np.array(result)[outside] == np.array(source)[outside]).all()


def test_learn_leaves_a_concept_and_resumes(tiny, pictures, tmp_path, concept):
    arguments = ["learn", str(pictures / "references"), *LEARN, *tiny, "--out", str(tmp_path / "a")]
    assert main(arguments) == 0
    assert (tmp_path / "a" / "concept.safetensors").read_bytes() == concept.read_bytes()
    assert main([*arguments, "--checkpoint-every", "1"]) == 0
    assert main([*arguments, "--steps", "3", "--resume", "--checkpoint-every", "1"]) == 0


# Mistakes: one sentence, exit code 2, nothing left


def swap_arguments(source, tiny, out, *more: object) -> list:
    return ["swap", source, "--prompt", PROMPT, "--subject", "dog", "--target", "cat", *more, *tiny, "--out", out]


def test_no_such_picture(tiny, tmp_path, capsys):
    told = refused(capsys, *swap_arguments(tmp_path / "nowhere.png", tiny, tmp_path / "out"))
    assert "no such picture" in told and "nowhere.png" in told
    assert files(tmp_path) == []


def test_no_such_model(tmp_path, capsys):
    told = refused(capsys, "generate", PROMPT, "--model", tmp_path / "nowhere.safetensors", "--out", tmp_path / "a.png")
    assert "no model" in told and "miniature, sd21, sd21-base, sd15" in told
    assert files(tmp_path) == []


def test_an_official_model_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PHOTOSWAP_WEIGHTS", str(tmp_path))
    told = refused(capsys, "generate", PROMPT, "--model", "sd21", "--out", tmp_path / "a.png")
    assert "`photoswap weights fetch sd21` gets it" in told


def test_no_such_inversion(tiny, tmp_path, capsys):
    told = refused(capsys, *swap_arguments(tmp_path / "nowhere.safetensors", tiny, tmp_path / "out"))
    assert "no inversion at" in told


def test_no_such_concept(tiny, pictures, tmp_path, capsys):
    more = ("--concept", tmp_path / "nowhere.safetensors")
    told = refused(capsys, *swap_arguments(pictures / "source.png", tiny, tmp_path / "out", *more))
    assert "nowhere.safetensors" in told
    assert files(tmp_path) == []


def test_not_a_picture(tiny, tmp_path, capsys):
    (tmp_path / "notes.png").write_text("not a picture")
    told = refused(capsys, *swap_arguments(tmp_path / "notes.png", tiny, tmp_path / "out"))
    assert "notes.png is not a picture" in told
    assert files(tmp_path) == ["notes.png"]


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


def test_an_empty_folder(tiny, tmp_path, capsys):
    (tmp_path / "references").mkdir()
    told = refused(capsys, "learn", tmp_path / "references", *LEARN, *tiny, "--out", tmp_path / "out")
    assert "empty folder" in told
    assert files(tmp_path) == ["references"]


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


@pytest.mark.parametrize("kind", ["concept", "inversion"])
def test_a_truncated_concept_or_inversion(kind, tiny, pictures, concept, tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes(concept.read_bytes()[:5000])
    source = tmp_path / "cut.safetensors" if kind == "inversion" else pictures / "source.png"
    more = ("--concept", tmp_path / "cut.safetensors") if kind == "concept" else ()
    told = refused(capsys, *swap_arguments(source, tiny, tmp_path / "out", *more))
    assert "cut.safetensors is no" in told
    assert files(tmp_path) == ["cut.safetensors"]


def test_a_concept_of_another_model(concept, pictures, tmp_path, capsys):
    other = write_tiny_model(tmp_path / "other.safetensors", seed=1)
    more = ("--concept", concept)
    told = refused(capsys, *swap_arguments(pictures / "source.png", ["--model", other], tmp_path / "out", *more))
    assert "was learnt on" in told
    assert files(tmp_path) == ["other.safetensors"]


def test_an_inversion_of_another_model(tiny, tmp_path, capsys):
    other = write_tiny_model(tmp_path / "other.safetensors", seed=1)
    held = tmp_path / "held.safetensors"
    assert main(["invert", "--prompt", PROMPT, "--steps", "1", "--out", str(held), *tiny]) == 0
    capsys.readouterr()
    told = refused(capsys, *swap_arguments(held, ["--model", other], tmp_path / "out"))
    assert "another model" in told
    told = refused(capsys, *swap_arguments(held, tiny, tmp_path / "out", "--steps", "2"))
    assert "has 1 steps, the swap 2" in told
    assert files(tmp_path) == ["held.safetensors", "other.safetensors"]


def test_a_prompt_without_the_subject(tiny, pictures, tmp_path, capsys):
    source = pictures / "source.png"
    told = refused(capsys, *swap_arguments(source, tiny, tmp_path / "out", "--subject", "horse"))
    assert 'lacks the word "horse"' in told
    told = refused(capsys, *swap_arguments(source, tiny, tmp_path / "out", "--target-prompt", "a photo of a fox"))
    assert 'lacks the subject\'s word "cat"' in told
    assert files(tmp_path) == []


def test_prompts_that_are_missing(tiny, pictures, tmp_path, capsys):
    told = refused(capsys, "swap", pictures / "source.png", "--subject", "dog", *tiny, "--out", tmp_path / "out")
    assert "--prompt" in told
    told = refused(capsys, "swap", "--prompt", PROMPT, "--subject", "dog", *tiny, "--out", tmp_path / "out")
    assert "--concept or --target" in told


@pytest.mark.parametrize(("flag", "value"), [("--output-steps", 5), ("--map-steps", -1), ("--cross-steps", 99)])
def test_lambda_outside_the_steps(tiny, pictures, tmp_path, capsys, flag, value):
    more = ("--steps", 4, flag, value)
    told = refused(capsys, *swap_arguments(pictures / "source.png", tiny, tmp_path / "out", *more))
    assert str(value) in told and "0..4" in told
    assert files(tmp_path) == []


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_steps_that_no_schedule_has(tiny, tmp_path, capsys, steps):
    told = refused(capsys, "generate", PROMPT, "--steps", steps, *tiny, "--out", tmp_path / "a.png")
    assert str(steps) in told


@pytest.mark.parametrize("size", ["32", "0x64", "100x64"])
def test_a_size_too_small_or_between(tiny, pictures, tmp_path, capsys, size):
    told = refused(capsys, *swap_arguments(pictures / "source.png", tiny, tmp_path / "out", "--size", size))
    assert "multiples of 64" in told
    assert files(tmp_path) == []


def test_a_picture_too_small(tiny, tmp_path, capsys):
    paint((8, 300), 0).save(tmp_path / "thin.png")
    told = refused(capsys, *swap_arguments(tmp_path / "thin.png", tiny, tmp_path / "out"))
    assert "8 x 300 pixels; want at least 16" in told


def test_a_mask_of_another_size(tiny, pictures, tmp_path, capsys):
    Image.new("L", (20, 20), 255).save(tmp_path / "mask.png")
    more = ("--mask", tmp_path / "mask.png", "--steps", 1)
    told = refused(capsys, *swap_arguments(pictures / "source.png", tiny, tmp_path / "out", *more))
    assert "20 x 20" in told and "300 x 180" in told
    assert files(tmp_path) == ["mask.png"]


@pytest.mark.parametrize("device", ["cuda:63", "banana", "meta"])
def test_no_such_device(tiny, tmp_path, capsys, device):
    told = refused(capsys, "generate", PROMPT, *tiny, "--device", device, "--out", tmp_path / "a.png")
    assert f"no device '{device}' here; there is " in told and "cpu" in told
    assert files(tmp_path) == []


def test_no_such_configuration(tiny, tmp_path, capsys):
    told = refused(capsys, "generate", PROMPT, *tiny, "--config", "sdxl", "--out", tmp_path / "a.png")
    assert "no configuration 'sdxl'" in told


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


class FullDisk:
    """fsync that fails at the nth call, as it does where space is only taken when the file is flushed."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, handle: int) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_disk_that_fills_up_while_swapping(tiny, pictures, tmp_path, capsys, monkeypatch, at):
    monkeypatch.setattr("weights.atomic.os.fsync", FullDisk(at))
    told = refused(capsys, *swap_arguments(pictures / "source.png", tiny, tmp_path / "new" / "out", "--steps", 1))
    assert "the disk is full" in told and "--out" in told
    assert files(tmp_path) == []


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


def test_a_full_disk_keeps_the_result_of_before(tiny, tmp_path, capsys, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"from before")
    monkeypatch.setattr("weights.atomic.os.fsync", FullDisk(1))
    refused(capsys, "generate", PROMPT, "--steps", 1, *tiny, "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"from before"
    assert files(tmp_path) == ["a.png"]


def test_interrupted(tiny, tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("photoswap.swap.generate", stop)
    assert main(["generate", PROMPT, *tiny, "--out", str(tmp_path / "a.png")]) == 130
    assert capsys.readouterr().err == "photoswap: interrupted; no file was left half-written\n"
    assert files(tmp_path) == []


def test_interrupted_learning_says_how_to_go_on(tiny, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("train.learner.Learner.step", with_ctrl_c())
    arguments = [
        "learn",
        str(pictures / "references"),
        *LEARN,
        "--prior-weight",
        "0",
        *tiny,
        "--out",
        str(tmp_path / "a"),
    ]
    assert main(arguments) == 130
    assert "the same command with --resume goes on" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*arguments, "--resume"]) == 0


def with_ctrl_c():
    """Learner.step, with Ctrl-C pressed during the first one."""
    step = Learner.step

    def pressed(learner):
        if learner.done == 0:
            signal.raise_signal(signal.SIGINT)
        return step(learner)

    return pressed


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
