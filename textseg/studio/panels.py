"""The panels beside the picture: find, edit, save."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..option_table import option_table
from ..options import REFERENCES, THRESHOLD_RULES, ContrastOptions, EditOptions, RefineOptions

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


def find_panel(parts: dict[str, Any]) -> None:
    """Ask, see, correct, approve."""
    with gr.Row(elem_id="ts-ask"):
        parts["query"] = gr.Textbox(
            show_label=False, label="What to find", container=False, lines=1, max_lines=1,
            placeholder="What to find, as “the dog”", elem_id="ts-query",
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


def edit_panel(parts: dict[str, Any], edit: EditOptions) -> None:
    """Say what becomes of what was found."""
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


def save_panel(parts: dict[str, Any]) -> None:
    """Take it home."""
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
