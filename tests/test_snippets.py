"""Every piece of code in the documents does what a reader would have it do: Python runs, commands parse.

Python runs as it is written. Only the number of steps for which a concept is learnt is cut, because that takes minutes;
`pytest -m slow tests/test_snippets.py` runs it uncut.
"""

import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import train.config
import train.methods
from photoswap.__main__ import build_parser, main
from photoswap.demo import make_task

ROOT = Path(__file__).parent.parent
FIRST = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "weights" / "README.md"]
DOCUMENTS = [*FIRST, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Snippet(NamedTuple):
    """One fenced piece of a document, and the line it begins on."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def snippets(language: str) -> list[Snippet]:
    """All pieces in this language."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] == language:
                found.append(Snippet(document, text.count("\n", 0, match.start()) + 2, match[1], match[2]))
    return found


def commands() -> list[tuple[str, list[str]]]:
    """Every command line in the documents: where it stands, and its words."""
    found = []
    for snippet in snippets("bash"):
        joined = snippet.text.replace("\\\n", " ")
        for line in joined.splitlines():
            for part in shlex.split(line, comments=True) and line.split("&&"):
                words = shlex.split(part, comments=True)
                found.append((str(snippet), words))
    return found


def run_as_written(snippet: Snippet) -> dict:
    """Run a piece of Python in a namespace of its own, which is returned; errors name the document's line."""
    code = compile("\n" * (snippet.line - 1) + snippet.text, str(snippet.document), "exec")
    namespace: dict = {"__name__": "__snippet__"}
    exec(code, namespace)
    return namespace


@pytest.fixture
def at_home(tmp_path, monkeypatch) -> None:
    """A folder with the pictures that the documents speak of, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.methods, "LEARNING_METHODS", dict(train.methods.LEARNING_METHODS))  # a page adds one
    task = make_task()
    (tmp_path / "cat-photos").mkdir()
    for i, picture in enumerate(task.references):
        picture.save(tmp_path / "cat-photos" / f"{i}.png")
    for name in ("scene.png", "dog.jpg"):
        task.source.image.save(tmp_path / name)


@pytest.fixture
def learning_cut_short(monkeypatch) -> None:
    """A concept is learnt for two steps."""
    post_init = train.config.LearnConfig.__post_init__

    def shortened(config: train.config.LearnConfig) -> None:
        for name, most in {"steps": 2, "class_pictures": 2, "class_steps": 2}.items():
            object.__setattr__(config, name, min(getattr(config, name), most))
        post_init(config)

    monkeypatch.setattr(train.config.LearnConfig, "__post_init__", shortened)


APART = [s for s in snippets("python") if s.document.name != "tour.md"]  # that goes in order: tests/test_tour.py


@pytest.mark.parametrize("snippet", APART, ids=str)
def test_python_runs_as_written(snippet, at_home, learning_cut_short):
    run_as_written(snippet)


@pytest.mark.slow
@pytest.mark.parametrize("snippet", [s for s in snippets("python") if "learn(" in s.text], ids=str)
def test_python_that_learns_runs_uncut(snippet, at_home):
    run_as_written(snippet)


@pytest.mark.parametrize(("where", "words"), [c for c in commands() if c[1][0] == "photoswap"])
def test_commands_parse(where, words):
    build_parser().parse_args(words[1:])


def test_the_hooks_ten_lines_keep_no_graph_alive():
    (snippet,) = [s for s in snippets("python") if "maps.append" in s.text and s.document.name == "README.md"]
    maps = run_as_written(snippet)["maps"]
    assert len(maps) == 17 and not any(tensor.requires_grad for tensor in maps)


def test_the_job_from_the_command_line(at_home, learning_cut_short, capsys):
    """The four commands beside the ten lines, one after another."""
    (text,) = [s.text for s in snippets("bash") if "photoswap invert dog.jpg" in s.text and "--model" not in s.text]
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    assert [words[1] for words in lines] == ["learn", "invert", "swap", "generate"]
    for words in lines:
        assert main([*words[1:], "--quiet"]) == 0, capsys.readouterr().err
    assert Path("photoswap-result/result.png").is_file() and Path("generated.png").is_file()


def modules() -> list[tuple[str, str, list[str]]]:
    """The `python -m` lines of our own modules: where, the module, its words."""
    found = []
    for where, words in commands():
        if "-m" in words and words[0] in ("python", "torchrun"):
            at = words.index("-m")
            if words[at + 1] != "pip":
                found.append((where, words[at + 1], words[at + 2 :]))
    return found


@pytest.mark.parametrize(("where", "module", "words"), modules())
def test_modules_have_the_flags_that_are_written(where, module, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    for imported in (module, f"{module}.__main__"):  # by another test, of which runpy would warn
        monkeypatch.delitem(sys.modules, imported, raising=False)
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit) as left:
        runpy.run_module(module, run_name="__main__")
    assert left.value.code == 0
    known = set(re.findall(r"--?[a-zA-Z][\w-]*", said.getvalue()))
    assert {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)} <= known


def test_the_ten_lines_are_ten():
    (text,) = [s.text for s in snippets("python") if "learn(" in s.text and s.document.name == "README.md"]
    assert len([line for line in text.splitlines() if line]) <= 10


def test_there_is_something_to_run():
    assert len(snippets("python")) >= 2 and len(commands()) >= 10 and len(modules()) >= 4


def test_a_snippet_that_fails_is_noticed(tmp_path):
    with pytest.raises(NameError):
        run_as_written(Snippet(ROOT / "README.md", 1, "python", "result = picture\n"))
