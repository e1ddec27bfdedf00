"""Which button does what: the controls read into forms, jobs followed, and their news written onto the page."""

import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import gradio as gr
from PIL import Image

from photoswap.__main__ import is_mistake, sentence_for
from photoswap.commands.swap_files import GRID, RECORD, RESULT

from .desk import Desk, Job, News, StoppedError
from .drawing import status_html
from .masking import shown_size
from .page import NO_CONCEPT, Section
from .rooms import Rooms
from .session import Session

Updates: TypeAlias = dict[Any, Any]
PRIVATE: Any = {"api_visibility": "private"}
LONG: Any = {**PRIVATE, "show_progress": "hidden", "concurrency_limit": None}  # the desk lets one at a time work
QUICK: Any = {**PRIVATE, "show_progress": "hidden"}
Shown: TypeAlias = Callable[[Session, News], Updates]


class Runner:
    """Runs the long work of every tab: one job at a time, its news on the page, its mistakes in one sentence."""

    def __init__(self, desk: Desk, rooms: Rooms[Session]) -> None:
        self.desk, self.rooms = desk, rooms

    def session(self, request: gr.Request) -> Session:
        """The tab's own."""
        return self.rooms.of(request.session_hash or "")

    def run(
        self,
        request: gr.Request,
        name: str,
        status: Any,
        buttons: tuple[Any, Any],
        work: Callable[[Session, Job], Any],
        done: Callable[[Session, Any], tuple[str, Updates]],
        shown: Shown = lambda session, news: {},
    ) -> Iterator[Updates]:
        """Follow a job to its end. buttons: to start and to stop it. done: the last sentence, and what to show then."""
        start, stop = buttons
        busy: Updates = {start: gr.update(interactive=False), **({stop: gr.update(visible=True)} if stop else {})}
        free: Updates = {start: gr.update(interactive=True), **({stop: gr.update(visible=False)} if stop else {})}
        try:
            session = self.session(request)
            job = self.desk.submit(name, lambda job: work(session, job))
            session.begin(job)
            yield {**busy, status: status_html("Starting", 0.0)}
            for news in self.desk.follow(job):
                yield {**busy, status: status_html(news.text, news.share), **shown(session, news)}
            told, updates = done(session, job.result)
            yield {**free, status: status_html(told, kind="good"), **updates}
        except StoppedError:
            yield {**free, status: status_html("Stopped."), **shown(session, News(""))}
        except Exception as error:
            yield {**free, status: self.told(error)}

    def told(self, error: Exception) -> str:
        """A mistake as its sentence; anything else goes to the terminal, and the page only says that it went wrong."""
        if isinstance(error, ValueError | OSError | RuntimeError | MemoryError) and is_mistake(error):
            return status_html(sentence_for(error), kind="bad")
        traceback.print_exception(error, file=sys.stderr)
        return status_html("Something went wrong; the terminal that runs the page says what.", kind="bad")

    def quick(self, request: gr.Request, status: Any, work: Callable[[Session], Updates]) -> Updates:
        """Something that takes no model and no time."""
        try:
            return {status: "", **work(self.session(request))}
        except Exception as error:
            return {status: self.told(error)}


def masked(session: Session, part: Section) -> Updates:
    """The mask's part of the page as it stands now."""
    if session.masking is None:
        return {part.editor: None, part.save: gr.update(value=None, interactive=False)}
    path = session.keep_mask()
    share = session.masking.share()
    says = f"The mask covers {share:.0%} of the picture." if path else "No mask: the whole picture may change."
    over = session.masking.overlay()
    return {
        part.editor: {"background": over, "layers": [], "composite": over},
        part.save: gr.update(value=str(path) if path else None, interactive=path is not None),
        part.mask_status: status_html(says),
    }


def concepts_of(session: Session, chosen: str | None = None) -> Any:
    """The dropdown of concepts, with one of them chosen."""
    return gr.update(choices=[NO_CONCEPT, *session.concepts], value=chosen or NO_CONCEPT)


def concept_file(session: Session, name: str, scale: float) -> str | None:
    """FILE or FILE:SCALE of a concept by what the page calls it. Raises ValueError for one it does not have."""
    if name == NO_CONCEPT:
        return None
    if name not in session.concepts:
        raise ValueError("that subject is not there any more; choose another")
    return session.concepts[name] if scale == 1 else f"{session.concepts[name]}:{scale:g}"


def large(picture: Image.Image) -> Image.Image:
    """A picture at the size for looking at."""
    return picture.resize(shown_size(picture.size), Image.Resampling.LANCZOS)


def result_files(folder: Path) -> list[str]:
    """What a swap left."""
    return [str(folder / name) for name in (RESULT, GRID, RECORD)]


def stoppable(runner: Runner, *parts: Section) -> None:
    """Every Stop stops the tab's own job."""

    def stop(request: gr.Request) -> None:
        runner.session(request).stop()

    for part in parts:
        part.stop.click(stop, inputs=None, outputs=None, queue=False, show_progress="hidden", **PRIVATE)
