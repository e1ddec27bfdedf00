"""Section 1's buttons."""

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from .desk import Job, News
from .drawing import status_html
from .forms import LearnForm
from .page import Section
from .session import Session
from .tasks import subject_example
from .uploads import read_references
from .wiring import LONG, QUICK, Runner, Updates, concepts_of, large
from .work import learn_concept


def connect_learning(runner: Runner, part: Section, invert: Section) -> None:
    """Examples, Learn, Go on."""
    shown = [part.status, part.start, part.stop, part.go_on, part.samples, invert.concept]
    controls = [part.references, part.class_word, part.token, part.method, part.steps, part.sample_every]

    def follow(request: gr.Request, work: Any) -> Iterator[Updates]:
        for updates in runner.run(request, "learning", part.status, (part.start, part.stop), work, done, samples):
            session = runner.rooms.of(request.session_hash or "")
            waiting = session.learning is not None and part.stop in updates and updates[part.stop]["visible"] is False
            yield {**updates, part.go_on: gr.update(visible=waiting)}

    def start(
        request: gr.Request,
        pictures: Any,
        class_word: str,
        token: str,
        method: str,
        steps: float | None,
        every: float | None,
    ) -> Iterator[Updates]:
        def work(session: Session, job: Job) -> str:
            job.tell("Reading the pictures")
            found = read_references([path for path, _ in pictures or ()])
            if not class_word.strip():
                raise ValueError("say what it is, in section 1: cat, for instance")
            asked = None if steps is None else int(steps)
            kept = session.keep_pictures(found)
            form = LearnForm(kept, class_word.strip(), token.strip() or "sks", asked, int(every or 0), method)
            return learn_concept(session, job, form)

        yield from follow(request, work)

    def go_on(request: gr.Request) -> Iterator[Updates]:
        yield from follow(request, lambda session, job: learn_concept(session, job, None))

    def done(session: Session, name: str) -> tuple[str, Updates]:
        return f"Learnt: {name}. Now invert a picture.", {invert.concept: concepts_of(session, name)}

    def samples(session: Session, news: News) -> Updates:
        pictures = [(large(picture), label) for picture, label in session.samples]
        return {part.samples: gr.update(value=pictures, visible=bool(pictures))}

    def usual(request: gr.Request, method: str) -> int:
        return runner.session(request).shelf.learning_steps(method)

    part.method.change(usual, part.method, part.steps, **QUICK)
    part.start.click(start, controls, shown, **LONG)
    part.go_on.click(go_on, None, shown, **LONG)
    part.example.change(lambda name: learn_example(part, name), part.example, learnt_from(part), **QUICK)


def learnt_from(part: Section) -> Sequence[Any]:
    """What an example fills in."""
    return [part.references, part.class_word, part.status]


def learn_example(part: Section, name: str | None) -> Updates:
    """An example's pictures and what they are of."""
    if not name:
        return {part.status: ""}
    example = subject_example(name)
    told = status_html(f"{len(example.pictures)} drawn pictures of {name}.")
    return {part.references: example.pictures, part.class_word: example.class_word, part.status: told}
