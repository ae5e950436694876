"""Time and memory of counting masks that are given, without any model.

    python eval/bench_counting.py --output counting.json

Makes a synthetic set the size of COCO val2017 (5,000 images of 640 x 480, 36,000 instances as
polygons, 80 categories) and predictions in COCO's results format, and runs what
`textseg eval coco --results` runs. Seconds are wall time and, where other programs share the
machine, the fairer CPU time; memory is the process's peak.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pycocotools import mask as rle

from textseg.rle import decode_rle
from textseg_eval.aggregate import Bootstrap
from textseg_eval.datasets import load_coco, with_given_masks
from textseg_eval.methods import MethodSpec
from textseg_eval.protocols import LabelMap, Present, Protocol, encode
from textseg_eval.run import Run, Split, Variant, evaluate
from textseg_eval.workers import peak_memory

HEIGHT, WIDTH, CATEGORIES = 480, 640, 80


def blob(rng: np.random.Generator) -> list[float]:
    """A wobbly polygon of 12 to 40 corners, small ones more often than large ones."""
    count = int(rng.integers(12, 41))
    size = 10 * 22 ** rng.random()
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = size * (1 + 0.25 * rng.standard_normal(count))
    x = np.clip(rng.uniform(0, WIDTH) + radius * np.cos(angles), 0, WIDTH)
    y = np.clip(rng.uniform(0, HEIGHT) + radius * np.sin(angles), 0, HEIGHT)
    return np.stack([x, y], axis=1).round(2).ravel().tolist()


def write_set(folder: Path, images: int, instances: int) -> tuple[Path, Path]:
    """Annotations, and predictions that are the same shapes a few pixels off."""
    rng = np.random.default_rng(0)
    marks, found = [], []
    for number in range(instances):
        image, shape = number % images + 1, blob(rng)
        # Three categories an image, as in COCO.
        category = int((image * 7 + rng.integers(0, 3) * 31) % CATEGORIES) + 1
        marks.append({"id": number + 1, "image_id": image, "category_id": category, "iscrowd": 0,
                      "area": 1.0, "segmentation": [shape]})  # fmt: skip
        shift = np.array(shape) + rng.uniform(-6, 6)
        moved = decode_rle(rle.frPyObjects([shift.tolist()], HEIGHT, WIDTH)[0])
        if moved.any():
            found.append({"image_id": image, "category_id": category, "score": 1.0,
                          "segmentation": encode(moved)})  # fmt: skip
    records = [{"id": n + 1, "file_name": f"{n + 1}.jpg", "height": HEIGHT, "width": WIDTH}
               for n in range(images)]  # fmt: skip
    names = [{"id": n + 1, "name": f"category {n + 1}"} for n in range(CATEGORIES)]
    annotations, results = folder / "instances.json", folder / "results.json"
    data = {"images": records, "annotations": marks, "categories": names}
    annotations.write_text(json.dumps(data))
    results.write_text(json.dumps(found))
    return annotations, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--instances", type=int, default=36000)
    parser.add_argument("--protocol", choices=("present", "object"), default="present")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations, results = write_set(folder, args.images, args.instances)
        start = time.perf_counter(), time.process_time()
        dataset = with_given_masks(load_coco(folder, annotations), results)
        loaded = time.perf_counter(), time.process_time(), peak_memory()
        texts = {key: (text,) for key, text in dataset.categories.items()}
        protocol: Protocol = Present(texts) if args.protocol == "present" else LabelMap(texts)
        variant = Variant("masks", MethodSpec("masks"), folder / "run")
        run = Run(dataset, protocol, [variant], Split("own"), Bootstrap(), workers=args.workers)
        first: list[int] = []
        done = evaluate(run, lambda p: first.append(peak_memory()) if p.done == 200 else None)
        end = time.perf_counter(), time.process_time()
        size = (folder / "run" / "per_image.jsonl").stat().st_size
    figures = {
        "protocol": args.protocol,
        "images": args.images,
        "instances": args.instances,
        "workers": args.workers,
        "queries": done["masks"]["counts"]["queries_present"]
        + done["masks"]["counts"]["queries_absent"],
        "load_seconds": round(loaded[0] - start[0], 2),
        "run_seconds": round(end[0] - loaded[0], 2),
        "run_cpu_seconds": round(end[1] - loaded[1], 2),
        "images_per_second": round(args.images / (end[0] - loaded[0]), 1),
        "images_per_cpu_second": round(args.images / (end[1] - loaded[1]), 1),
        "peak_mib_loaded": round(loaded[2] / 2**20),
        "peak_mib_after_200_images": round(first[0] / 2**20) if first else None,
        "peak_mib": round(peak_memory() / 2**20),
        "records_mib": round(size / 2**20, 1),
        "miou": done["masks"]["figures"]["own"]["miou"],
    }
    text = json.dumps(figures, indent=1)
    sys.stdout.write(text + "\n")
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
