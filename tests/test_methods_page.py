"""docs/methods.md shows what `photoswap methods` prints, and names every inversion."""

import re
from pathlib import Path

from photoswap.__main__ import main
from photoswap.inversions import INVERSIONS

PAGE = (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")


def test_the_page_shows_what_the_command_prints(capsys):
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert main(["methods"]) == 0
    assert capsys.readouterr().out.strip() == shown.strip()


def test_every_inversion_is_on_the_page():
    assert set(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE)) == set(INVERSIONS)
