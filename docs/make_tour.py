"""Make the tour's pictures and its notebook from docs/tour.md: python docs/make_tour.py

Pieces of Python run in order in one namespace, as the notebook's cells do; where one ends in a picture, that is the
picture which the next image link of the page names. --notebook writes the notebook alone, and runs nothing.
"""

import argparse
import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from weights.atomic import atomic

HOME = Path(__file__).parent
PAGE, NOTEBOOK = HOME / "tour.md", HOME / "tour.ipynb"
PYTHON = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"^!\[[^\]]*\]\((\S+)\)\n", re.MULTILINE)


class Cell(NamedTuple):
    """One piece of the page: prose, or code, with the line it begins on and the picture it ends in, if any."""

    kind: str
    text: str
    line: int
    picture: str | None = None


def cells(page: str) -> list[Cell]:
    """The page cut into prose and code; links to pictures belong to the code before them."""
    found, end = [], 0
    for match in PYTHON.finditer(page):
        prose = page[end : match.start()]
        found.append(Cell("markdown", prose, page.count("\n", 0, end) + 1))
        end = match.end()
        link = LINK.match(page, end + 1)
        found.append(Cell("code", match[1], page.count("\n", 0, match.start(1)) + 1, link[1] if link else None))
        end = link.end() if link else end
    return [*found, Cell("markdown", page[end:], page.count("\n", 0, end) + 1)]


def notebook(page: str) -> str:
    """The page as a Jupyter notebook (nbformat 4.5) without outputs."""
    made = []
    for i, cell in enumerate(cells(page)):
        lines = cell.text.strip("\n").splitlines(keepends=True)
        one: dict[str, Any] = {"cell_type": cell.kind, "id": f"cell-{i}", "metadata": {}, "source": lines}
        made.append(one if cell.kind == "markdown" else {**one, "execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def run(page: str, names: dict[str, Any]) -> Iterator[tuple[Cell, Any]]:
    """Run the code in order in this namespace; yields each piece and the value of its last line, None for none."""
    for cell in cells(page):
        if cell.kind == "code":
            tree = ast.parse("\n" * (cell.line - 1) + cell.text, str(PAGE))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, str(PAGE), "exec"), names)
            yield cell, last and eval(compile(ast.Expression(last.value), str(PAGE), "eval"), names)


def write_picture(picture: Image.Image, path: Path) -> None:
    """A PNG of at most 256 colours, which is what such pictures need."""
    with atomic(path) as place:
        picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(place, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebook", action="store_true", help="write the notebook alone")
    arguments = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    with atomic(NOTEBOOK) as place:
        place.write_text(notebook(page), encoding="utf-8")
    for cell, value in run(page, {"__name__": "__tour__"}) if not arguments.notebook else ():
        if cell.picture:
            write_picture(value, HOME / cell.picture)
            print(HOME / cell.picture, (HOME / cell.picture).stat().st_size, "bytes", flush=True)


if __name__ == "__main__":
    main()
