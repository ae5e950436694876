"""How the studio looks: system fonts, light and dark, wide and narrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..drawing import PALETTE

_HERE = Path(__file__).parent
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "DejaVu Sans Mono", "monospace")


def theme() -> Any:
    """A `gradio.Theme` that fetches no fonts."""
    import gradio

    return gradio.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_text_weight="600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        slider_color="*primary_600",
    )


def style() -> str:
    """The style sheet, as an HTML element."""
    dots = "\n".join(
        f"#ts-found label:nth-of-type({len(PALETTE)}n+{i}) {{ --ts-dot: rgb{color} }}"
        for i, color in enumerate(PALETTE, 1)
    )
    return f"<style>{(_HERE / 'studio.css').read_text('utf-8')}\n{dots}</style>"


def script() -> str:
    """What runs in the page when it has loaded: pasting and dropping pictures anywhere."""
    return (_HERE / "studio.js").read_text("utf-8")


def gestures() -> str:
    """What listens to the pointer over the picture."""
    return (_HERE / "gestures.js").read_text("utf-8")
