"""The recogniser that is in the repository: that it sees what it is shipped to see, on scenes it never saw."""

import sys

import pytest

from train.recogniser import RECOGNISER_FILE, load_recogniser
from train.recogniser.__main__ import main
from train.recogniser.learn import accuracy


@pytest.mark.parametrize("unseen", [False, True], ids=["seen", "unseen"])
def test_species_colour_and_pattern_of_one_subject(unseen):
    found = accuracy(load_recogniser(), "small", "single", unseen, 200)
    assert min(found["species"], found["colour"], found["pattern"]) >= 0.97
    assert min(found[name] for name in ("accessory", "accessory_colour", "facing", "place", "light")) >= 0.97


@pytest.mark.parametrize("kind", ["pair", "hidden"])
def test_it_is_asked_about_crowded_scenes_too(kind):
    found = accuracy(load_recogniser(), "small", kind, True, 60)
    assert min(found["species"], found["colour"], found["pattern"]) >= 0.9


def test_it_is_small_and_does_not_learn():
    assert RECOGNISER_FILE.stat().st_size < 700_000
    parameters = list(load_recogniser().parameters())
    assert all(p.isfinite().all() for p in parameters) and not any(p.requires_grad for p in parameters)


def test_the_command_prints_a_line_for_each_kind_of_scene(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recogniser", "--count", "4"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[0].startswith("single, seen looks: species ")


@pytest.mark.parametrize("wrong", [["--count", "0"], ["--weights", "nowhere.safetensors"]])
def test_mistakes_are_one_sentence(wrong, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recogniser", *wrong])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and wrong[1] in capsys.readouterr().err
