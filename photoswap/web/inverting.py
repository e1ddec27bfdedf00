"""Section 2's buttons: the source, its inversion, and its mask."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from .desk import Job
from .drawing import status_html
from .finding import find_mask
from .forms import InvertForm
from .masking import Masking
from .page import Section
from .session import Session
from .tasks import scene_example
from .uploads import read_mask, read_upload
from .wiring import LONG, QUICK, Runner, Updates, concept_file, large, masked
from .work import invert_picture


def connect_inverting(runner: Runner, part: Section, swap: Section) -> None:
    """The source by upload or example, and Invert."""
    seen = source_shows(part, swap)

    def example(request: gr.Request, name: str | None) -> Updates:
        return runner.quick(request, part.status, lambda session: scene_updates(session, part, swap, name))

    def upload(request: gr.Request, path: str | None) -> Updates:
        def work(session: Session) -> Updates:
            if path is None:
                raise ValueError("no picture came; add one")
            session.take_source(read_upload(path))
            return {**masked(session, part), part.status: status_html("Say what is in it, then press Invert.")}

        return runner.quick(request, part.status, work)

    def start(
        request: gr.Request, prompt: str, name: str, scale: float, way: str, steps: float, guidance: float | None
    ) -> Iterator[Updates]:
        def work(session: Session, job: Job) -> float:
            source, concept = session.keep_source(), concept_file(session, name, scale)
            return invert_picture(session, job, InvertForm(source, prompt, concept, way, int(steps), guidance))

        def done(session: Session, seconds: float) -> tuple[str, Updates]:
            return f"Inverted in {seconds:.1f} s. Now swap, as often as you like.", {}

        yield from runner.run(request, "inverting", part.status, (part.start, part.stop), work, done)

    part.example.change(example, part.example, seen, **QUICK)
    part.source.upload(upload, part.source, seen, **QUICK)
    controls = [part.prompt, part.concept, part.scale, part.inversion, part.steps, part.guidance]
    part.start.click(start, controls, [part.status, part.start, part.stop], **LONG)


def source_shows(part: Section, swap: Section) -> list[Any]:
    """What another source changes on the page."""
    return [part.source, part.prompt, part.word, swap.subject, swap.compare, part.status, *mask_shows(part)]


def mask_shows(part: Section) -> list[Any]:
    """What another mask changes."""
    return [part.editor, part.save, part.mask_status]


def scene_updates(session: Session, part: Section, swap: Section, name: str | None) -> Updates:
    """An example scene as the source."""
    if not name:
        return {}
    picture, prompt, subject = scene_example(name)
    session.take_source(picture)
    updates = {part.source: large(picture), part.prompt: prompt, part.word: subject, swap.subject: subject}
    return {**updates, swap.compare: None, **masked(session, part)}


def connect_mask(runner: Runner, part: Section) -> None:
    """Brush, word and file; undo, clear and save."""
    shows = mask_shows(part)

    def change(request: gr.Request, work: Callable[[Masking], None]) -> Updates:
        def changed(session: Session) -> Updates:
            if session.masking is None:
                raise ValueError("there is no picture to mask yet; add one in section 2")
            work(session.masking)
            return masked(session, part)

        return runner.quick(request, part.mask_status, changed)

    def paint(request: gr.Request, value: Any) -> Updates:
        return change(request, lambda masking: _paint(masking, value, erase=False))

    def erase(request: gr.Request, value: Any) -> Updates:
        return change(request, lambda masking: _paint(masking, value, erase=True))

    def undo(request: gr.Request) -> Updates:
        return change(request, Masking.undo)

    def clear(request: gr.Request) -> Updates:
        return change(request, lambda masking: masking.replace(None))

    def load(request: gr.Request, path: str) -> Updates:
        return change(request, lambda masking: masking.replace(read_mask(path, masking.picture.size)))

    def find(request: gr.Request, word: str, prompt: str, name: str, scale: float) -> Iterator[Updates]:
        def work(session: Session, job: Job) -> None:
            concept = concept_file(session, name, scale)
            find_mask(session, job, word, prompt, concept)

        def done(session: Session, _: object) -> tuple[str, Updates]:
            updates = masked(session, part)
            share = session.masking.share() if session.masking else 0
            del updates[part.mask_status]
            return f"Found: {word}, {share:.0%} of the picture.", updates

        yield from runner.run(request, "finding a mask", part.mask_status, (part.find, None), work, done)

    part.paint.click(paint, part.editor, shows, **QUICK)
    part.erase.click(erase, part.editor, shows, **QUICK)
    part.undo.click(undo, None, shows, **QUICK)
    part.clear.click(clear, None, shows, **QUICK)
    part.load.upload(load, part.load, shows, **QUICK)
    part.find.click(find, [part.word, part.prompt, part.concept, part.scale], [*shows, part.find], **LONG)


def _paint(masking: Masking, value: Any, erase: bool) -> None:
    layers = (value or {}).get("layers") or []
    if not layers:
        raise ValueError("nothing is painted yet; paint on the picture first")
    masking.paint(layers[0], erase)
