"""The panels beside the picture: find, edit, save."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from ..option_table import option_table
from ..options import REFERENCES, THRESHOLD_RULES, ContrastOptions, EditOptions, RefineOptions

REFERENCE_LABELS: tuple[tuple[str, str], ...] = (
    ("nothing (null)", "null"),
    ("a picture without it (absent)", "absent"),
    ("other things (swap)", "swap"),
    ("the caption without it (erase)", "erase"),
)
REFINEMENT_LABELS: tuple[tuple[str, str], ...] = (
    ("The model's own", "model"),
    ("Sharp", "crf"),
    ("Soft", "guided"),
    ("Raw", "none"),
)
METHOD_LABELS: tuple[tuple[str, str], ...] = (
    ("As fits what is asked", ""),
    ("DiffEdit", "diffedit"),
    ("DiffEdit without encoding", "diffedit-no-encoding"),
    ("Encode and decode", "encode-decode"),
    ("SDEdit", "sdedit"),
    ("Fill from around it", "fill"),
    ("OpenCV's inpainting", "opencv-inpaint"),
)
SAVES: tuple[tuple[str, str], ...] = (
    ("mask", "Mask (PNG)"),
    ("cutout", "Cutout (PNG)"),
    ("coco", "COCO (JSON)"),
    ("edit", "Edited picture"),
    ("image", "Original picture"),
    ("all", "Everything (ZIP)"),
)


def find_panel(parts: dict[str, Any], nouns: Sequence[str]) -> None:
    """Ask, see, correct, approve.

    Args:
        nouns: offered as one types.
    """
    with gr.Row(elem_id="ts-ask"):
        parts["query"] = gr.Textbox(
            show_label=False, label="What to find", container=False, lines=1, max_lines=1,
            placeholder="What to find, as “the dog”", elem_id="ts-query",
        )  # fmt: skip
        parts["find"] = gr.Button("Find", variant="primary", elem_id="ts-find", min_width=80)
    names = "".join(f'<option value="the {escape(noun)}">' for noun in nouns)
    gr.HTML(f'<datalist id="ts-nouns">{names}</datalist>', padding=False, elem_classes="ts-unseen")
    with gr.Row(elem_id="ts-try"):
        parts["attempt"] = gr.HTML('<p class="ts-note">Try</p>')
        parts["suggestions"] = [
            gr.Button("", size="sm", visible=False, elem_id=f"ts-try-{i}") for i in range(3)
        ]
    parts["found"] = gr.Radio(
        [], show_label=False, label="Found", container=False, elem_id="ts-found"
    )
    parts["found_style"] = gr.HTML("", padding=False, elem_classes="ts-unseen")
    with gr.Row(elem_id="ts-next"):
        parts["approve"] = gr.Button("Approve mask", variant="primary", elem_id="ts-approve")
        parts["remove"] = gr.Button("Remove object", elem_id="ts-remove")
    parts["anyway"] = gr.Button("Show it anyway", visible=False, size="sm", elem_id="ts-anyway")
    parts["level"] = _slider(
        RefineOptions, "level", label="Threshold", elem_id="ts-level",
        info="Lower takes more in.",
    )  # fmt: skip
    with gr.Row(elem_classes="ts-tools"):
        parts["grow"] = gr.Button("Grow", size="sm", elem_id="ts-grow")
        parts["shrink"] = gr.Button("Shrink", size="sm", elem_id="ts-shrink")
        parts["invert"] = gr.Button("Invert", size="sm", elem_id="ts-invert")
        parts["reset"] = gr.Button("Reset", size="sm", elem_id="ts-reset")
        parts["forget"] = gr.Button("Forget", size="sm", elem_id="ts-forget")
    with gr.Accordion("More", open=False, elem_id="ts-more"):
        parts["refinement"] = gr.Radio(
            [*REFINEMENT_LABELS], value="model", label="Edges", elem_id="ts-refinement",
            info="Sharp: a dense CRF. Soft: a guided filter.",
        )  # fmt: skip
        parts["caption"] = gr.Textbox(
            label="Caption", lines=1, max_lines=3, elem_id="ts-caption",
            info="What the picture shows; for a comparison with “the caption without it”.",
        )  # fmt: skip
        parts["describe"] = gr.Button("Write a caption", size="sm", elem_id="ts-describe")
        parts["reference"] = gr.Dropdown(
            [*REFERENCE_LABELS], value=REFERENCES[0], allow_custom_value=True,
            label="Compare the name with", elem_id="ts-reference",
            info="Any other text is taken as it is.",
        )  # fmt: skip
        parts["rule"] = gr.Dropdown(
            [*THRESHOLD_RULES], label="How the threshold is set", elem_id="ts-rule"
        )
        with gr.Row():
            parts["samples_drawn"] = _slider(
                ContrastOptions, "samples", label="Comparisons", min_width=130
            )
            parts["strength"] = _slider(
                ContrastOptions, "strength", value=0.5, label="Noise in each", min_width=130
            )


def edit_panel(parts: dict[str, Any], edit: EditOptions) -> None:
    """Say what is to become of what was found."""
    parts["edit_hint"] = gr.HTML(elem_id="ts-edit-hint")
    parts["prompt"] = gr.Textbox(
        label="What it is to become", placeholder="a zebra", lines=1, max_lines=3,
        elem_id="ts-prompt", info="Leave it empty to take the thing out.",
    )  # fmt: skip
    with gr.Row(elem_id="ts-edit-row"):
        parts["edit"] = gr.Button("Edit", variant="primary", interactive=False, elem_id="ts-edit")
        parts["recolour"] = gr.UploadButton(
            "Recolour by a picture…", file_types=["image"], file_count="single",
            type="filepath", interactive=False, size="lg", elem_id="ts-recolour",
        )  # fmt: skip
    parts["ratio"] = _slider(
        EditOptions, "encode_ratio", value=edit.encode_ratio, label="How far it may go",
        info="As a share of the way to pure noise and back.", elem_id="ts-ratio",
    )  # fmt: skip
    with gr.Accordion("More", open=False, elem_id="ts-edit-more"):
        parts["method"] = gr.Dropdown(
            [*METHOD_LABELS], value="", label="Method", elem_id="ts-method"
        )
        with gr.Row():
            parts["guidance"] = _slider(
                EditOptions, "guidance_scale", value=edit.guidance_scale, min_width=150,
                label="Closeness to the words", elem_id="ts-guidance",
            )  # fmt: skip
            parts["steps"] = _slider(EditOptions, "steps", value=edit.steps, label="Steps",
                                     min_width=150, elem_id="ts-edit-steps")  # fmt: skip
        parts["edit_grow"] = _slider(
            EditOptions, "grow", value=edit.grow, label="Grow the mask first",
            info="By a share of the longer side, so that rims and shadows go along.",
            elem_id="ts-edit-grow",
        )  # fmt: skip
        with gr.Row():
            parts["negative"] = gr.Textbox(
                label="What it is not to show", lines=1, max_lines=2, value=edit.negative_prompt,
                elem_id="ts-negative", min_width=200, scale=3,
            )  # fmt: skip
            parts["seed"] = gr.Number(label="Seed", value=edit.seed, precision=0, minimum=0,
                                      min_width=90, elem_id="ts-seed")  # fmt: skip
    with gr.Accordion("Extend the picture", open=False, elem_id="ts-extend-more"):
        parts["extend_prompt"] = gr.Textbox(
            label="What the whole is to show", lines=1, max_lines=2,
            placeholder="a park under a wide sky", elem_id="ts-extend-prompt",
        )  # fmt: skip
        with gr.Row(elem_id="ts-amounts"):
            parts["amounts"] = {
                side: gr.Number(label=f"{side.capitalize()}, %", value=0, precision=0, minimum=0,
                                maximum=200, min_width=70, elem_id=f"ts-extend-{side}")
                for side in ("left", "right", "top", "bottom")
            }  # fmt: skip
        parts["extend"] = gr.Button("Extend", elem_id="ts-extend")
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
