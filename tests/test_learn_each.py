"""`photoswap learn --each`: a concept from each folder, whatever becomes of the others."""

import subprocess

import pytest
from command_line import LEARN, files, paint, refused
from test_parallel import environment, torchrun

from photoswap.__main__ import main
from train.concepts import open_concept
from train.learner import Learner


@pytest.fixture
def folders(tmp_path):
    """Two folders of pictures, one of them with a class of its own, and one whose picture is cut short."""
    home = tmp_path / "folders"
    for i, name in enumerate(("ada", "bob", "cut")):
        (home / name).mkdir(parents=True)
        paint((70, 64), i).save(home / name / "a.png")
    (home / "bob" / "class.txt").write_text("big dog\n")
    (home / "cut" / "a.png").write_bytes((home / "cut" / "a.png").read_bytes()[:99])
    return home


def arguments(folders, tiny, *more):
    return ["learn", "--each", folders, *LEARN, *tiny, "--out", folders.parent / "out", *more]


def test_each_is_learnt_and_the_one_that_fails_is_named(folders, tiny, capsys, monkeypatch):
    out = folders.parent / "out"
    assert main([str(a) for a in arguments(folders, tiny)]) == 2
    told = capsys.readouterr()
    assert "1 of 3 concepts were not learnt: cut" in told.err and "cut short" in told.err
    assert [line.split("/")[-2] for line in told.out.splitlines()] == ["ada", "bob"]
    assert open_concept(out / "ada" / "concept.safetensors").class_word == "cat"
    assert open_concept(out / "bob" / "concept.safetensors").class_word == "big dog"
    assert not (out / "cut").exists()
    paint((64, 64), 5).save(folders / "cut" / "a.png")
    steps = []
    step = Learner.step
    monkeypatch.setattr(Learner, "step", lambda self: (steps.append(self), step(self))[1])
    assert main([str(a) for a in arguments(folders, tiny)]) == 0  # what is there is left alone
    assert len(steps) == 2
    assert capsys.readouterr().out.count("is there already") == 2


def test_an_interrupted_one_goes_on(folders, tiny, capsys, monkeypatch):
    (folders / "cut" / "a.png").unlink()
    (folders / "cut").rmdir()
    step, out = Learner.step, folders.parent / "out"

    def stop_bob(self):
        if self.config.class_word == "big dog" and self.done == 1:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as context:
        context.setattr(Learner, "step", stop_bob)
        assert main([str(a) for a in arguments(folders, tiny)]) == 130
    assert "bob/checkpoint.safetensors" in files(out) and "bob/concept.safetensors" not in files(out)
    assert main([str(a) for a in arguments(folders, tiny)]) == 0
    interrupted = (out / "bob" / "concept.safetensors").read_bytes()
    assert main([str(a) for a in arguments(folders, tiny, "--overwrite")]) == 0
    assert (out / "bob" / "concept.safetensors").read_bytes() == interrupted


@pytest.mark.slow
def test_several_processes_share_the_folders(folders, tiny):
    command = [*torchrun(2), "-m", "photoswap", *map(str, arguments(folders, tiny))]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert run.returncode == 1  # torchrun's own for a process that ended with another than 0
    assert run.stderr.count("1 of 3 concepts were not learnt: cut") == 1
    assert sorted(line.split("/")[-2] for line in run.stdout.splitlines()) == ["ada", "bob"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--each", "none"], "has a folder of pictures for each concept; none is none"),
        (["--each", ".", "a.png"], "leave the others out"),
        (["--each", ".", "--resume"], "leave --resume out"),
        (["--each", ".", "--masks", "."], "leave --masks out"),
        ([], "there are no references"),
    ],
)
def test_refusals(tiny, tmp_path, capsys, more, sentence):
    assert sentence in refused(capsys, "learn", *more, *LEARN, *tiny, "--out", tmp_path / "out")
    assert files(tmp_path) == []


def test_a_folder_without_folders_or_pictures(tiny, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert "has no folders" in refused(capsys, *arguments(tmp_path / "in", tiny))
    (tmp_path / "in" / "ada").mkdir()
    (tmp_path / "in" / "ada" / "class.txt").write_text(" ")
    assert main([str(a) for a in arguments(tmp_path / "in", tiny)]) == 2
    assert "empty folder" in capsys.readouterr().err
    paint((64, 64), 0).save(tmp_path / "in" / "ada" / "a.png")
    assert main([str(a) for a in arguments(tmp_path / "in", tiny)]) == 2
    assert "class.txt has no words" in capsys.readouterr().err
