"""Values on the command line: what is within bounds comes through, what is not is one sentence, at once."""

import argparse

import pytest
from command_line import files, refused

from photoswap.commands import arguments as types

SWAP = ["swap", "--prompt", "a dog", "--subject", "dog", "--target", "cat"]
LEARN = ["learn", "x", "--class", "cat"]


@pytest.mark.parametrize(
    ("convert", "text", "value"),
    [
        (types.whole(1, 1000), "1000", 1000),
        (types.whole(0, types.SEED), str(types.SEED), types.SEED),
        (types.number(0, 100), "7.5", 7.5),
        (types.number(0, 1, above=True), "1e-6", 1e-6),
        (types.size, "768", (768, 768)),
        (types.size, "4096X1024", (4096, 1024)),
        (types.prompt, "", ""),
        (types.words, "sks cat", "sks cat"),
    ],
)
def test_what_is_within_bounds(convert, text, value):
    assert convert(text) == value


@pytest.mark.parametrize("text", ["", " ", "0", "1001", "-1", "1.0", "1e3", "nan", "١٢", "1_0", "9" * 5000, "--"])
def test_no_whole_number(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"want a whole number, 1\.\.1000"):
        types.whole(1, 1000)(text)


@pytest.mark.parametrize("text", ["", "nan", "inf", "-inf", "1e400", "-0.001", "100.001", "0x10", "1,5"])
def test_no_number(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"want a number 0\.\.100"):
        types.number(0, 100)(text)


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert types.path("~/a.png") == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate", "x", "--guidance", "nan"], "--guidance: 'nan' is out of bounds; want a number 0..100"),
        (["generate", "x", "--guidance", "inf"], "want a number 0..100"),
        (["generate", "x", "--steps=--"], "argument --steps: '--' is no value"),
        (["generate", "x", "--steps", "0"], "want a whole number, 1..1000"),
        (["generate", "x", "--seed", "99999999999999999999"], "want a whole number, 0..9223372036854775807"),
        (["generate", "x", "--seed", "-1"], "want a whole number, 0.."),
        (["generate", "x", "--size", "20032x64"], "'20032x64' is too large; want sides up to 4096"),
        (["generate", "x", "--size", "4096x4096"], "no more than 4194304 pixels"),
        (["generate", "x" * 20_000], "20000 characters are no prompt"),
        (["generate", "\udcff"], "is not in the terminal's encoding"),
        (["generate", "x", "--out", ""], "'' is no path"),
        (["generate", "x", "--out", "a\0.png"], "is no path"),
        (["generate", "x", "--out", "~nosuchuser/a.png"], "there is no home folder for '~nosuchuser/a.png'"),
        (["generate", "x", "--model", "~nosuchuser/a.safetensors"], "~nosuchuser"),
        ([*SWAP, "--blend=--"], "argument --blend: '--' is no value"),
        ([*SWAP, "--blend", "nan"], "want a number 0..1"),
        ([*SWAP, "--M", "-1"], "want a whole number, 0..1000"),
        ([*SWAP, "--preset", "official", "--fractions", "0.4", "2", "0"], "want a number 0..1"),
        ([*SWAP, "--set", "phi"], "'phi' is no setting; want SETTING=VALUE"),
        ([*SWAP, "--set", "phi=NaN"], "NaN is no number"),
        ([*SWAP, "--set", "phi=" + "[" * 5000], "is no setting"),
        ([*SWAP, "--set", "phi=3", "--phi", "4"], "phi is set twice"),
        ([*SWAP, "--set", "phi=3", "--set", "phi=4"], "phi is set twice"),
        ([*SWAP, "--set", "steps=3"], "that setting has a flag of its own; say --steps"),
        ([*SWAP, "--set", "cake=3"], "photoswap has no setting cake"),
        ([*SWAP, "--set", "max_queries=many"], "--set max_queries='many' is of the wrong kind; want int | None"),
        ([*SWAP, "--set", "phi=true"], "--set phi=True is of the wrong kind; want int"),
        ([*SWAP, "--set", "align=1"], "is of the wrong kind; want "),
        (["swap", "--subject", " ", "--prompt", "a dog"], "--subject: it is empty"),
        ([*LEARN, "--learning-rate", "inf"], "want a number above 0 and up to 1"),
        ([*LEARN, "--learning-rate", "0"], "want a number above 0"),
        ([*LEARN, "--batch", "1000000"], "want a whole number, 1..1024"),
        ([*LEARN, "--class-pictures", "1000000000"], "want a whole number, 1..10000"),
        ([*LEARN, "--steps", "1" * 30], "want a whole number, 1..1000000"),
        ([*LEARN, "--prior-weight", "nan"], "want a number 0..100"),
        ([*LEARN, "--size", "1000000"], "want a whole number, 8..2048"),
        (["learn", "x", "--class", ""], "--class: it is empty"),
    ],
)
def test_what_is_out_of_bounds_is_told(arguments, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *arguments)
    assert files(tmp_path) == []


def test_no_home_at_all(tmp_path, capsys, monkeypatch):
    """Neither HOME nor an entry for this user, as in some containers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PHOTOSWAP_WEIGHTS", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it gives where there is no home
    assert "home" in refused(capsys, "generate", "x", "--model", "sd21")
    assert "home" in refused(capsys, "weights", "list")
    assert "home" in refused(capsys, "generate", "x", "--out", "~/a.png")
    assert files(tmp_path) == []
