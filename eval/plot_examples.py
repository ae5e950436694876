"""Draws query, contrast, mask and truth of every third image of a COCO-format set.

    python eval/plot_examples.py --images val2017 --annotations instances_val2017.json \\
        -o examples.jpg

Nothing is chosen by hand: images are taken in the order of their ids, and of each its category of
the largest area that the model knows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

import textseg
from textseg.coco import noun_masks, read_coco
from textseg.contact_sheet import heat
from textseg.drawing import PALETTE, draw_labels, tint
from textseg.image import load_image, resize_image
from textseg.saving import encode_picture, write_atomic
from textseg.training.calibrate import iou

PANEL = 150
COLUMNS = 3
GAP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    coco = read_coco(args.annotations)
    names = coco.categories
    model = textseg.load(args.model)
    known = model.calibration.get("nouns")
    segmenter = textseg.Segmenter(model)
    rows, scores = [], []
    for record in coco.by_id()[:: args.every]:
        size = record.size
        asked = [a for a in record.annotations if known is None or names[a.category_id] in known]
        masks = noun_masks(asked, names, size)
        if not masks:
            continue
        query = max(masks, key=lambda name: int(masks[name].sum()))
        image = load_image(args.images / record.file_name)
        found = segmenter.set_image(image).query(query)
        scores.append(iou(found.mask, masks[query]))
        pictures = (
            (query, image),
            ("contrast", heat(found.contrast) if found.contrast is not None else image),
            (f"mask {scores[-1]:.2f}", tint(image, found.mask, PALETTE[0], 0.55)),
            ("truth", tint(image, masks[query], PALETTE[2], 0.55)),
        )
        scale = PANEL / max(size)
        small = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        panels = []
        for label, picture in pictures:
            square = np.full((PANEL, PANEL, 3), 255, np.uint8)
            square[: small[0], : small[1]] = resize_image(picture, small)
            panels.append(draw_labels(square, [(label, None)]))
        rows.append(np.concatenate(panels, 1))
        if len(rows) == args.count:
            break
    columns = min(COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    height, width = rows[0].shape[:2]
    sheet = np.full((lines * (height + GAP), columns * (width + GAP), 3), 255, np.uint8)
    for i, row in enumerate(rows):
        y, x = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[y : y + height, x : x + width] = row
    note = {"model": args.model, "annotations": args.annotations.name, "iou": scores}
    write_atomic(args.output, encode_picture(sheet, args.output.suffix, note))
    print(f"{len(rows)} images, mean IoU {np.mean(scores):.3f}: {args.output}")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
