"""The documents hang together: every page can be reached, every link leads somewhere, what pages print is printed."""

import re
import tomllib
from pathlib import Path
from urllib.parse import urlparse

import pytest
from test_snippets import DOCUMENTS, ROOT, run_as_written, snippets

PAGES = [*DOCUMENTS, *(ROOT / name for name in ("CHANGELOG.md", "SECURITY.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
LONGEST_README = 200


def links(page: Path) -> list[str]:
    """What a page links to within the repository."""
    found = LINK.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    return [link for link in found if not urlparse(link).scheme]


def anchors(page: Path) -> set[str]:
    """The places that a link may name in a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_in_the_readme():
    there = {link.partition("#")[0] for link in links(ROOT / "README.md")}
    wanted = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert wanted - there == set()


def test_every_picture_is_shown():
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert set((ROOT / "docs").rglob("*.png")) - shown == set()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_changelog_and_citation_tell_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_layouts_page_prints_what_it_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = [s for s in snippets("python") if s.document.name == "add-a-layout.md"]
    (said,) = re.findall(r"^It prints `(.+)`\.$", snippet.document.read_text(), re.MULTILINE)
    run_as_written(snippet)
    assert capsys.readouterr().out.strip() == said


def test_a_link_that_leads_nowhere_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One two\n[here](#one-two) [there](other.md) [far](https://example.org/x)\n```\n[not](this)\n```\n"
    )
    assert links(page) == ["#one-two", "other.md"] and anchors(page) == {"one-two"}
