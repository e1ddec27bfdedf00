"""Section 3's buttons: the method's controls and timeline, Swap, the grid of lambdas, the heat of words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from photoswap.commands.common import GUIDANCE
from photoswap.commands.swap_flags import make_method
from photoswap.injections import timeline
from photoswap.methods import METHODS, official

from .desk import Job, News
from .drawing import in_words, status_html, timeline_svg
from .finding import Axis, LambdaGrid, heat_of_words, read_values, swap_grid
from .forms import SwapForm
from .page import Section
from .page_swap import SLIDERS
from .session import Session
from .wiring import LONG, QUICK, Runner, Updates, concept_file, large, result_files
from .work import Done, swap_subject

GRID_WIDTH = 940  # pixels across which the page shows a grid, so that none of its rows is cut off
NO_INVERSION = Path("inversion.safetensors")  # what stands for it while the timeline is drawn without one


def connect_swapping(runner: Runner, invert: Section, part: Section) -> None:
    """The method's controls, and Swap."""
    controls = swap_controls(invert, part)

    def usual(method: str, preset: str, steps: float) -> list[Any]:
        return usual_lambdas(method, preset, int(steps))

    def draw(request: gr.Request, steps: float, *values: Any) -> str:
        return timeline_html(runner.session(request), int(steps), values)

    def start(request: gr.Request, *values: Any) -> Iterator[Updates]:
        def work(session: Session, job: Job) -> Done:
            return swap_subject(session, job, read_form(session, values))

        def done(session: Session, found: Done) -> tuple[str, Updates]:
            every = "\n".join(session.lines[name] for name in ("learn", "invert", "swap") if name in session.lines)
            shown: Updates = {part.compare: (large(found.source), large(found.result)), part.lines: every}
            shown[part.line] = gr.update(value=found.line, visible=True)
            return f"Swapped in {found.seconds:.1f} s.", {**shown, part.files: result_files(found.folder)}

        def preview(session: Session, news: News) -> Updates:
            if news.picture is None or session.masking is None:
                return {}
            return {part.compare: (large(session.masking.picture), news.picture.resize(large(news.picture).size))}

        buttons = part.start, part.stop
        yield from runner.run(request, "swapping", part.status, buttons, work, done, preview)

    chosen = [part.method, part.preset, invert.steps]
    gr.on([one.change for one in chosen], usual, chosen, [*part.lambdas, part.preset], **QUICK)
    drawn_from = [one for one in controls if one is not part.subject and one is not part.target]
    changes = [one.change for one in drawn_from if one not in (invert.concept, invert.scale)]
    gr.on(changes, draw, [invert.steps, *controls], part.timeline, trigger_mode="always_last", **QUICK)
    shows = [part.status, part.start, part.stop, part.compare, part.line, part.lines, part.files]
    part.start.click(start, controls, shows, **LONG)


def connect_grid(runner: Runner, invert: Section, part: Section) -> None:
    """A grid of lambdas, whose cells become the settings."""
    asked = [part.across, part.across_values, part.down, part.down_values]

    def start(request: gr.Request, x: str, xs: str, y: str, ys: str, *values: Any) -> Iterator[Updates]:
        def work(session: Session, job: Job) -> LambdaGrid:
            form = read_form(session, values)
            steps = session.inversion[0].steps if session.inversion else 0
            axes = Axis(x, read_values(xs, steps)), Axis(y, read_values(ys, steps))
            session.grid = swap_grid(session, job, form, *axes)
            return session.grid

        def done(session: Session, found: LambdaGrid) -> tuple[str, Updates]:
            pictures = [(cell.picture, cell.label) for cell in found.cells]
            told = f"{len(pictures)} swaps, kept in {found.folder.name}/. Click one to take its settings."
            tall = -(-len(pictures) // found.columns) * GRID_WIDTH // found.columns + 40
            shown = gr.update(value=pictures, columns=found.columns, height=tall, selected_index=None)
            return told, {part.grid: shown}

        yield from runner.run(request, "swapping a grid", part.grid_status, (part.start_grid, None), work, done)

    def take(request: gr.Request, event: gr.SelectData) -> Updates:
        def work(session: Session) -> Updates:
            if session.grid is None or not 0 <= event.index < len(session.grid.cells):
                raise ValueError("that grid is not there any more; swap it again")
            cell = session.grid.cells[event.index]
            given = dict(cell.counts)
            lambdas = {slider: given[name] for slider, name in zip(part.lambdas, SLIDERS, strict=True) if name in given}
            return {**lambdas, part.grid_status: status_html(f"Taken: {cell.label}. Press Swap.", kind="good")}

        return runner.quick(request, part.grid_status, work)

    shows = [part.grid_status, part.start_grid, part.grid]
    part.start_grid.click(start, [*asked, *swap_controls(invert, part)], shows, **LONG)
    part.grid.select(take, None, [*part.lambdas, part.grid_status], **QUICK)


def connect_heat(runner: Runner, invert: Section, part: Section) -> None:
    """The heat of each word, in the source under its prompt or in the result under the one swapped to."""

    def start(request: gr.Request, where: str, prompt: str, name: str, scale: float) -> Iterator[Updates]:
        def work(session: Session, job: Job) -> list[tuple]:
            if session.masking is None:
                raise ValueError("there is no picture to look at yet; add one in section 2")
            picture, told = session.masking.picture, prompt
            if where == "result":
                if session.done is None:
                    raise ValueError("there is no result yet; press Swap first")
                picture, told = session.done
            return heat_of_words(session, job, picture, told, concept_file(session, name, scale))

        def done(session: Session, found: list[tuple]) -> tuple[str, Updates]:
            return "The brighter, the more a word attends there.", {part.heat: found}

        yield from runner.run(request, "looking at words", part.heat_status, (part.start_heat, None), work, done)

    asked = [part.look_at, invert.prompt, invert.concept, invert.scale]
    part.start_heat.click(start, asked, [part.heat_status, part.start_heat, part.heat], **LONG)


def swap_controls(invert: Section, part: Section) -> list[Any]:
    """What `read_form` reads, in its order."""
    return [
        *(invert.concept, invert.scale, part.subject, part.target, part.method, part.preset, *part.lambdas),
        *(part.guidance, part.blend, part.align, part.adain, part.use_mask, part.seed, part.settings),
    ]


def read_form(session: Session, values: tuple[Any, ...], inversion: Path | None = None) -> SwapForm:
    """The controls as a form. inversion: a stand-in where none is made yet. Raises ValueError without one."""
    concept, scale, subject, target, method, preset, *rest = values
    lambdas, (guidance, blend, align, adain, use_mask, seed, settings) = rest[: len(SLIDERS)], rest[len(SLIDERS) :]
    if inversion is None and session.inversion is None:
        raise ValueError("the picture is not inverted yet; press Invert in section 2")
    has = METHODS[method].counts
    counts = tuple((name, int(value)) for name, value in zip(SLIDERS, lambdas, strict=True) if name in has)
    return SwapForm(
        inversion or session.inversion[1],  # type: ignore[index]
        subject,
        concept_file(session, concept, scale),
        target or "",
        method,
        preset,
        counts,
        guidance,
        blend,
        align,
        session.keep_mask() if use_mask else None,
        bool(adain),
        int(seed or 0),
        settings or "",
    )


def usual_lambdas(name: str, preset: str, steps: int) -> list[Any]:
    """The sliders as a method, or Photoswap's preset, has them at so many steps; and whether there is a preset."""
    kind = METHODS[name]
    method = official(steps) if name == "photoswap" and preset == "official" else kind.scaled(steps)
    sliders = []
    for count in SLIDERS:
        there = count in kind.counts
        value = getattr(method, count) if there else 0
        sliders.append(gr.update(visible=there, maximum=steps, value=value))
    return [*sliders, gr.update(visible=name == "photoswap")]


def timeline_html(session: Session, steps: int, values: tuple[Any, ...]) -> str:
    """What is injected when, by the controls as they stand; or why they mean nothing."""
    try:
        form = read_form(session, (*values[:2], "x", "y", *values[4:]), NO_INVERSION)
        _, arguments = session.command(form.words(Path("out")))
        inversion = session.inversion[0] if session.inversion else None
        if inversion is None:
            arguments.steps = steps
        method = make_method(arguments, inversion, GUIDANCE)
        side = session.shelf.native_size // session.shelf.factor
        h, w = inversion.trajectory.shape[2:] if inversion else (side, side)
        found = timeline(method.injections, method.steps, session.shelf.unet.all_sites, (h, w))
    except ValueError as error:
        return status_html(str(error), kind="bad")
    return timeline_svg(found, method.steps, method.first) + f"<p>{in_words(found, method.steps)}</p>"
