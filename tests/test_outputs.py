"""What the commands write: never over what they read, over earlier results only when told to, and all or nothing."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ALONE, PROMPT, files, paint, refused, swap_arguments

from photoswap.__main__ import main
from photoswap.commands.outputs import check_free, say, write_together


def same(path, output, how):
    """Another name for the file: itself, by another route, or a link to it."""
    if how == "symbolic link":
        output.symlink_to(path)
    if how == "hard link":
        os.link(path, output)
    if how == "another route":
        return path.parent / ".." / path.parent.name / path.name
    return path if how == "itself" else output


@pytest.mark.parametrize("how", ["itself", "another route", "symbolic link", "hard link"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_an_input_is_never_written_over(tmp_path, how, overwrite):
    path = tmp_path / "in.png"
    path.write_bytes(b"the source")
    output = same(path, tmp_path / "out.png", how)
    with pytest.raises(ValueError, match="is what is to be read; --out writes elsewhere"):
        check_free([tmp_path / "free.png", output], [None, path], overwrite)


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link"])
def test_nor_is_a_part_of_one(tmp_path, how):
    (tmp_path / "model" / "unet").mkdir(parents=True)
    path = tmp_path / "model" / "unet" / "weights.safetensors"
    path.write_bytes(b"the model")
    output = same(path, tmp_path / "out.safetensors", how)
    with pytest.raises(ValueError, match="is what is to be read, a part of "):
        check_free([output], [tmp_path / "model"], True)


def test_a_model_by_its_name_is_an_input_too(tmp_path, monkeypatch):
    monkeypatch.setattr("weights.published.MINIATURE_FILE", tmp_path / "miniature.safetensors")
    (tmp_path / "miniature.safetensors").write_bytes(b"the model")
    with pytest.raises(ValueError, match="is what is to be read"):
        check_free([tmp_path / "miniature.safetensors"], ["miniature"], True)


def test_what_is_there_is_replaced_only_when_told_to(tmp_path):
    (tmp_path / "a.png").write_bytes(b"from before")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("a.png", "dangling.png", "pipe.png"):
        with pytest.raises(ValueError, match=f"{name} is there already; --overwrite replaces it"):
            check_free([tmp_path / name], [], False)
    check_free([tmp_path / "a.png", tmp_path / "dangling.png"], [tmp_path / "other.png", "miniature"], True)
    with pytest.raises(ValueError, match=r"pipe\.png is no ordinary file"):
        check_free([tmp_path / "pipe.png"], [], True)


def commands(tiny, pictures, out):
    """A quick line of every command, and the file that it writes first."""
    source = pictures / "source.png"
    return {
        "generate": (["generate", PROMPT, "--steps", 1, *tiny, "--out", out / "a.png"], out / "a.png"),
        "invert": (
            ["invert", source, "--prompt", PROMPT, "--steps", 1, *tiny, "--out", out / "a.safetensors"],
            out / "a.safetensors",
        ),
        "swap": (swap_arguments(source, tiny, out, "--steps", 1), out / "result.png"),
        "learn": (["learn", pictures / "references", *ALONE, *tiny, "--out", out], out / "concept.safetensors"),
        "demo": (["demo", "--out", out / "demo.png"], out / "demo.png"),
        "weights": (
            ["weights", "convert", tiny[1], out / "a.safetensors", "--layout", "ldm"],
            out / "a.safetensors",
        ),
    }


@pytest.mark.parametrize("name", ["generate", "invert", "swap", "learn", "demo", "weights"])
def test_every_command_says_so_before_it_overwrites(name, tiny, pictures, tmp_path, capsys):
    arguments, output = commands(tiny, pictures, tmp_path)[name]
    output.write_bytes(b"from before")
    told = refused(capsys, *arguments)
    assert f"{output.name} is there already; --overwrite replaces it" in told
    assert output.read_bytes() == b"from before" and files(tmp_path) == [output.name]
    if name != "demo":  # which takes minutes
        assert main([*map(str, arguments), "--overwrite"]) == 0
        assert output.read_bytes() != b"from before"


def test_commands_never_write_over_what_they_read(tiny, pictures, concept, tmp_path, capsys):
    out, model = tmp_path / "result.png", tmp_path / "model.safetensors"
    paint((64, 64), 0).save(out)
    model.write_bytes(Path(tiny[1]).read_bytes())
    held = concept.read_bytes()
    (tmp_path / "concept.safetensors").write_bytes(held)
    before = {file: (tmp_path / file).read_bytes() for file in files(tmp_path)}
    source = pictures / "source.png"
    invert = ["invert", source, "--prompt", PROMPT, "--overwrite", *tiny]
    learn = ["learn", pictures / "references", *ALONE, "--overwrite"]
    lines = [
        ["generate", PROMPT, "--overwrite", "--model", model, "--out", tmp_path / "link.png"],
        ["invert", out, *invert[2:], "--out", tmp_path / "a.safetensors", "--reconstruction", out],
        [*invert, "--model", model, "--out", model],
        [*invert, "--concept", tmp_path / "concept.safetensors", "--out", tmp_path / "concept.safetensors"],
        swap_arguments(out, tiny, tmp_path, "--overwrite"),
        swap_arguments(source, tiny, tmp_path, "--overwrite", "--mask", out),
        [*learn, "--model", tmp_path / "concept.safetensors", "--out", tmp_path],
        ["learn", tmp_path, *ALONE, *tiny, "--overwrite", "--out", tmp_path],
        ["weights", "convert", model, model, "--layout", "ldm", "--overwrite"],
    ]
    (tmp_path / "link.png").symlink_to(model)
    for line in lines:
        assert "is what is to be read" in refused(capsys, *line), line
    (tmp_path / "link.png").unlink()
    assert {file: (tmp_path / file).read_bytes() for file in files(tmp_path)} == before


def test_an_inversion_and_its_reconstruction_are_written_together(tiny, pictures, tmp_path, capsys, monkeypatch):
    """The second of the two cannot be written, which only shows when everything has been computed."""
    monkeypatch.setattr("PIL.Image.Image.save", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "no such luck")))
    arguments = ["invert", pictures / "source.png", "--prompt", PROMPT, "--steps", 1, *tiny]
    told = refused(
        capsys, *arguments, "--out", tmp_path / "a" / "a.safetensors", "--reconstruction", tmp_path / "b.png"
    )
    assert "no such luck" in told
    assert files(tmp_path) == []


def test_together_takes_pictures_texts_and_what_writes_itself(tmp_path):
    contents = {"a.png": paint((8, 8), 0), "b.txt": "text", "c.bin": lambda place: place.write_bytes(b"bytes")}
    write_together({tmp_path / name: content for name, content in contents.items()})
    assert files(tmp_path) == ["a.png", "b.txt", "c.bin"]
    assert (tmp_path / "c.bin").read_bytes() == b"bytes"


@pytest.mark.parametrize(
    ("encoding", "errors", "wanted"),
    [
        ("ascii", "strict", b"caf\\xe9-\\udcff.png\n"),
        ("utf-8", "strict", b"caf\xc3\xa9-\\udcff.png\n"),
        ("utf-8", "surrogateescape", b"caf\xc3\xa9-\xff.png\n"),  # the very bytes of the name, for scripts
    ],
)
def test_any_name_can_be_said(encoding, errors, wanted):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)
    say("caf\xe9-\udcff.png", stream)
    stream.flush()
    assert stream.buffer.getvalue() == wanted


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}])
def test_a_name_outside_the_terminals_encoding(tiny, tmp_path, environment):
    """The file is written and the command succeeds."""
    out = os.fsencode(tmp_path) + b"/caf\xc3\xa9-\xff.png"
    line = [sys.executable, "-m", "photoswap", "generate", "a cat", "--steps", "1", "--size", "64", *tiny, "--out", out]
    done = subprocess.run(line, capture_output=True, check=False, env={**os.environ, **environment})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf" in done.stdout and os.path.getsize(out) > 0


def test_names_that_no_file_can_have(tmp_path, capsys):
    out = tmp_path / ("a" * 300 + ".png")
    assert "is too long for a file" in refused(capsys, "generate", PROMPT, "--out", out)
