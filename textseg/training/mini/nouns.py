"""The nouns that `mini` knows, and the drawings that show them: `nouns.json`, one noun a line.

`DRAWINGS` maps a noun to emoji short names (as the npm package `emoji-datasource` spells them);
nouns without a drawing are learnt from photographed cutouts or COCO annotations only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_DATA: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

COCO_NOUNS: tuple[str, ...] = tuple(_DATA["coco"])
NOUNS: tuple[str, ...] = (*COCO_NOUNS, *_DATA["cutouts"], *_DATA["extra"])
COLOURS: tuple[str, ...] = tuple(_DATA["colours"])
DRAWINGS: dict[str, tuple[str, ...]] = {
    noun: tuple(names)
    for part in ("coco", "cutouts", "extra")
    for noun, names in _DATA[part].items()
    if names
}
