"""The page in a real browser, on the miniature: what a visitor does, and what neither page nor browser may do.

`photoswap web` runs as a user starts it, in a process of its own; `tests/web_page.py` has what drives it.
"""

import json
import shlex
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPConnection

import numpy as np
import pytest
import web_page
from PIL import Image
from web_page import browsing, choose, fill, new_tab, picture_shown, says, scribble, served, unfold, value

from photoswap.__main__ import main

WHY_NOT = web_page.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page's address, its folder, and the file of addresses elsewhere that it asked for."""
    home = tmp_path_factory.mktemp("page") / "home"
    with served(home) as (address, asked):
        yield address, home / "out", asked


@pytest.fixture(scope="module")
def tab(page):
    with browsing(page[0]) as tab:
        yield tab


@pytest.fixture(scope="module")
def swapped(tab):
    """A tab in which somebody has learnt the first example for three steps, inverted, and swapped."""
    web_page.job(tab, steps=3, sample_every=2)
    return tab


def test_the_whole_job_and_its_line(swapped, page, capsys):
    picture_shown(swapped, "compare")
    picture_shown(swapped, "samples")
    line = swapped.inner_text("#line .cm-content").replace("\n", " ")
    words = shlex.split(line)
    assert words[:2] == ["photoswap", "swap"] and words[words.index("--phi") + 1] == "10"
    assert main([*words[1:], "--quiet"]) == 0
    ours, again = page[1] / "session-1" / "result-1", page[1] / "session-1" / "result-1-again"
    assert (ours / "result.png").read_bytes() == (again / "result.png").read_bytes()
    assert json.loads((ours / "swap.json").read_text())["settings"]["target_word"] == "sks cat"


def test_a_cell_of_the_grid_becomes_the_settings(swapped, page):
    unfold(swapped, "grid-part")
    fill(swapped, "across", "0, 40")
    fill(swapped, "down", "5, 30")
    swapped.click("#start-grid")
    says(swapped, "grid", "4 swaps")
    picture_shown(swapped, "grid")
    swapped.locator("#grid button img").nth(3).click()
    says(swapped, "grid", "Taken: phi 40, A 30")
    assert [value(swapped, f"lambda-{name}") for name in ("phi", "M", "A")] == ["40", "25", "30"]
    swapped.wait_for_function(
        "document.querySelector('#timeline').innerText.includes('phi in steps 1 to 40')", timeout=web_page.SOON
    )
    swapped.click("#start-swap")
    swapped.wait_for_function("document.querySelector('#line').innerText.includes('--phi 40')", timeout=web_page.LATER)


def test_a_mask_by_word_and_brush_stays_when_settings_change(swapped, page):
    unfold(swapped, "mask-part")
    swapped.click("#mask-find")
    found = says(swapped, "mask", "Found: cat")
    scribble(swapped)
    swapped.click("#mask-add")
    assert says(swapped, "mask", "The mask covers") != found
    swapped.click("#mask-undo")
    says(swapped, "mask", found.split(", ")[1].split(" of")[0])
    choose(swapped, "preset", "the released code's")
    swapped.wait_for_function(
        "document.querySelector('#timeline').innerText.includes('phi in steps 1 to 11')", timeout=web_page.SOON
    )
    swapped.click("#start-swap")
    swapped.wait_for_function("document.querySelector('#line').innerText.includes('--mask')", timeout=web_page.LATER)
    last = sorted((page[1] / "session-1").glob("result-?"))[-1]
    arguments = json.loads((last / "swap.json").read_text())["arguments"]
    mask = np.asarray(Image.open(arguments["mask"][0]).convert("L"))
    source = np.asarray(Image.open(next((page[1] / "session-1").glob("source-1.png"))).convert("RGB"))
    result = np.asarray(Image.open(last / "result.png").convert("RGB"))
    assert 0 < (mask > 0).mean() < 1 and (result == source)[mask == 0].all()


def test_every_word_shows_where_it_looks(swapped):
    unfold(swapped, "heat-part")
    swapped.click("#start-heat")
    says(swapped, "heat", "brighter")
    picture_shown(swapped, "heat")
    assert swapped.locator("#heat img").count() == 7  # a photo of a cat in the snow: one of them twice


def test_a_second_visitor_waits_and_is_told_so(swapped, page):
    fill(swapped, "learn-steps", 200)
    fill(swapped, "sample-every", 0)
    swapped.click("#start-learn")
    says(swapped, "learn", "step 2 of 200")
    other = new_tab(swapped.context.browser, page[0])
    fill(other, "target", "red cat")
    other.click("#start-invert")
    says(other, "invert", "One job at a time: waiting for another to end (learning).")
    swapped.click("#stop-learn")
    says(swapped, "learn", "Stopped.")
    says(other, "invert", "Inverted")
    swapped.locator("#resume-learn").wait_for()
    fill(swapped, "learn-steps", 3)
    other.close()


def test_a_mistake_is_one_sentence_on_the_page(page, tab):
    other = new_tab(tab.context.browser, page[0])
    other.click("#start-swap")
    says(other, "swap", "the picture is not inverted yet; press Invert in section 2")
    fill(other, "class-word", "")
    other.click("#start-learn")
    says(other, "learn", "say what it is")
    other.close()


def test_uploads_are_checked(page, tab, tmp_path):
    other = new_tab(tab.context.browser, page[0])
    (tmp_path / "no.png").write_text("no picture")
    Image.new("RGB", (90, 60), "red").save(tmp_path / "red.png")
    Image.new("L", (90, 60), 255).save(tmp_path / "mask.png")
    other.locator("#source button[aria-label='Remove Image']").click()
    other.wait_for_timeout(1000)  # until there is a place to drop another
    other.set_input_files("#source input[type=file]", tmp_path / "red.png")
    says(other, "invert", "Say what is in it", web_page.SOON)
    unfold(other, "mask-part")
    other.set_input_files("[data-testid=Load-upload-button]", tmp_path / "no.png")
    says(other, "mask", "is not a picture that can be read", web_page.SOON)
    other.set_input_files("[data-testid=Load-upload-button]", tmp_path / "mask.png")
    says(other, "mask", "The mask covers 100% of the picture.", web_page.SOON)
    other.click("#mask-clear")
    says(other, "mask", "No mask: the whole picture may change.", web_page.SOON)
    other.close()


def ask(address: str, path: str) -> int:
    """The status of an answer to a path that is sent as it stands, dots and all."""
    host = urllib.parse.urlsplit(address).netloc
    connection = HTTPConnection(host, timeout=60)
    connection.request("GET", path)
    found = connection.getresponse()
    body = found.read()
    connection.close()
    assert b"root:" not in body
    return found.status


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=../../etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=OUT/../../../../../../etc/passwd",
        "/gradio_api/file=OUT/../watch/sitecustomize.py",
        "/gradio_api/file=OUT%2f..%2fwatch%2fsitecustomize.py",
        "/file=/etc/passwd",
        "/gradio_api/file=/proc/self/environ",
        "/static/../../../../../../etc/passwd",
    ],
)
def test_nothing_outside_its_folder_can_be_read(page, path):
    assert ask(page[0], path.replace("OUT", str(page[1]))) in (403, 404)


def test_it_asks_nobody_and_nobody_else_may_ask_it(swapped, page):
    """Run last: neither browser nor page has asked any other address, and the policy says so in every answer."""
    address = page[0].rstrip("/")
    elsewhere = [url for url in swapped.asked if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == [] and page[2].read_text() == ""
    with urllib.request.urlopen(page[0], timeout=60) as answer:
        rules = answer.headers["content-security-policy"]
        body = answer.read().decode()
    assert rules.startswith("default-src 'self'") and "connect-src 'self'" in rules
    assert "fonts.googleapis" not in body and '"analytics_enabled":false' in body.replace(" ", "")
    assert address.startswith("http://127.0.0.1:")
    for hidden in ("/gradio_api/info", "/docs", "/openapi.json"):
        try:
            with urllib.request.urlopen(f"{address}{hidden}", timeout=60) as answer:
                endpoints = json.loads(answer.read())
                assert endpoints.get("named_endpoints") == {} and endpoints.get("unnamed_endpoints") == {}
        except urllib.error.HTTPError as refused:
            assert refused.code == 404
