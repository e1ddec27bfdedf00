"""The page's first two sections: pictures to learn from, a picture to put the subject into, its mask.

Layout alone; which button does what is in `learning`, `inverting` and `swapping`.
"""

from types import SimpleNamespace
from typing import Any

import gradio as gr

from photoswap.commands.common import STEPS as USUAL_STEPS
from photoswap.commands.invert import INVERSIONS
from photoswap.commands.learn import CONCEPTS

from .tasks import SCENES, SUBJECTS

NO_CONCEPT = "none: only words"

TITLE = "Photoswap"
INTRO = """# Photoswap
Put your own subject into a picture: same pose, same place. Everything happens on this machine."""
CSS = """
.gradio-container {max-width: 1180px !important; margin: 0 auto !important}
footer {display: none !important}
.status > div {font-size: .95em}
.status .bar {height: 6px; border-radius: 3px; background: rgba(128,128,128,.25); margin-top: .35em; overflow: hidden}
.status .bar div {height: 100%; background: #2563eb; border-radius: 3px}
.status .bad {color: #c2410c; font-weight: 600}
.status .good {color: #15803d}
.low {align-self: flex-end !important; flex-grow: 0 !important}
.low button, button.low {min-height: 42px}
"""
LOOK_AT: Any = {"interactive": False, "buttons": [], "object_fit": "contain", "format": "png"}


class Section(SimpleNamespace):
    """One section's components, by name."""


def learn_part(learning_steps: int) -> Section:
    """1: pictures, words, and what it is called afterwards."""
    part = Section()
    gr.Markdown("## 1 Learn\n3 to 5 pictures of one subject, in different places. Skip this to swap by words alone.")
    with gr.Row():
        with gr.Column(scale=1):
            part.references = gr.Gallery(
                label="Pictures of the subject",
                elem_id="references",
                columns=4,
                height=190,
                type="filepath",
                file_types=["image"],
                sources=["upload"],
                **{**LOOK_AT, "interactive": True},
            )
            part.example = gr.Dropdown([*SUBJECTS], label="or a drawn example", value=None, elem_id="subject-example")
        with gr.Column(scale=1):
            with gr.Row():
                part.class_word = gr.Textbox(label="What it is", placeholder="cat", elem_id="class-word", min_width=80)
                part.token = gr.Textbox("sks", label="Its name from now on", elem_id="token", min_width=80)
            with gr.Row():
                part.method = gr.Dropdown([*CONCEPTS], label="How", elem_id="learn-method", scale=2, min_width=120)
                part.steps = gr.Number(
                    learning_steps, label="Steps", precision=0, minimum=1, elem_id="learn-steps", min_width=80
                )
                part.sample_every = gr.Number(
                    50, label="Sample every", precision=0, minimum=0, elem_id="sample-every", min_width=80
                )
            add_buttons(part, "Learn", "learn", go_on="Go on")
            part.status = status_line("learn-status")
    part.samples = gr.Gallery(
        label="Samples while it learns", elem_id="samples", columns=8, height=180, visible=False, **LOOK_AT
    )
    return part


def invert_part() -> Section:
    """2: the picture, what is in it, which concept will come, and a mask for those who want one."""
    part = Section()
    gr.Markdown("## 2 Invert\nFind the noise that a picture comes from. Once for each picture and subject.")
    with gr.Row():
        with gr.Column(scale=1):
            part.source = gr.Image(
                label="The picture",
                elem_id="source",
                type="filepath",
                image_mode=None,
                sources=["upload"],
                height=280,
                buttons=[],
                format="png",
            )
            part.example = gr.Dropdown([*SCENES], label="or a drawn example", value=None, elem_id="scene-example")
        with gr.Column(scale=1):
            part.prompt = gr.Textbox(label="What is in it", placeholder="a photo of a cat on a floor", elem_id="prompt")
            with gr.Row():
                part.concept = gr.Dropdown([NO_CONCEPT], label="The subject to put in", elem_id="concept", scale=2)
                part.scale = gr.Number(
                    1, label="Strength", minimum=0, maximum=2, step=0.1, elem_id="scale", min_width=80
                )
            with gr.Accordion("More settings", open=False), gr.Row():
                part.inversion = gr.Dropdown([*INVERSIONS], value=INVERSIONS[0], label="Inversion", elem_id="inversion")
                part.steps = gr.Slider(5, 100, USUAL_STEPS, step=1, label="Steps", elem_id="invert-steps")
                part.guidance = gr.Number(None, label="Guidance, of those made under it", placeholder="as suits")
            add_buttons(part, "Invert", "invert")
            part.status = status_line("invert-status")
    with gr.Accordion("Mask (optional): where the picture may change", open=False, elem_id="mask-part"), gr.Row():
        _add_mask(part)
    return part


def _add_mask(part: Section) -> None:
    with gr.Column(scale=3):
        part.editor = gr.ImageEditor(
            label="Paint, then press Add or Take away",
            elem_id="editor",
            type="pil",
            sources=[],
            transforms=[],
            layers=False,
            brush=gr.Brush(default_size=24, colors=["#ff2200"], color_mode="fixed"),
            height=470,
            buttons=[],
            format="png",
        )
    with gr.Column(scale=2):
        part.mask_status = status_line("mask-status")
        with gr.Row():
            part.paint = gr.Button("Add", size="sm", elem_id="mask-add", min_width=80)
            part.erase = gr.Button("Take away", size="sm", elem_id="mask-erase", min_width=80)
        with gr.Row():
            part.undo = gr.Button("Undo", size="sm", elem_id="mask-undo", min_width=80)
            part.clear = gr.Button("Clear", size="sm", elem_id="mask-clear", min_width=80)
        with gr.Row():
            part.word = gr.Textbox(label="Find by a word", placeholder="cat", elem_id="mask-word", min_width=80)
            part.find = gr.Button("Find", size="sm", elem_id="mask-find", elem_classes="low", min_width=100)
        with gr.Row():
            part.load = gr.UploadButton("Load", size="sm", file_types=["image"], elem_id="mask-load", min_width=80)
            part.save = gr.DownloadButton("Save", size="sm", elem_id="mask-save", interactive=False, min_width=80)


def add_buttons(part: Section, start: str, name: str, go_on: str | None = None) -> None:
    """The button that starts a section's job, the one that stops it, and one to go on with what was stopped."""
    with gr.Row():
        part.start = gr.Button(start, variant="primary", elem_id=f"start-{name}", min_width=100)
        part.stop = gr.Button("Stop", variant="stop", elem_id=f"stop-{name}", visible=False, min_width=80)
        if go_on:
            part.go_on = gr.Button(go_on, elem_id=f"resume-{name}", visible=False, min_width=80)


def status_line(name: str) -> Any:
    """Where a job says how far it is, and a mistake what it was."""
    return gr.HTML(elem_id=name, elem_classes="status")
