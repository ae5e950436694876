"""Composes the validation sets of `mini`'s model card from pictures that training held out.

    python eval/compose_sets.py --packages node_modules --cutouts photo-cutouts \\
        --backgrounds backgrounds -o sets

writes, as COCO-format sets, `openmoji` (a drawing style that is never trained on), `photo`
(every fifth photographed cutout on held-out photographs), `edit` (ten swaps over 120 drawn
scenes, with `swaps.json`) and `large` (the same over 100 scenes of one large object each, for a
model that paints such). With `--photos`, `--skip` and `--same` (see `find_likest.py`) also what
to calibrate with, of which training saw nothing but the backgrounds: `new-style` (EmojiOne 1) and
`new-photo` (photographed objects that training skipped, but for those likest to a held-out cutout).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from textseg.training.mini.drawn_set import write_drawn_set
from textseg.training.mini.photos import cut_out
from textseg.training.mini.scenes import SceneOptions, load_backgrounds, split_backgrounds
from textseg.training.mini.sprites import build_drawings, load_sprites, split_cutouts
from textseg.training.mini.subjects import cut_subjects

SWAPS = {
    "dog": "a cat",
    "cat": "a dog",
    "car": "a bus",
    "bus": "a truck",
    "apple": "an orange",
    "orange": "an apple",
    "horse": "a cow",
    "banana": "a carrot",
    "guitar": "a violin",
    "tiger": "a lion",
}
PLAIN_SCENES = SceneOptions(photo_backgrounds=1.0)
EDIT_SCENES = SceneOptions(counts=(0.5, 0.5), scale=(0.35, 0.6), photo_backgrounds=1.0)
LARGE_SCENES = SceneOptions(counts=(1.0,), scale=(0.6, 0.85), rotation=8.0, photo_backgrounds=0.3)


def skipped_objects(photos: Path, skip: Path, same: Path) -> dict[str, list[np.ndarray]]:
    """Cutouts of the main objects of photographs, by noun."""
    wanted = set(skip.read_text().split()) - set(same.read_text().split())
    rest = {f"{f.parent.name}/{f.name}" for f in photos.glob("*/*.jp*g")} - wanted
    with tempfile.TemporaryDirectory() as cache:
        return cut_out(cut_subjects([photos], frozenset(rest), Path(cache)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="node_modules")
    parser.add_argument("--cutouts", type=Path, required=True, help="FOLDER/NOUN/*.png")
    parser.add_argument("--backgrounds", type=Path, required=True, help="photographs")
    parser.add_argument("--photos", type=Path, help="photographs of one object, FOLDER/NOUN/*.jpg")
    parser.add_argument("--skip", type=Path, help="those that training skipped")
    parser.add_argument("--same", type=Path, help="of these, those to leave out here, too")
    parser.add_argument("--count", type=int, default=100, help="scenes (default: 100)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    trained, held_out = split_backgrounds(load_backgrounds(args.backgrounds))
    _, held = split_cutouts(load_sprites([args.cutouts]))
    with tempfile.TemporaryDirectory() as folder:
        styles = [
            "openmoji",
            "fluent",
            "noto",
            "twemoji",
            *(["emojione-v1"] if args.photos else []),
        ]
        build_drawings(args.packages, Path(folder), styles)
        openmoji = load_sprites([Path(folder) / "openmoji"])
        drawn = load_sprites([Path(folder) / s for s in ("noto", "twemoji", "fluent")])
        new_style = load_sprites([Path(folder) / "emojione-v1"])
    sets = [
        ("openmoji", openmoji, args.count, 21, PLAIN_SCENES, held_out),
        ("photo", held, args.count, 22, PLAIN_SCENES, held_out),
        ("edit", {n: drawn[n] for n in SWAPS}, 120, 23, EDIT_SCENES, held_out),
        ("large", {n: drawn[n] for n in SWAPS}, 100, 27, LARGE_SCENES, held_out),
    ]
    if args.photos:
        new_photo = skipped_objects(args.photos, args.skip, args.same)
        sets.append(("new-style", new_style, args.count, 25, PLAIN_SCENES, trained))
        sets.append(("new-photo", new_photo, args.count, 26, PLAIN_SCENES, trained))
    for name, sprites, count, seed, options, backgrounds in sets:
        out = args.output / name
        write_drawn_set(
            out / "images", out / "instances.json", sprites, count=count, seed=seed,
            backgrounds=backgrounds, options=options,
        )  # fmt: skip
    for name in ("edit", "large"):
        (args.output / name / "swaps.json").write_text(json.dumps(SWAPS, indent=1) + "\n")


if __name__ == "__main__":
    main()
