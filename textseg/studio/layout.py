"""What stands where on the page. What it does is in `app.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ..options import EditOptions
from .panels import edit_panel, find_panel, save_panel
from .pictures import SAMPLES, sample_file
from .strip import SCRIPT
from .theme import gestures, style
from .views import VIEWS

TOOLS: tuple[tuple[str, str], ...] = (
    ("Add", "plus"),
    ("Take away", "minus"),
    ("Box", "box"),
    ("Brush", "brush"),
    ("Eraser", "eraser"),
)
"""What a pointer does on the picture."""
HOW = "Click: it is there. Shift or second button: it is not. Drag: it is inside."


@dataclass(frozen=True, eq=False)
class Page:
    """The components that something happens with."""

    state: gr.State
    upload: gr.UploadButton
    samples: dict[str, gr.Button]
    make_prompt: gr.Textbox
    make_seed: gr.Number
    make: gr.Button
    tabs: gr.Tabs
    view: gr.Radio
    stage: gr.Image
    over: gr.HTML
    after: gr.ImageSlider
    status: gr.HTML
    cancel: gr.Button
    undo: gr.Button
    redo: gr.Button
    history: gr.HTML
    panel: gr.Tabs
    query: gr.Textbox
    find: gr.Button
    attempt: gr.HTML
    suggestions: list[gr.Button]
    found: gr.Radio
    found_style: gr.HTML
    forget: gr.Button
    caption: gr.Textbox
    describe: gr.Button
    level: gr.Slider
    refinement: gr.Radio
    reference: gr.Dropdown
    anyway: gr.Button
    grow: gr.Button
    shrink: gr.Button
    invert: gr.Button
    reset: gr.Button
    rule: gr.Dropdown
    samples_drawn: gr.Slider
    strength: gr.Slider
    approve: gr.Button
    remove: gr.Button
    edit_hint: gr.HTML
    prompt: gr.Textbox
    edit: gr.Button
    recolour: gr.UploadButton
    ratio: gr.Slider
    method: gr.Dropdown
    guidance: gr.Slider
    steps: gr.Slider
    edit_grow: gr.Slider
    negative: gr.Textbox
    seed: gr.Number
    extend_prompt: gr.Textbox
    amounts: dict[str, gr.Number]
    extend: gr.Button
    go_on: gr.Button
    saves: dict[str, gr.Button]
    file: gr.DownloadButton
    python: gr.Code
    shell: gr.Code


def build_page(model_name: str, edit: EditOptions, nouns: Sequence[str] = ()) -> Page:
    """Lay out the page, inside a `gradio.Blocks`.

    Args:
        model_name: shown in the corner.
        edit: what the edit's controls start from.
        nouns: offered as one types what to find.
    """
    parts: dict[str, Any] = {"state": gr.State(None)}
    gr.HTML(style(), padding=False, elem_id="ts-style")
    gr.HTML(
        '<header class="ts-head"><h1>textseg <span>studio</span></h1>'
        "<p>Name it, see it, correct it, change it.</p>"
        f'<span class="ts-model">model: {escape(model_name)}</span></header>'
    )
    _bar(parts)
    with gr.Row(elem_id="ts-main", equal_height=False):
        with gr.Column(scale=6, min_width=320, elem_id="ts-left"):
            _stage(parts)
        with (
            gr.Column(scale=5, min_width=320, elem_id="ts-panel"),
            gr.Tabs(elem_id="ts-steps") as parts["panel"],
        ):
            with gr.Tab("1  Find", id="find"):
                find_panel(parts, nouns)
            with gr.Tab("2  Edit", id="edit"):
                edit_panel(parts, edit)
            with gr.Tab("3  Save", id="save"):
                save_panel(parts)
        with gr.Column(scale=2, min_width=160, elem_id="ts-past"):
            gr.HTML('<p class="ts-title">History</p>', padding=False)
            parts["history"] = gr.HTML("", js_on_load=SCRIPT, padding=False, elem_id="ts-history")
    with gr.Row(elem_id="ts-below", equal_height=False):
        _below(parts)
    return Page(**parts)


def _bar(parts: dict[str, Any]) -> None:
    with gr.Row(elem_id="ts-bar"):
        parts["upload"] = gr.UploadButton(
            "Open a picture", file_types=["image"], file_count="single", type="filepath",
            variant="primary", size="md", elem_id="ts-upload",
        )  # fmt: skip
        parts["samples"] = {
            sample.name: gr.Button(
                sample.name.capitalize(), icon=str(sample_file(sample.name)), size="md",
                elem_classes="ts-sample", elem_id=f"ts-sample-{sample.name}",
            )
            for sample in SAMPLES
        }  # fmt: skip
        gr.HTML("<p>or drop or paste one anywhere</p>", elem_id="ts-hint")


def _stage(parts: dict[str, Any]) -> None:
    with gr.Tabs(elem_id="ts-tabs") as parts["tabs"]:
        with gr.Tab("Picture", id="look"):
            with gr.Column(elem_id="ts-canvas"):
                parts["stage"] = gr.Image(
                    interactive=False, show_label=False, label="The picture and its masks",
                    buttons=[], format="png", elem_id="ts-stage", container=False,
                )  # fmt: skip
                parts["over"] = gr.HTML("", js_on_load=gestures(), elem_id="ts-over")
            gr.HTML(f'<p class="ts-note ts-how">{HOW}</p>', padding=False)
            with gr.Row(elem_id="ts-tools"):
                gr.Radio([*TOOLS], value="plus", show_label=False, label="Tool", interactive=True,
                         container=False, elem_id="ts-tool", elem_classes="ts-choice")  # fmt: skip
                gr.Slider(1, 20, value=4, step=0.5, buttons=[], elem_id="ts-brush",
                          label="Brush, % of the picture", interactive=True)  # fmt: skip
            parts["view"] = gr.Radio(
                [*VIEWS], value="Overlay", show_label=False, label="View", elem_id="ts-view",
                container=False, elem_classes="ts-choice",
            )  # fmt: skip
        with gr.Tab("Before and after", id="after"):
            parts["after"] = gr.ImageSlider(
                show_label=False, label="Before and after", interactive=False, format="png",
                buttons=[], elem_id="ts-after", max_height=680,
            )  # fmt: skip
    with gr.Row(elem_id="ts-foot"):
        parts["status"] = gr.HTML(elem_id="ts-status")
        parts["cancel"] = gr.Button("Cancel", variant="stop", size="sm", visible=False,
                                    elem_id="ts-cancel")  # fmt: skip
        parts["undo"] = gr.Button("Undo", size="sm", interactive=False, elem_id="ts-undo")
        parts["redo"] = gr.Button("Redo", size="sm", interactive=False, elem_id="ts-redo")


def _below(parts: dict[str, Any]) -> None:
    with gr.Accordion("Make a picture from words", open=False):
        with gr.Row(elem_id="ts-make-row"):
            parts["make_prompt"] = gr.Textbox(
                label="What it shows", placeholder="a photo of a horse on grass", lines=1, scale=5,
                elem_id="ts-make-prompt",
            )  # fmt: skip
            parts["make_seed"] = gr.Number(
                label="Seed", value=0, precision=0, minimum=0, scale=1, min_width=90
            )
        parts["make"] = gr.Button("Make it", elem_id="ts-make")
