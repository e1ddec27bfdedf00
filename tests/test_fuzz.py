"""A few dozen spoiled command lines; `python -m tests.fuzz` tries thousands. And that the judge sees every fault."""

import re
from pathlib import Path

import fuzz
import pytest
import torch

from photoswap.commands import COMMANDS, generate, mask


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr("photoswap.demo.run_demo", fuzz.without_the_demo)
    monkeypatch.setattr("photoswap.web.server.serve", fuzz.without_a_page)
    monkeypatch.setattr("photoswap.benchmark.report.run_and_report", fuzz.without_the_benchmark)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_spoiled_lines_end_in_one_sentence_and_leave_nothing(home):
    faults, codes = fuzz.fuzz(home, 60, seed=2)
    assert not faults, "\n".join(faults)
    assert codes[2] > 30 and codes[0] > 0, codes


def test_a_line_is_a_function_of_seed_and_number():
    files = ["a.png", "b.safetensors"]
    first, again, other = (fuzz.Lines(seed, files) for seed in (1, 1, 2))
    lines = [first.line(number) for number in range(100)]
    assert [again.line(number) for number in range(100)] == lines
    assert [other.line(number) for number in range(100)] != lines
    assert {line[0] for line in lines} == {*fuzz.LINES}


def test_every_command_is_tried():
    assert set(fuzz.LINES) == set(COMMANDS)


def test_a_line_that_fails_is_shown_again_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(mask, "run", has_a_bug)
    faults = []
    for name, first, count in (("home", 0, 18), ("again", None, 1)):
        (tmp_path / name).mkdir()
        if first is None:
            first = int(re.match(r"--seed 2 --first (\d+) --count 1: photoswap mask ", faults[0][0])[1])
        faults.append(fuzz.fuzz(tmp_path / name, count, 2, first)[0])
    assert faults[1] == faults[0][:1] and "KeyError: 'fault'" in faults[1][0]


def leaves_a_file(arguments):
    Path("left.png").touch()
    raise ValueError("no such luck")


def says_too_much(arguments):
    print("as if it had worked")
    raise ValueError("no such luck")


def has_a_bug(arguments):
    raise KeyError("fault")


def destroys(arguments):
    Path("photo.png").write_bytes(b"")


def overwrites(arguments):
    Path("earlier/result.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (lambda arguments: None, None),
        (leaves_a_file, r"a refusal changed \['left.png'\]"),
        (says_too_much, "not one sentence"),
        (has_a_bug, "KeyError: 'fault'"),
        (lambda arguments: torch.ones(2) @ torch.ones(3), "RuntimeError"),
        (destroys, r"what it did not make was changed: \['photo.png'\]"),
        (overwrites, r"overwritten without a word: \['earlier/result.png'\]"),
    ],
)
def test_the_judge_sees_every_fault(run, fault, tmp_path, monkeypatch):
    (tmp_path / "earlier").mkdir()
    for name in ("photo.png", "earlier/result.png"):
        (tmp_path / name).write_bytes(b"from before")
    monkeypatch.setattr(generate, "run", run)
    with fuzz.workplace(tmp_path):
        _, found = fuzz.judge(["generate", "a cat"], tmp_path, fuzz.snapshot(tmp_path))
    assert (found is None) == (fault is None)
    assert fault is None or re.search(fault, found)
