"""`photoswap learn`: what it writes, how it goes on, and one sentence for every mistake."""

import signal
import subprocess
import sys

import pytest
from command_line import ALONE, LEARN, files, refused

from photoswap.__main__ import main
from train.learner import Learner


@pytest.mark.gpu
def test_the_gpu_gives_the_same_bytes_again(tiny, pictures, tmp_path):
    """Learning too, whose backward pass adds atomically unless told otherwise. In processes of their own."""
    for name in ("a", "b"):
        learn = ["learn", pictures / "references", *LEARN, *tiny, "--device", "cuda", "--out", tmp_path / name]
        subprocess.run([sys.executable, "-m", "photoswap", *map(str, learn)], check=True)
    a, b = ((tmp_path / name / "concept.safetensors").read_bytes() for name in ("a", "b"))
    assert a == b


def test_learn_leaves_a_concept_and_resumes(tiny, pictures, tmp_path, concept):
    arguments = ["learn", str(pictures / "references"), *LEARN, *tiny, "--out", str(tmp_path / "a")]
    assert main(arguments) == 0
    assert (tmp_path / "a" / "concept.safetensors").read_bytes() == concept.read_bytes()
    assert main([*arguments, "--checkpoint-every", "1", "--keep-checkpoint", "--overwrite"]) == 0
    assert main([*arguments, "--steps", "3", "--resume", "--checkpoint-every", "1"]) == 0


def test_an_empty_folder(tiny, tmp_path, capsys):
    (tmp_path / "references").mkdir()
    told = refused(capsys, "learn", tmp_path / "references", *LEARN, *tiny, "--out", tmp_path / "out")
    assert "empty folder" in told
    assert files(tmp_path) == ["references"]


def test_interrupted_learning_says_how_to_go_on(tiny, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("train.learner.Learner.step", with_ctrl_c())
    arguments = [
        "learn",
        str(pictures / "references"),
        *ALONE,
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
