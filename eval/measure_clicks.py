"""What clicks are worth: IoU after 0 to 3 of them, beside GrabCut with the same rule of clicking.

    python eval/measure_clicks.py --images val2017 --annotations instances_val2017.json \\
        -o out/clicks

Every class of a photograph without crowd regions, of at least `--least` of its pixels, is asked for
by its name. A click goes where people are taken to click: on the middle of the largest connected
error, the place farthest from its border (Xu et al. 2016, "Deep interactive object selection").
Each method is clicked at its own errors; GrabCut (Rother et al. 2004, OpenCV) knows no text, so
that its first mask is empty. Writes `figures.json` with bootstrap intervals over photographs, and
prints the table. The same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from textseg import Segmenter
from textseg.clicks import Point, correct_with
from textseg.faults import Guard
from textseg.formats import write_json
from textseg.image import load_image
from textseg.records import RecordFile, check_same_run
from textseg.refine import Refiner
from textseg_eval.aggregate import Bootstrap
from textseg_eval.datasets import Example, load_coco

CLICKS = 3
GRABCUT_SIDE = 320
"""Longer side that GrabCut works at: at full size it takes several times as long."""
Mask = np.ndarray
Clicked = Callable[[Sequence[Point]], Mask]
"""From points to a mask, (H, W) bool."""


def next_click(mask: Mask, truth: Mask) -> Point | None:
    """The middle of the largest connected error, and what is there; None where there is none."""
    wrong = np.pad(mask != truth, 1)
    missed = np.pad(truth, 1)
    best, size = None, 0
    for kind in (wrong & missed, wrong & ~missed):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(kind.astype(np.uint8))
        for label in range(1, count):
            if stats[label, cv2.CC_STAT_AREA] > size:
                size, best = stats[label, cv2.CC_STAT_AREA], labels == label
    if best is None:
        return None
    depth = cv2.distanceTransform(best.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(x) - 1, float(y) - 1, int(missed[y, x])


def grabcut(image: np.ndarray) -> Clicked:
    """GrabCut alone, on the image shrunk to `GRABCUT_SIDE`: discs of a hundredth of the longer side
    around clicks are certain, a tenth around those on the object is probably the object, and a
    thirtieth around the others and all the rest probably is not."""
    height, width = image.shape[:2]
    shrink = min(1.0, GRABCUT_SIDE / max(height, width))
    size = round(width * shrink), round(height * shrink)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    side = max(size)

    def clicked(points: Sequence[Point]) -> Mask:
        mask = np.full(size[::-1], cv2.GC_PR_BGD, np.uint8)
        objects, others = (
            [(int(x * shrink), int(y * shrink)) for x, y, label in points if label == which]
            for which in (1, 0)
        )
        if not objects:
            return np.zeros((height, width), bool)
        for places, radius, kind in (
            (objects, side / 10, cv2.GC_PR_FGD),
            (others, side / 30, cv2.GC_PR_BGD),
            (objects, side / 100, cv2.GC_FGD),
            (others, side / 100, cv2.GC_BGD),
        ):
            for place in places:
                cv2.circle(mask, place, max(1, round(radius)), kind, -1)
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(small, mask, (0, 0, 0, 0), *models, 5, cv2.GC_INIT_WITH_MASK)
        found = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8)
        return cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST) > 0

    return clicked


def ious(clicked: Clicked, truth: Mask) -> list[float]:
    """IoU after 0, 1, ... `CLICKS` clicks."""
    points: list[Point] = []
    found = []
    for _ in range(CLICKS + 1):
        mask = clicked(points)
        found.append(float((mask & truth).sum() / (mask | truth).sum()))
        click = next_click(mask, truth)
        points += [click] if click else []
    return found


def regions(example: Example, least: float) -> Iterator[tuple[int, Mask]]:
    """The classes that are asked for, with their regions."""
    for key in sorted(example.truth.keys()[0]):
        region, uncounted = example.truth.region(key)
        if uncounted is None and region.mean() >= least:
            yield key, region


def measure(example: Example, names: dict[int, str], segmenter: Segmenter, least: float) -> Any:
    """A row for each class: its name and the IoUs by method."""
    rows = []
    truths = dict(regions(example, least))
    if not truths:
        return rows
    image = load_image(example.path, upright=False)
    segmenter.set_image(image)
    refiner = Refiner(image, segmenter.refine)
    for key, truth in truths.items():
        found = segmenter.measure(f"the {names[key]}")
        methods: dict[str, Clicked] = {
            "text": lambda points, found=found: correct_with(refiner, found, points).mask,
            "grabcut": grabcut(image),
        }
        rows.append({"class": names[key]} | {k: ious(way, truth) for k, way in methods.items()})
    return rows


def figures(records: Sequence[dict[str, Any]], bootstrap: Bootstrap) -> dict[str, Any]:
    """Mean IoU by method and number of clicks, and the difference, resampled over photographs."""
    records = [record for record in records if record["rows"]]
    rng = np.random.default_rng(bootstrap.seed)
    drawn = rng.multinomial(
        len(records), np.full(len(records), 1 / len(records)), bootstrap.replicates
    )
    weights = np.concatenate([np.ones((1, len(records))), drawn])
    counts = weights @ [len(record["rows"]) for record in records]
    text, alone = (
        weights @ [np.sum([row[name] for row in one["rows"]], axis=0) for one in records]
        / counts[:, None]
        for name in ("text", "grabcut")
    )  # fmt: skip
    return {"images": len(records), "regions": int(counts[0])} | {
        name: [bootstrap.interval(column, least) for column in means.T]
        for name, means, least in (
            ("text", text, 0.0), ("grabcut", alone, 0.0), ("difference", text - alone, -1.0)
        )
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="the pictures")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instances")
    parser.add_argument("--model", default="mini", help="who is asked (default: mini)")
    parser.add_argument("--least", type=float, default=0.01,
                        help="smallest share of the pixels of a class (default: 0.01)")  # fmt: skip
    parser.add_argument("--limit", type=int, help="at most so many photographs")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    dataset = load_coco(args.images, args.annotations).limited(args.limit, 0)
    run = {"data": dataset.fingerprint, "model": args.model, "least": args.least}
    args.output.mkdir(parents=True, exist_ok=True)
    settings = args.output / "run.json"
    if settings.exists():
        check_same_run(json.loads(settings.read_text()), run, str(args.output))
    write_json(settings, run)
    segmenter = Segmenter(args.model)
    with RecordFile(args.output / "per_image.jsonl") as done:
        done.forget_failed()
        for example in tqdm(dataset.examples, unit="image"):
            if example.image_id in done:
                continue
            record: dict[str, Any] = {"image_id": example.image_id, "part": "all"}
            with Guard(example.file_name) as guard:
                guard.at("measure")
                rows = measure(example, dict(dataset.categories), segmenter, args.least)
                done.append(record | {"rows": rows})
                continue
            tqdm.write(f"{example.file_name}: {guard.fault.error}")
            done.append(record | guard.fault.record())
        records = [record for record in done.records() if "error" not in record]
    found = figures(records, Bootstrap())
    write_json(args.output / "figures.json", run | found)
    print(f"mean IoU of {found['regions']} classes on {found['images']} photographs")
    print(f"{'':12}" + "".join(f"{n} clicks".rjust(24) for n in range(CLICKS + 1)))
    for name in ("text", "grabcut", "difference"):
        cells = (f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in found[name])
        print(f"{name:12}" + "".join(cell.rjust(24) for cell in cells))


if __name__ == "__main__":
    main()
