"""The page's third section: how much of the source is kept, the result over the source, and how to get it again."""

from typing import Any

import gradio as gr

from photoswap.methods import METHODS

from .page import LOOK_AT, USUAL_STEPS, Section, add_buttons, status_line

SLIDERS = ("phi", "M", "A")
MEANINGS = {
    "phi": (10, "self-attention's output"),
    "M": (25, "self-attention's map"),
    "A": (20, "cross-attention's map"),
}
CODE: Any = {
    "language": "shell",
    "wrap_lines": True,
    "interactive": False,
    "show_line_numbers": False,
    "buttons": ["copy"],
}


def swap_part() -> Section:
    """3, with the grid of lambdas and the heat of words."""
    part = Section()
    gr.Markdown("## 3 Swap\nThe lambdas say for how many steps the layout is kept. Trying takes seconds.")
    with gr.Row():
        with gr.Column(scale=1):
            with gr.Row():
                part.subject = gr.Textbox(label="Replace", placeholder="cat", elem_id="subject", min_width=100)
                part.target = gr.Textbox(
                    label="with", placeholder="the learnt subject", elem_id="target", min_width=100
                )
            _add_method(part)
        with gr.Column(scale=1):
            part.compare = gr.ImageSlider(
                label="Source and result",
                elem_id="compare",
                format="png",
                buttons=["fullscreen"],
                max_height=560,
                interactive=False,
            )
            add_buttons(part, "Swap", "swap")
            part.status = status_line("swap-status")
    part.line = gr.Code(label="The same again, from a terminal", elem_id="line", lines=1, visible=False, **CODE)
    with gr.Accordion("All commands, and the files", open=False, elem_id="files-part"):
        part.lines = gr.Code(label="From the beginning", elem_id="lines", lines=3, **CODE)
        part.files = gr.File(
            label="result.png, grid.png, swap.json", file_count="multiple", interactive=False, elem_id="files"
        )
    with gr.Accordion("A grid of lambdas: click a picture to take its settings", open=False, elem_id="grid-part"):
        _add_grid(part)
    with gr.Accordion("What each word looks at", open=False, elem_id="heat-part"):
        _add_heat(part)
    return part


def offered_methods() -> list[str]:
    """All but those that want a picture of the subject at the swap: here it is learnt before."""
    return [name for name, kind in METHODS.items() if "reference" not in kind.wants]


def _add_method(part: Section) -> None:
    with gr.Row():
        part.method = gr.Dropdown(offered_methods(), value="photoswap", label="Method", elem_id="method")
        presets = [("the paper's", "paper"), ("the released code's", "official")]
        part.preset = gr.Dropdown(presets, value="paper", label="Preset", elem_id="preset")
    part.lambdas = [
        gr.Slider(0, USUAL_STEPS, value, step=1, label=f"{name}: {what}", elem_id=f"lambda-{name}")
        for name, (value, what) in MEANINGS.items()
    ]
    part.timeline = gr.HTML(elem_id="timeline", padding=True, container=True)
    part.use_mask = gr.Checkbox(True, label="Change nothing outside the mask, if there is one", elem_id="use-mask")
    with gr.Accordion("More settings", open=False):
        with gr.Row():
            part.guidance = gr.Number(None, label="Guidance", placeholder="as suits", elem_id="guidance", min_width=80)
            part.blend = gr.Number(None, label="Blend", placeholder="the preset's", elem_id="blend", min_width=80)
            part.seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed", min_width=80)
        with gr.Row():
            part.align = gr.Dropdown(["tokens", "index"], value="tokens", label="Match the words of A by")
            part.adain = gr.Checkbox(False, label="In the mask, the source's light (AdaIN)", elem_id="adain")
        part.settings = gr.Textbox(label="Other settings of the method, NAME=VALUE, one a line", lines=2)


def _add_grid(part: Section) -> None:
    with gr.Row():
        part.across = gr.Dropdown([*SLIDERS], value="phi", label="Across", min_width=80)
        part.across_values = gr.Textbox("0, 10, 20", label="Steps", elem_id="across", min_width=100)
        part.down = gr.Dropdown([*SLIDERS], value="A", label="Down", min_width=80)
        part.down_values = gr.Textbox("0, 20", label="Steps", elem_id="down", min_width=100)
        part.start_grid = gr.Button("Swap them all", elem_id="start-grid", elem_classes="low", min_width=130)
    part.grid_status = status_line("grid-status")
    part.grid = gr.Gallery(show_label=False, elem_id="grid", columns=3, allow_preview=False, **LOOK_AT)


def _add_heat(part: Section) -> None:
    with gr.Row():
        part.look_at = gr.Radio(["source", "result"], value="source", label="In the", elem_id="look-at")
        part.start_heat = gr.Button("Look", elem_id="start-heat", elem_classes="low", min_width=130)
    part.heat_status = status_line("heat-status")
    part.heat = gr.Gallery(show_label=False, elem_id="heat", columns=5, **LOOK_AT)
