"""What the painter paints, and the shapes of its networks: `painter.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_DATA: dict[str, Any] = json.loads(
    (Path(__file__).parent / "painter.json").read_text(encoding="utf-8")
)
NOUNS: tuple[str, ...] = tuple(_DATA["nouns"])
STYLES: dict[str, str] = _DATA["styles"]
"""Styles of `mini.sprites.STYLES` that are trained on, and the word of each in a caption."""
UNSTYLED: str = _DATA["unstyled"]
"""The word of the style that captions mean which name none."""
UNET: dict[str, Any] = _DATA["unet"]
AUTOENCODER: dict[str, Any] = _DATA["autoencoder"]
FACTOR = 2 ** (len(AUTOENCODER["block_out_channels"]) - 1)
"""Pixels of a side per cell of the latents."""
