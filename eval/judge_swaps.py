"""Whether swaps took, by an outside judge: it names what lies in the annotated region.

    textseg eval edit --images IMAGES --annotations FILE --swaps SWAPS --save-images -o RUN
    python eval/judge_swaps.py RUN judge.npz --images IMAGES --annotations FILE

An edit took where the judge of `judge_painter.py` takes the noun of the prompt for likelier than
the noun that was there, in the square around the region. The row `untouched` has the pictures as
they were: what the judge gets wrong by itself.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judge_painter import features_of, load_eyes, load_judge, logits_of

from textseg.english import object_noun
from textseg.image import load_image
from textseg.training.painter.facts import NOUNS
from textseg_eval.datasets import load_coco
from textseg_eval.edit_plan import Setting
from textseg_eval.edit_worker import image_path
from textseg_eval.results import RECORDS

UNTOUCHED = Setting("untouched")
MARGIN = 0.08
"""Of the longer side of the region's box, added on every side."""


def square_around(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The part of (H, W, 3) that is the square around a region (H, W), as far as it lies within;
    the rest of the square is its mean colour."""
    ys, xs = np.nonzero(region)
    top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    side = round((1 + 2 * MARGIN) * max(bottom - top, right - left))
    y, x = ((a + b - side) // 2 for a, b in ((top, bottom), (left, right)))
    inside = image[max(y, 0) : y + side, max(x, 0) : x + side]
    square = np.empty((side, side, 3), np.uint8)
    square[:] = inside.mean((0, 1)).round()
    square[max(-y, 0) :, max(-x, 0) :][: len(inside), : inside.shape[1]] = inside
    return square


def pictures(
    run: Path, images: Path, annotations: Path
) -> Iterator[tuple[Setting, np.ndarray, str, str, float | None]]:
    """Each setting's square, the nouns before and after, and the background's PSNR in dB."""
    dataset = load_coco(images, annotations)
    examples = {e.image_id: e for e in dataset.examples}
    for line in (run / RECORDS).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "error" in record:
            continue
        example = examples[record["image_id"]]
        keys, _ = example.truth.keys()
        before, after = record["category"], object_noun(record["prompt"], NOUNS)
        region, _ = example.truth.region(next(k for k in keys if dataset.categories[k] == before))
        yield UNTOUCHED, square_around(load_image(example.path), region), before, after, None
        for row in record["rows"]:
            setting = Setting(*(row[name] for name in Setting._fields))
            made = load_image(image_path(run, setting, example.image_id))
            yield setting, square_around(made, region), before, after, row["psnr"]


def judge_all(
    judge: dict[str, Any], features: torch.Tensor, before: Sequence[str], after: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each took, and whether the judge names the new noun first of all; (N,) bool."""
    logits = logits_of(judge, features)
    every = np.arange(len(logits))
    old, new = (logits[every, [NOUNS.index(n) for n in nouns]] for nouns in (before, after))
    return new > old, new == logits.max(1)


def shares(values: Any) -> dict[str, float]:
    """A mean over images with its 95 % interval (bootstrap)."""
    x = np.array(values, float)
    drawn = x[np.random.default_rng(0).integers(len(x), size=(2000, len(x)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"mean": float(x.mean()), "low": float(low), "high": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of `textseg eval edit --save-images`")
    parser.add_argument("judge", type=Path, metavar="FILE.npz", help="of judge_painter.py fit")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    judge = load_judge(args.judge)
    eyes = load_eyes()
    found: dict[Setting, list[tuple[np.ndarray, str, str, float | None]]] = defaultdict(list)
    for setting, *what in pictures(args.run, args.images, args.annotations):
        found[setting].append(tuple(what))  # pyright: ignore[reportArgumentType]
    rows = []
    for setting, listed in found.items():
        squares, before, after, psnr = zip(*listed, strict=True)
        took, first = judge_all(judge, features_of(eyes, squares), before, after)
        row = setting._asdict() | {"pictures": len(listed), "took": shares(took)}
        row |= {"named first": shares(first)}
        row |= {"psnr": None if psnr[0] is None else shares(psnr)}
        rows.append(row)
        name = " ".join(str(part) for part in setting if part is not None)
        share = row["took"]
        print(
            f"{name:34} took {share['mean']:.2f} ({share['low']:.2f} to {share['high']:.2f}), "
            f"named first {row['named first']['mean']:.2f}"
            + ("" if row["psnr"] is None else f", background {row['psnr']['mean']:.1f} dB"),
            flush=True,
        )
    if args.output:
        report = {"run": str(args.run), "judge": json.loads(str(judge["accuracy"])), "rows": rows}
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
