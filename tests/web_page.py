"""A real browser on a real page: `python -m tests.web_page docs` does the whole job and leaves its screenshots there.

Needs Gradio, Playwright, and a Chromium of the system's packages: pip install 'photoswap[web]' playwright, and
apt-get install chromium. The page is another process, started as a user starts it.
"""

import argparse
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BEGUN = re.compile(r"the page is at (\S+)")
SOON, LATER = 60_000, 600_000  # milliseconds: for what is quick, and for a job on a busy machine
# Says which address a process asks for that is not its own machine's, and lets it have none.
WATCH = """
import os, socket
def kept_at_home(connect):
    def ask(self, address):
        home = not isinstance(address, tuple) or str(address[0]) in ("127.0.0.1", "::1", "localhost", "0.0.0.0")
        if not home:
            with open(os.environ["ASKED"], "a") as asked:
                asked.write(f"{address}\\n")
            raise OSError("kept at home")
        return connect(self, address)
    return ask
socket.socket.connect = kept_at_home(socket.socket.connect)
socket.socket.connect_ex = kept_at_home(socket.socket.connect_ex)
looked_up = socket.getaddrinfo
def look_up(host, *rest, **more):
    if host not in (None, "", "127.0.0.1", "::1", "localhost", b"127.0.0.1", b"localhost"):
        with open(os.environ["ASKED"], "a") as asked:
            asked.write(f"{host}\\n")
    return looked_up(host, *rest, **more)
socket.getaddrinfo = look_up
"""


def missing() -> str | None:
    """Why there can be no browser here, if so."""
    for module in ("gradio", "playwright"):
        if find_spec(module) is None:
            return f"needs {module}: pip install 'photoswap[web]' playwright"
    return None if browser_path() else "needs a Chromium: apt-get install chromium"


def browser_path() -> str | None:
    """Where the system's browser is."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(home: Path, *more: str) -> Iterator[tuple[str, Path]]:
    """`photoswap web` in a process of its own: its address, and the file with every other address it asked for."""
    (home / "watch").mkdir(parents=True)
    (home / "watch" / "sitecustomize.py").write_text(WATCH)
    asked = home / "asked.txt"
    asked.touch()
    paths = os.pathsep.join([str(home / "watch"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "ASKED": str(asked)}
    command = [sys.executable, "-m", "photoswap", "web", "--port", str(free_port()), "--out", str(home / "out"), *more]
    with open(home / "page.log", "w") as log:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = BEGUN.search(line)
        if not found:
            raise RuntimeError(f"no page: {line}{(home / 'page.log').read_text()}")
        yield found[1], asked
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def browsing(address: str, width: int = 1240, height: int = 1000) -> Iterator:
    """A tab at the page, once the page is there; `tab.asked` are the addresses that the browser asked."""
    from playwright.sync_api import sync_playwright

    # a renderer in software: the brush draws by WebGL, and there is no graphics card
    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=flags)
        try:
            yield new_tab(browser, address, width, height)
        finally:
            browser.close()


def new_tab(browser, address: str, width: int = 1240, height: int = 1000):
    """Another tab of a browser, with a session of its own."""
    tab = browser.new_page(viewport={"width": width, "height": height})
    tab.asked = []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(address, timeout=SOON)
    # the first example is filled in once the page stands; what is typed before that is written over
    tab.wait_for_function("document.querySelector('#class-word textarea, #class-word input')?.value", timeout=SOON)
    tab.wait_for_selector("#start-swap", timeout=SOON)
    tab.wait_for_selector("#timeline svg", timeout=SOON)
    return tab


def says(tab, section: str, text: str, timeout: int = LATER) -> str:
    """Wait until a section's status says something; returns all it says."""
    tab.wait_for_function(
        "([id, text]) => document.querySelector(id)?.innerText.includes(text)",
        arg=[f"#{section}-status", text],
        timeout=timeout,
    )
    return tab.inner_text(f"#{section}-status")


def fill(tab, name: str, value: object) -> None:
    """Type a value into the box of that name, and leave it."""
    box = tab.locator(f"#{name} textarea, #{name} input").first
    box.click()
    box.fill(str(value))
    box.press("Tab")
    tab.wait_for_timeout(500)  # the page takes it up a moment later
    assert box.input_value() == str(value)


def value(tab, name: str) -> str:
    """What the box, or the number of a slider, of that name says."""
    return tab.locator(f"#{name} textarea, #{name} input").first.input_value()


def choose(tab, name: str, option: str) -> None:
    """Choose an option of a dropdown."""
    tab.locator(f"#{name} input").first.click()
    tab.get_by_role("option", name=option, exact=True).first.click()


def unfold(tab, name: str) -> None:
    """Open a folded part, or fold it."""
    tab.locator(f"#{name} > button").first.click()
    tab.wait_for_timeout(2000)  # what is in it is drawn only now


def scribble(tab) -> None:
    """Paint a stroke across the middle of the mask's editor."""
    tab.wait_for_selector("#editor canvas", timeout=SOON)
    tab.wait_for_timeout(1500)
    box = tab.locator("#editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x - 60, y)
    tab.mouse.down()
    for i in range(13):
        tab.mouse.move(x - 60 + 10 * i, y + 3 * i)
    tab.mouse.up()
    tab.wait_for_timeout(800)


def job(tab, steps: int | None = None, sample_every: int = 50, learnt: str | None = None) -> None:
    """Examples, learn, invert, swap: what a visitor does first. None learns as long as the model's preset says.

    learnt: what the page calls a concept that was learnt before, instead.
    """
    if learnt:
        choose(tab, "concept", learnt)
    else:
        if steps is not None:
            fill(tab, "learn-steps", steps)
        fill(tab, "sample-every", sample_every)
        tab.click("#start-learn")
        says(tab, "learn", "Learnt:")
    tab.click("#start-invert")
    says(tab, "invert", "Inverted")
    tab.click("#start-swap")
    says(tab, "swap", "Swapped")


def picture_shown(tab, name: str) -> None:
    """Wait until all pictures in a part are there."""
    tab.wait_for_function(
        "id => {const all = [...document.querySelectorAll(id + ' img')];"
        " return all.length > 0 && all.every(img => img.complete && img.naturalWidth > 0)}",
        arg=f"#{name}",
        timeout=SOON,
    )


def main() -> None:
    """Do the whole job as a visitor, and leave the docs' screenshots in a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="for web.png, web-grid.png and web-mask.png")
    parser.add_argument("--steps", type=int, help="of learning (default: the model's preset)")
    parser.add_argument("--concept", type=Path, help="one learnt before, instead of learning")
    parser.add_argument("--home", type=Path, required=True, help="a new folder for all that the page makes")
    arguments = parser.parse_args()
    if told := missing():
        sys.exit(told)
    more = ["--concept", str(arguments.concept.absolute())] if arguments.concept else []
    with served(arguments.home, *more) as (address, asked), browsing(address) as tab:
        job(tab, arguments.steps, learnt=f"{arguments.concept.name} (1)" if arguments.concept else None)
        picture_shown(tab, "compare")
        tab.wait_for_timeout(1000)
        tab.screenshot(path=arguments.home / "web.png", full_page=True)
        unfold(tab, "grid-part")
        fill(tab, "across", "0, 5, 10, 20")
        fill(tab, "down", "0, 20, 40")
        tab.click("#start-grid")
        says(tab, "grid", "Click one")
        picture_shown(tab, "grid")
        tab.locator("#grid button").nth(6).click()
        says(tab, "grid", "Taken")
        tab.locator("#grid-part").screenshot(path=arguments.home / "web-grid.png")
        unfold(tab, "grid-part")
        unfold(tab, "mask-part")
        tab.click("#mask-find")
        says(tab, "mask", "Found")
        scribble(tab)
        tab.locator("#mask-part").screenshot(path=arguments.home / "web-mask.png")
        unfold(tab, "heat-part")
        tab.click("#start-heat")
        says(tab, "heat", "brighter")
        picture_shown(tab, "heat")
        tab.locator("#heat-part").screenshot(path=arguments.home / "web-heat.png")
        print(f"asked elsewhere: {asked.read_text() or 'nothing'}")
    for name in ("web", "web-grid", "web-mask", "web-heat"):
        shrink(arguments.home / f"{name}.png", arguments.folder / f"{name}.png")


def shrink(source: Path, target: Path) -> None:
    """A screenshot with few enough colours for a repository."""
    from PIL import Image

    picture = Image.open(source).convert("RGB").quantize(192, dither=Image.Dither.NONE)
    picture.save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
