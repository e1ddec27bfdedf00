"""`photoswap evaluate`: its flags make a plan, mistakes are told before anything runs, and a run writes its tables."""

import pytest
from command_line import files, refused

from photoswap.__main__ import main
from photoswap.benchmark import cells, report
from photoswap.commands import evaluate

QUICK = ["evaluate", "--tasks", "1", "--steps", "1", "--methods", "reference-attention"]  # which learns nothing


def test_a_run_prints_and_writes_its_tables(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*QUICK, "--masks", "true", *tiny, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "## Gates" in told and "| reference-attention |" in told and str(out / "table.html") in told
    assert (out / "table.md").read_text() in told
    before = files(out)
    assert main([*QUICK, "--masks", "true", *tiny, "--out", str(out)]) == 0
    assert files(out) == before


def test_a_shard_leaves_the_tables_to_the_others(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    line = [*QUICK, "--tasks", "2", *tiny, "--out", str(out), "--shard"]
    assert main([*line, "0/2"]) == 0
    assert "results are still missing" in capsys.readouterr().out and not (out / "table.md").exists()
    assert main([*line, "1/2"]) == 0
    assert (out / "table.md").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "cake"], "no method 'cake'"),
        (["--inversions", "cake"], "no inversion 'cake'"),
        (["--concepts", "cake"], "no way of learning 'cake'"),
        (["--concepts", "dreambooth:cake"], "no preset 'cake' of dreambooth"),
        (["--shard", "2/2"], "want I/N, such as 0/4 to 3/4"),
        (["--split", "demo", "--kind", "pair"], "the demo's scenes have one subject each"),
        (["--recogniser", "nowhere.safetensors"], "there is no file nowhere.safetensors"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tiny, tmp_path, capsys, words, sentence):
    assert sentence in refused(capsys, "evaluate", *words, *tiny, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_run_of_ours_are_not_replaced(tiny, tmp_path, capsys):
    (tmp_path / "table.md").write_text("mine")
    assert "is there already" in refused(capsys, *QUICK, *tiny, "--out", tmp_path)
    assert (tmp_path / "table.md").read_text() == "mine"


def test_what_the_command_knows_beforehand_is_what_the_benchmark_writes():
    assert (evaluate.EARLIER, evaluate.TABLES) == (cells.CELLS, report.REPORT_FILES)
