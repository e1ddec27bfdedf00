"""docs/tour.md runs in order and makes its pictures; its notebook is the page; what it says is seen in what it made."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS))
import make_tour  # noqa: E402

PAGE = (DOCS / "tour.md").read_text(encoding="utf-8")
PICTURES = [cell.picture for cell in make_tour.cells(PAGE) if cell.picture]
LARGEST = 700_000  # bytes of all pictures together


@pytest.fixture(scope="module")
def made():
    """Every picture, and all names at the end, with a fifth of the steps."""
    names: dict = {"__name__": "__tour__"}
    few = PAGE.replace('steps = load("miniature"), 20', 'steps = load("miniature"), 4')
    with torch.enable_grad():  # the tour turns gradients off, and on leaving here they are as they were
        pictures = {cell.picture: value for cell, value in make_tour.run(few, names) if cell.picture}
    return pictures, names


def distance(a: Image.Image, b: Image.Image) -> float:
    """The mean difference of two pictures, 0..255."""
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean())


def test_the_notebook_is_the_page():
    assert make_tour.NOTEBOOK.read_text(encoding="utf-8") == make_tour.notebook(PAGE), (
        "run python docs/make_tour.py --notebook"
    )


def test_every_piece_of_the_page_is_in_its_notebook():
    cells = make_tour.cells(PAGE)
    code = [cell for cell in cells if cell.kind == "code"]
    assert len(code) == PAGE.count("```python\n") == len(PICTURES) >= 9
    lines = [line for cell in cells for line in cell.text.strip("\n").splitlines() if line]
    kept = [line for line in PAGE.splitlines() if line and line != "```python" and not line.startswith("![")]
    assert [line for line in kept if line != "```"] == [line for line in lines if line != "```"]


def test_the_tour_makes_its_pictures(made):
    pictures, names = made
    assert torch.is_grad_enabled()
    assert names["steps"] == 4 and list(pictures) == PICTURES
    for name, picture in pictures.items():
        with Image.open(DOCS / name) as stored:
            assert picture.size == stored.size, name


def test_the_stored_pictures_are_small():
    stored = sorted((DOCS / "tour").iterdir())
    assert [f"tour/{path.name}" for path in stored] == sorted(PICTURES)
    assert sum(path.stat().st_size for path in stored) < LARGEST


def test_what_the_tour_says_is_so(made):
    _, names = made
    source, swapped = names["source"], names["swapped"]
    assert swapped.reconstruction.tobytes() == names["alone"].reconstruction.tobytes()  # the source takes nothing
    outside = np.asarray(names["found"].mask) == 0
    assert (np.asarray(names["inside"].result)[outside] == np.asarray(source)[outside]).all()
    assert distance(names["inside"].result, source) > 1


def test_an_error_names_the_line_of_the_page():
    page = "Prose.\n\n```python\na = 1\nmissing(a)\n```\n"
    with pytest.raises(NameError) as raised:
        list(make_tour.run(page, {}))
    assert raised.traceback[-1].lineno + 1 == 5


@pytest.mark.slow
def test_the_stored_pictures_are_those_of_these_weights():
    names: dict = {"__name__": "__tour__"}
    with torch.enable_grad():
        made = {cell.picture: value for cell, value in make_tour.run(PAGE, names) if cell.picture}
    for name, picture in made.items():
        with Image.open(DOCS / name) as stored:
            assert distance(picture, stored.convert("RGB")) < 6, name  # 256 colours of a sheet: 1 to 3
    source, swapped, deaf = names["source"], names["swapped"].result, names["deaf"].result
    body = np.asarray(names["found"].mask) > 0
    changed, unheard = (np.abs(np.asarray(each, float) - np.asarray(source, float))[body] for each in (swapped, deaf))
    assert unheard.mean() < changed.mean() / 2  # with the source's psi no new subject comes
