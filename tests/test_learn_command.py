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


def test_a_second_concept_of_a_class_draws_nothing(tiny, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("PHOTOSWAP_CLASS_PICTURES", str(tmp_path / "shared"))
    line = ["learn", str(pictures / "references"), *LEARN, *tiny]
    assert main([*line, "--out", str(tmp_path / "a")]) == 0
    assert len(list((tmp_path / "shared").glob("*/*.png"))) == 2 and not (tmp_path / "a" / "class").exists()
    monkeypatch.setattr("train.prior.sample_pictures", lambda *_: pytest.fail("drawn again"))
    assert main([*line, "--token", "zwx", "--seed", "3", "--out", str(tmp_path / "b")]) == 0


def test_masks_found_by_a_word_are_kept_for_looking_at_and_resuming(tiny, pictures, tmp_path, monkeypatch):
    line = ["learn", str(pictures / "references"), *ALONE, *tiny, "--out", str(tmp_path / "a")]
    line += ["--mask-word", "cat", "--mask-loss", "--attention-loss", "0.01"]
    assert main([*line, "--steps", "1", "--checkpoint-every", "1", "--keep-checkpoint"]) == 0
    assert files(tmp_path / "a" / "found-masks") == ["00.png", "01.png", "02.png"]
    monkeypatch.setattr("photoswap.masks.find_subject", lambda *_: pytest.fail("found again"))
    assert main([*line, "--checkpoint-every", "1", "--resume"]) == 0


def test_masks_found_for_a_run_that_is_refused_are_not_kept(tiny, pictures, tmp_path, capsys):
    line = ["learn", pictures / "references", *ALONE, *tiny, "--out", tmp_path / "out", "--mask-loss"]
    assert "multiple of" in refused(capsys, *line, "--mask-word", "cat", "--size", "100")
    assert files(tmp_path) == []


def test_masks_that_say_nothing_or_twice(tiny, pictures, tmp_path, capsys):
    line = ["learn", pictures / "references", *ALONE, *tiny, "--out", tmp_path / "out"]
    assert "without --mask-loss or --attention-loss" in refused(capsys, *line, "--mask-word", "cat")
    told = refused(capsys, *line, "--mask-loss", "--mask-word", "cat", "--masks", pictures)
    assert "leave one of them out" in told
    assert "0.png has no mask" in refused(capsys, *line, "--mask-loss")
    assert files(tmp_path) == []
