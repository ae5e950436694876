"""Writes composed scenes as a COCO-format data set with exact masks, one category a noun."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...rle import bounding_box, encode_rle
from ..photo_scenes import Scene
from .nouns import NOUNS
from .scenes import SceneOptions, Sprites, compose

_ALWAYS_PHOTO = SceneOptions(photo_backgrounds=1.0)
SIZES: tuple[tuple[int, int], ...] = ((160, 208), (208, 160), (176, 240), (192, 192), (240, 176))


def _annotations(
    scene: Scene, image_id: int, first_id: int, nouns: Sequence[str]
) -> list[dict[str, Any]]:
    records = []
    for noun, mask in scene.instances:
        if not mask.any():
            continue
        records.append(
            {
                "id": first_id + len(records),
                "image_id": image_id,
                "category_id": nouns.index(noun) + 1,
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": [float(v) for v in bounding_box(mask)],
                "segmentation": encode_rle(mask),
            }
        )
    return records


def write_drawn_set(
    images: Path,
    annotations: Path,
    sprites: Sprites,
    *,
    count: int,
    seed: int,
    backgrounds: Sequence[np.ndarray] = (),
    options: SceneOptions = _ALWAYS_PHOTO,
    sizes: Sequence[tuple[int, int]] = SIZES,
    description: str = "Scenes drawn by textseg",
    nouns: Sequence[str] = NOUNS,
) -> int:
    """Composes `count` scenes and writes them as JPEG files and one COCO instance file.

    Scene i depends on (seed, i) alone. Sizes take turns. Category ids follow `nouns`,
    starting at 1; only nouns with sprites become categories.

    Returns:
        The number of annotations.
    """
    images.mkdir(parents=True, exist_ok=True)
    annotations.parent.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        scene = compose(rng, sprites, sizes[i % len(sizes)], backgrounds, options)
        name = f"{i + 1:06d}.jpg"
        pixels = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(images / name), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        h, w = scene.image.shape[:2]
        files.append({"id": i + 1, "file_name": name, "height": h, "width": w})
        records += _annotations(scene, i + 1, len(records) + 1, nouns)
    data = {
        "info": {"description": description, "version": "1"},
        "licenses": [],
        "categories": [
            {"id": nouns.index(n) + 1, "name": n, "supercategory": "object"}
            for n in sorted(sprites, key=nouns.index)
        ],
        "images": files,
        "annotations": records,
    }
    annotations.write_text(json.dumps(data, separators=(",", ":")))
    return len(records)


def main(packages: Path, out: Path) -> None:
    """Draws everything in `data/` from the npm packages in `packages`."""
    import tempfile

    from .samples import write_samples
    from .sprites import build_drawings, load_sprites

    styles = ("noto", "twemoji", "fluent")
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        build_drawings(packages, small, styles)
        build_drawings(packages, large, ("fluent",), side=256)
        sprites = load_sprites([small / style for style in styles])
        for split, seed in (("train", 11), ("val", 12)):
            write_drawn_set(
                out / "drawn" / split,
                out / "drawn" / "annotations" / f"instances_{split}.json",
                sprites,
                count=100,
                seed=seed,
            )
        write_samples(out / "samples", load_sprites([large / "fluent"], side=256))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
