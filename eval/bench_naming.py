"""Tells how well a model with a vocabulary of nouns names what it sees, and where it points.

    python eval/bench_naming.py --images data/drawn/val \\
        --annotations data/drawn/annotations/instances_val.json

For every annotated noun that the model knows: its rank among all nouns over the cells of its mask
(`Backbone.name_cells`), and whether the strongest cell of its contrast lies in its mask (the
pointing game of Zhang et al. 2016, arXiv 1608.00507). And how many of the nouns in the pictures'
captions, chosen among the annotated categories, are annotated there (precision), and of the
annotated ones are in the caption (recall).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

import textseg
from textseg.captioning import caption
from textseg.coco import noun_masks, read_coco
from textseg.image import image_identity, load_image, resize_image
from textseg.name_weights import names_of
from textseg.predictions import Predictions

INSIDE = 0.3
LEAST = 0.5
"""`caption`'s default `least_presence`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--limit", type=int, help="the first images by id")
    args = parser.parse_args()
    model = textseg.load(args.model)
    nouns: list[str] = list(model.nouns)
    segmenter = textseg.Segmenter(model)
    coco = read_coco(args.annotations)
    labels = coco.categories
    choice = [noun for noun in nouns if noun in labels.values()]
    t = model.timestep(model.contrast_defaults.strength[0])
    ranks: list[int] = []
    pointed: list[bool] = []
    right = said = there = 0
    for record in coco.by_id()[: args.limit]:
        image = load_image(args.images / record.file_name)
        asked = [a for a in record.annotations if labels[a.category_id] in nouns and not a.crowd]
        masks = noun_masks(asked, labels, record.size)
        found = caption(image, model=model, nouns=choice).nouns[:3]
        named = {noun for noun, share in found if share >= LEAST}
        truth = {labels[a.category_id] for a in record.annotations} & set(choice)
        right, said, there = right + len(named & truth), said + len(named), there + len(truth)
        latents = model.encode(resize_image(image, model.fit_size(*image.shape[:2])))
        predictions = Predictions(model, latents, image_identity(image))
        segmenter.set_image(image)
        for noun, mask in masks.items():
            cells = [names_of(predictions, n, t, 0) for n in nouns]
            chances = np.stack([c for c in cells if c is not None])
            share = _shrink(mask, chances.shape[1:])
            total = (chances * share).sum((1, 2))
            ranks.append(int((total > total[nouns.index(noun)]).sum()))
            contrast = segmenter.query(noun, min_presence=0.0, crf=False).contrast
            assert contrast is not None
            inside = _shrink(mask, contrast.shape)
            pointed.append(bool(inside.flat[int(contrast.argmax())] > INSIDE))
    first, five = (float(np.mean(np.array(ranks) < n)) for n in (1, 5))
    print(f"{len(ranks)} objects: named first {first:.1%}, among the first five {five:.1%}; "
          f"contrast points at {np.mean(pointed):.1%}")  # fmt: skip
    print(f"captions, among {len(choice)} nouns: {said} named, precision "
          f"{right / max(said, 1):.1%}, recall {right / max(there, 1):.1%}")  # fmt: skip


def _shrink(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Share of each of (h, w) cells that a mask covers."""
    return cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    main()
