"""Tells how well a latent-UNet model names what it shows, and where its contrasts point.

    python eval/bench_naming.py --images data/drawn/val \\
        --annotations data/drawn/annotations/instances_val.json

For every annotated noun the model knows: its rank among all nouns by the cross-attention of the
cells inside its mask (the best layer's), and whether the strongest cell of its contrast lies in the
mask (the pointing game of Zhang et al. 2016, arXiv 1608.00507).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import textseg
from textseg.contrast import draw_noise
from textseg.image import image_identity, load_image, resize_image
from textseg.prompts import with_article
from textseg.training.coco import decode_segmentation
from textseg.training.losses import CrossAttentionQueries

MIN_CELLS = 20


class Names:
    """Ranks of nouns by cross-attention, one layer at a time."""

    def __init__(self, model: Any, nouns: list[str]) -> None:
        self.model, self.nouns = model, nouns
        self.recorded = CrossAttentionQueries(model.unet)
        prompts = [f"without {with_article(noun)}" for noun in nouns]
        ids = model.tokenizer(prompts, padding="max_length", truncation=True,
                              max_length=model.max_tokens, return_tensors="pt").input_ids  # fmt: skip
        with torch.inference_mode():
            hidden = model.text_encoder(ids).last_hidden_state
        end = (ids == model.tokenizer.eos_token_id).int().argmax(1)
        self.keys = hidden[torch.arange(len(ids)), end - 1]
        self.start = hidden[0, 0]

    def ranks(self, mask: np.ndarray, noun: str) -> dict[str, int]:
        """Rank of a noun (0 is first) over the cells of the last pass inside a mask, by layer.

        Args:
            mask: (h, w) float32 share of each latent cell.
        """
        found = {}
        for name, query in self.recorded.queries.items():
            cells = query.shape[1]
            if cells < MIN_CELLS:
                continue
            h, w = mask.shape
            while h * w > cells:
                h, w = (h + 1) // 2, (w + 1) // 2
            share = torch.from_numpy(cv2.resize(mask, (w, h), interpolation=cv2.INTER_AREA))
            layer = self.recorded.layers[name]
            keys = layer.to_k(torch.cat([self.start[None], self.keys]))
            chance = (query[0] @ keys.T * layer.scale).log_softmax(1)[:, 1:]
            total = (share.reshape(-1, 1) * chance).sum(0)
            found[name] = int((total > total[self.nouns.index(noun)]).sum())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--limit", type=int, help="the first images by id")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model: Any = textseg.load(args.model)
    nouns: list[str] = list(model.calibration["nouns"])
    names, segmenter = Names(model, nouns), textseg.Segmenter(model)
    data = json.loads(args.annotations.read_text())
    labels = {c["id"]: c["name"] for c in data["categories"]}
    options = model.contrast_defaults
    t = model.timestep(options.strength[0])
    ranks: dict[str, list[int]] = {}
    pointed: list[bool] = []
    for record in sorted(data["images"], key=lambda r: r["id"])[: args.limit]:
        image = load_image(args.images / record["file_name"])
        masks: dict[str, np.ndarray] = {}
        for a in data["annotations"]:
            noun = labels[a["category_id"]]
            if a["image_id"] == record["id"] and noun in nouns and not a.get("iscrowd"):
                part = decode_segmentation(a, *image.shape[:2])
                masks[noun] = masks[noun] | part if noun in masks else part
        if not masks:
            continue
        latents = model.encode(resize_image(image, model.fit_size(*image.shape[:2])))
        noise = draw_noise(latents.shape, 0, image_identity(image), t, 0)
        noisy = model.add_noise(latents, noise[None], t)
        names.recorded.clear()
        with torch.inference_mode():
            model.predict(noisy, t, model.embed([""])[0])
        kept = dict(names.recorded.queries)
        segmenter.set_image(image)
        for noun, mask in masks.items():
            cells = cv2.resize(
                mask.astype(np.float32), (latents.shape[2], latents.shape[1]),
                interpolation=cv2.INTER_AREA,
            )  # fmt: skip
            names.recorded.queries = kept
            for layer, rank in names.ranks(cells, noun).items():
                ranks.setdefault(layer, []).append(rank)
            contrast = segmenter.query(noun, min_presence=0.0, crf=False).contrast
            assert contrast is not None
            pointed.append(bool(cells.flat[int(contrast.argmax())] > 0.3))
    best = max(ranks, key=lambda layer: float(np.mean(np.array(ranks[layer]) < 5)))
    first, five = (float(np.mean(np.array(ranks[best]) < n)) for n in (1, 5))
    row = {"objects": len(pointed), "layer": best, "first": first, "first five": five,
           "pointing": float(np.mean(pointed))}  # fmt: skip
    if args.json:
        print(json.dumps(row))
    else:
        print(f"{len(pointed)} objects: named first {first:.1%}, among five {five:.1%} "
              f"({best}); contrast points at them {row['pointing']:.1%}")  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    main()
