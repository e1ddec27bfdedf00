"""The arrows between rooms, read off the source: who may import whom."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {
    "models": set(),
    "samplers": set(),
    "weights": {"models", "samplers"},
    "train": {"models", "samplers", "weights"},
    "photoswap": {"models", "samplers", "weights"},
}
# The command line, the demo and the benchmark join learning with swapping; nothing else does.
DOORS = (
    "photoswap/__init__.py",
    "photoswap/__main__.py",
    "photoswap/benchmark/*.py",
    "photoswap/commands/*.py",
    "photoswap/demo*.py",
    "photoswap/evaluate*.py",
    "photoswap/web/*.py",
)
# A network's noise schedule is among its numbers, and samplers own its arithmetic.
NUMBERS = Path("models/config.py")
FOREIGN = {"diffusers", "transformers"}
SOURCES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0] if node.level == 0 else path.parts[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_rooms_import_along_the_arrows(path):
    room = path.parts[0]
    allowed = {room} | ROOMS[room]
    if any(path.match(door) for door in DOORS):
        allowed.add("train")
    if path == NUMBERS:
        allowed.add("samplers")
    assert imported(path) & set(ROOMS) <= allowed


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=str)
def test_networks_are_our_own(path):
    assert not imported(path) & FOREIGN


def test_every_package_is_shipped():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    written = {".".join(path.parent.parts) for path in SOURCES}
    assert written <= listed


def test_types_are_checked_as_if_no_extra_were_installed():
    # The type checker must find the same in an environment that has an extra and in one that has not.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    everywhere = {"torch", "safetensors", "open_clip", "einops", "numpy", "PIL", "tqdm", "huggingface_hub"}
    elsewhere = set().union(*map(imported, SOURCES)) - everywhere - set(ROOMS) - sys.stdlib_module_names
    skipped = [each for each in project["tool"]["mypy"]["overrides"] if each.get("follow_imports") == "skip"]
    assert {f"{name}.*" for name in elsewhere} == {name for each in skipped for name in each["module"]}


def test_a_model_loads_without_the_compiler():
    # Importing it takes longer than loading the miniature.
    code = "import sys; from weights.load import load; load('miniature'); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
