"""The page put together: its parts, the model behind them, and what a new tab shows."""

import argparse
from typing import Any

import gradio as gr

from .desk import Desk
from .drawing import status_html
from .inverting import connect_inverting, connect_mask, scene_updates, source_shows
from .learning import connect_learning, learn_example, learnt_from
from .page import CSS, INTRO, NO_CONCEPT, TITLE, USUAL_STEPS, Section, invert_part, learn_part
from .page_swap import swap_part
from .rooms import Folder, Rooms
from .session import Session
from .shelf import Shelf
from .swapping import connect_grid, connect_heat, connect_swapping, swap_controls, timeline_html
from .tasks import SCENES, SUBJECTS
from .wiring import QUICK, Runner, Updates, concepts_of, stoppable


def build_page(arguments: argparse.Namespace) -> tuple[gr.Blocks, dict[str, Any]]:
    """The page over the model asked for, and how it looks, which Gradio wants to be told when it is served."""
    shelf = Shelf(arguments)
    given = {f"{file.path.name} ({i})": str(file) for i, file in enumerate(arguments.concept, 1)}
    out = arguments.out.absolute()
    runner = Runner(Desk(), Rooms(lambda: Session(shelf, Folder(out), dict(given))))
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as blocks:
        gr.Markdown(f"{INTRO} Model: **{shelf.name}**. Files: `{out}`")
        learn, invert, swap = learn_part(shelf.learning_steps()), invert_part(), swap_part()
        connect_learning(runner, learn, invert)
        connect_inverting(runner, invert, swap)
        connect_mask(runner, invert)
        connect_swapping(runner, invert, swap)
        connect_grid(runner, invert, swap)
        connect_heat(runner, invert, swap)
        stoppable(runner, learn, invert, swap)
        _greet(blocks, runner, learn, invert, swap)
    return blocks, {"theme": plain_theme(), "css": CSS}


def plain_theme() -> Any:
    """Gradio's own look in the machine's fonts: none is fetched."""
    sans, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    return gr.themes.Default(primary_hue="blue", font=sans, font_mono=mono)


def _greet(blocks: gr.Blocks, runner: Runner, learn: Section, invert: Section, swap: Section) -> None:
    """What a new tab shows, the first example on the miniature; and what a closed one leaves."""
    controls = swap_controls(invert, swap)

    def hello(request: gr.Request, *values: Any) -> Updates:
        try:
            session = runner.session(request)
        except ValueError as error:
            return {learn.status: status_html(str(error), kind="bad")}
        updates = {
            swap.timeline: timeline_html(session, USUAL_STEPS, values),
            invert.concept: concepts_of(session, NO_CONCEPT),
        }
        if session.shelf.name != "miniature":
            return updates
        subject, scene = next(iter(SUBJECTS)), next(iter(SCENES))
        first = {learn.example: subject, invert.example: scene}
        return {**updates, **first, **learn_example(learn, subject), **scene_updates(session, invert, swap, scene)}

    def bye(request: gr.Request) -> None:
        if session := runner.rooms.leave(request.session_hash or ""):
            session.stop()

    shows = [learn.example, invert.example, swap.timeline, invert.concept, *learnt_from(learn)]
    blocks.load(hello, controls, [*shows, *source_shows(invert, swap)], **QUICK)
    blocks.unload(bye)
