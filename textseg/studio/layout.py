"""What stands where on the page. What it does is in `app.py`."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ..option_table import option_table
from ..options import REFERENCES, THRESHOLD_RULES, ContrastOptions, EditOptions, RefineOptions
from .pictures import SAMPLES, sample_file
from .theme import style
from .views import VIEWS

REFERENCE_LABELS: tuple[tuple[str, str], ...] = (
    ("null: nothing", "null"),
    ("absent: a picture without it", "absent"),
    ("swap: other things", "swap"),
    ("erase: the caption without it", "erase"),
)
REFINEMENT_LABELS: tuple[tuple[str, str], ...] = (
    ("As calibrated", "model"),
    ("CRF", "crf"),
    ("Guided filter", "guided"),
    ("None", "none"),
)
SAVES: tuple[tuple[str, str], ...] = (
    ("mask", "Mask (PNG)"),
    ("cutout", "Cutout (PNG)"),
    ("coco", "COCO (JSON)"),
    ("edit", "Edited picture"),
    ("image", "Original picture"),
    ("all", "Everything (ZIP)"),
)


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
    look_tab: gr.Tab
    paint_tab: gr.Tab
    after_tab: gr.Tab
    view: gr.Radio
    stage: gr.Image
    editor: gr.ImageEditor
    paint: gr.Button
    erase: gr.Button
    after: gr.ImageSlider
    status: gr.HTML
    cancel: gr.Button
    undo: gr.Button
    redo: gr.Button
    history: gr.Radio
    panel: gr.Tabs
    query: gr.Textbox
    find: gr.Button
    attempt: gr.HTML
    suggestions: list[gr.Button]
    found: gr.Radio
    remove: gr.Button
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
    edit_hint: gr.HTML
    prompt: gr.Textbox
    ratio: gr.Slider
    guidance: gr.Slider
    steps: gr.Slider
    edit: gr.Button
    go_on: gr.Button
    saves: dict[str, gr.Button]
    file: gr.DownloadButton
    python: gr.Code
    shell: gr.Code


def build_page(model_name: str, edit: EditOptions) -> Page:
    """Lay out the page, inside a `gradio.Blocks`.

    Args:
        model_name: shown in the corner.
        edit: what the edit's controls start from.
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
        with gr.Column(scale=6, min_width=320):
            _stage(parts)
        with (
            gr.Column(scale=5, min_width=320, elem_id="ts-panel"),
            gr.Tabs(elem_id="ts-steps") as parts["panel"],
        ):
            with gr.Tab("1  Find", id="find"):
                _find(parts)
            with gr.Tab("2  Edit", id="edit"):
                _edit(parts, edit)
            with gr.Tab("3  Save", id="save"):
                _save(parts)
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
        with gr.Tab("Look", id="look") as parts["look_tab"]:
            parts["stage"] = gr.Image(
                interactive=False, show_label=False, label="The picture and its masks",
                buttons=["fullscreen"], format="png", elem_id="ts-stage", container=False,
            )  # fmt: skip
            parts["view"] = gr.Radio(
                [*VIEWS], value="Overlay", show_label=False, label="View", elem_id="ts-view",
                container=False,
            )  # fmt: skip
        with gr.Tab("Paint", id="paint") as parts["paint_tab"]:
            parts["editor"] = gr.ImageEditor(
                show_label=False, label="Paint on the picture", sources=(), transforms=(),
                layers=False, type="numpy", image_mode="RGBA", format="png",
                brush=gr.Brush(colors=["#ffffffcc"], color_mode="fixed", default_size=24),
                buttons=[], elem_id="ts-editor", height=420,
            )  # fmt: skip
            with gr.Row(elem_classes="ts-tools"):
                parts["paint"] = gr.Button("Add strokes to the mask", variant="primary",
                                           elem_id="ts-paint")  # fmt: skip
                parts["erase"] = gr.Button("Erase strokes from it", elem_id="ts-erase")
        with gr.Tab("Before and after", id="after") as parts["after_tab"]:
            parts["after"] = gr.ImageSlider(
                show_label=False, label="Before and after", interactive=False, format="png",
                buttons=["fullscreen"], elem_id="ts-after", max_height=520,
            )  # fmt: skip
    with gr.Row(elem_id="ts-foot"):
        parts["status"] = gr.HTML(elem_id="ts-status")
        parts["cancel"] = gr.Button("Cancel", variant="stop", size="sm", visible=False,
                                    elem_id="ts-cancel")  # fmt: skip
        parts["undo"] = gr.Button("Undo", size="sm", interactive=False, elem_id="ts-undo")
        parts["redo"] = gr.Button("Redo", size="sm", interactive=False, elem_id="ts-redo")


def _below(parts: dict[str, Any]) -> None:
    with gr.Accordion("History", open=False, elem_id="ts-steps-taken"):
        parts["history"] = gr.Radio(
            [], show_label=False, label="Steps", container=False, elem_id="ts-history"
        )
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


def _find(parts: dict[str, Any]) -> None:
    with gr.Row(elem_id="ts-ask"):
        parts["query"] = gr.Textbox(
            show_label=False, label="What to find", container=False, lines=1, max_lines=1,
            placeholder="What to find, as “the dog”; several with commas", elem_id="ts-query",
        )  # fmt: skip
        parts["find"] = gr.Button("Find", variant="primary", elem_id="ts-find", min_width=80)
    with gr.Row(elem_id="ts-try"):
        parts["attempt"] = gr.HTML('<p class="ts-note">Try</p>')
        parts["suggestions"] = [
            gr.Button("", size="sm", visible=False, elem_id=f"ts-try-{i}") for i in range(3)
        ]
    parts["found"] = gr.Radio(
        [], show_label=False, label="Found", container=False, elem_id="ts-found"
    )
    parts["level"] = _slider(
        RefineOptions, "level", label="Threshold", elem_id="ts-level",
        info="Lower takes more in. No model runs for this.",
    )  # fmt: skip
    parts["anyway"] = gr.Button("Show it anyway", visible=False, size="sm", elem_id="ts-anyway")
    parts["refinement"] = gr.Radio(
        [*REFINEMENT_LABELS], value="model", label="Edges", elem_id="ts-refinement"
    )
    with gr.Row(elem_classes="ts-tools"):
        parts["grow"] = gr.Button("Grow", size="sm", elem_id="ts-grow")
        parts["shrink"] = gr.Button("Shrink", size="sm", elem_id="ts-shrink")
        parts["invert"] = gr.Button("Invert", size="sm", elem_id="ts-invert")
        parts["reset"] = gr.Button("Reset", size="sm", elem_id="ts-reset")
        parts["remove"] = gr.Button("Remove", size="sm", elem_id="ts-remove")
    parts["approve"] = gr.Button("Approve this mask", variant="primary", elem_id="ts-approve")
    with gr.Accordion("Caption and contrast", open=False, elem_id="ts-more"):
        parts["caption"] = gr.Textbox(
            label="Caption", lines=1, max_lines=3, elem_id="ts-caption",
            info="What the picture shows; the reference “erase” needs it.",
        )  # fmt: skip
        parts["describe"] = gr.Button("Write a caption", size="sm", elem_id="ts-describe")
        parts["reference"] = gr.Dropdown(
            [*REFERENCE_LABELS], value=REFERENCES[0], allow_custom_value=True,
            label="Contrast with", elem_id="ts-reference",
            info="What the query is compared with. Any other text is taken as it is.",
        )  # fmt: skip
        parts["rule"] = gr.Dropdown([*THRESHOLD_RULES], label="Threshold rule", elem_id="ts-rule")
        with gr.Row():
            parts["samples_drawn"] = _slider(
                ContrastOptions, "samples", label="Noise draws", min_width=130
            )
            parts["strength"] = _slider(
                ContrastOptions, "strength", value=0.5, label="Noise level", min_width=130
            )


def _edit(parts: dict[str, Any], edit: EditOptions) -> None:
    parts["edit_hint"] = gr.HTML(elem_id="ts-edit-hint")
    parts["prompt"] = gr.Textbox(
        label="What it becomes", placeholder="a zebra", lines=1, max_lines=3, elem_id="ts-prompt",
        info="Leave it empty to take the thing out.",
    )  # fmt: skip
    parts["ratio"] = _slider(
        EditOptions, "encode_ratio", value=edit.encode_ratio, label="Encode ratio",
        info="How far from the picture the edit may go.", elem_id="ts-ratio",
    )  # fmt: skip
    parts["guidance"] = _slider(
        EditOptions, "guidance_scale", value=edit.guidance_scale, label="Guidance",
        info="How closely the words are followed.", elem_id="ts-guidance",
    )  # fmt: skip
    parts["steps"] = _slider(
        EditOptions, "steps", value=edit.steps, label="Steps", elem_id="ts-edit-steps"
    )
    parts["edit"] = gr.Button("Edit", variant="primary", interactive=False, elem_id="ts-edit")
    parts["go_on"] = gr.Button(
        "Go on with the edited picture", interactive=False, elem_id="ts-go-on"
    )


def _save(parts: dict[str, Any]) -> None:
    with gr.Row(elem_classes="ts-downloads"):
        parts["saves"] = {
            kind: gr.Button(label, size="md", elem_id=f"ts-save-{kind}",
                            interactive=kind in ("image", "all"))
            for kind, label in SAVES
        }  # fmt: skip
    parts["file"] = gr.DownloadButton(elem_id="ts-file")
    gr.HTML('<p class="ts-note">The same result without the studio, beside the picture’s file:</p>')
    with gr.Tabs():
        with gr.Tab("Python"):
            parts["python"] = gr.Code(language="python", interactive=False, show_label=False,
                                      label="Python", lines=4, max_lines=18, wrap_lines=True,
                                      show_line_numbers=False, elem_id="ts-python",
                                      buttons=["copy"])  # fmt: skip
        with gr.Tab("Command line"):
            parts["shell"] = gr.Code(language="shell", interactive=False, show_label=False,
                                     label="Command line", lines=4, max_lines=18, wrap_lines=True,
                                     show_line_numbers=False, elem_id="ts-shell",
                                     buttons=["copy"])  # fmt: skip


def _slider(kind: type, name: str, **given: Any) -> gr.Slider:
    """A control of an option, over the part of its values that is useful."""
    option = option_table(kind)[name]
    if option.slider is None:
        raise KeyError(f"{name} has no slider")
    low, high, step = option.slider
    return gr.Slider(low, high, step=step, buttons=[], **({"value": option.default} | given))
