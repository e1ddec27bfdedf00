"""One word, one thing: a public name is defined in one module, but for those that are meant to recur."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("models", "samplers", "weights", "train", "photoswap")
# Each with what it means wherever it is defined.
RECURRING = {
    "add_arguments": "of a command: its flags",
    "check": "of a command: refuse flags that change nothing",
    "run": "of a command: do it",
    "main": "of a program: its arguments in, its files out",
    "sample": "of a sampler: noise to latents",
    "invert": "of a sampler, and of a way of inverting: latents to noise",
    "walk": "of a sampler: the latents after each step",
    "walk_back": "of an exact sampler: the steps taken back",
    "NORM_EPS": "of a network's norms",
    "PIECE": "how much is worked on at once",
    "QUOTED": "how many characters of a value are quoted back",
    "GUIDED": "copied by a command that answers before torch is there; a test compares both",
    "INVERSIONS": "copied by a command that answers before torch is there; a test compares both",
    "T": "a type variable",
    "Model": "a type variable: the kind of model that is returned as it came",
}


def public_names(path: Path) -> set[str]:
    """Functions, classes and constants of a module that another may import."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def places() -> dict[str, list[str]]:
    """Where each name is defined."""
    found = defaultdict(list)
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for name in public_names(path):
                found[name].append(str(path.relative_to(ROOT)))
    return found


def test_a_name_is_defined_once():
    assert {name: where for name, where in places().items() if len(where) > 1 and name not in RECURRING} == {}


def test_every_exception_is_one():
    assert {name for name in RECURRING if len(places()[name]) < 2} == set()
