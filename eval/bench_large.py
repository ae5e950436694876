"""Time, memory and masks of `segment` on twelve-megapixel pictures, beside another checkout.

Pictures of a COCO set are enlarged to 4032 x 3024 and given a grain; each is asked for the first
category annotated on it. Each checkout works in a process of its own.

    python eval/bench_large.py --beside ../older-checkout
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH = 3024, 4032


def pictures(annotations: Path, images: Path, count: int) -> list[tuple[Path, str]]:
    """Files and the category to ask each for."""
    from textseg.coco import read_coco

    coco = read_coco(annotations)
    files = [
        (images / image.file_name, coco.categories[image.annotations[0].category_id])
        for image in coco.by_id()
        if image.annotations
    ]
    return files[:count]


def enlarge(path: Path, seed: int, folder: Path) -> Path:
    """A file that holds a picture at 4032 x 3024 with normal noise of 4 grey levels."""
    import cv2

    from textseg.image import load_image

    large = cv2.resize(load_image(path), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(seed).normal(0, 4, large.shape)
    made = folder / f"{seed}.npy"
    np.save(made, np.clip(large + noise, 0, 255).astype(np.uint8))
    return made


def work(asked: list[tuple[str, str]], folder: Path) -> None:
    """In the child: segment each picture, twice, and leave masks and figures in the folder."""
    import textseg

    textseg.segment(np.zeros((64, 48, 3), np.uint8), "a dog")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for number, (path, query) in enumerate(asked):
        picture = np.load(path)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            found = textseg.segment(picture, query, min_presence=0.0)
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
        np.save(folder / f"{number}.npy", np.packbits(found.mask))
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    (folder / "figures.json").write_text(json.dumps({"seconds": seconds, "growth": growth}))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    drawn = ROOT / "data/drawn"
    parser.add_argument(
        "--annotations", type=Path, default=drawn / "annotations/instances_val.json"
    )
    parser.add_argument("--images", type=Path, default=drawn / "val")
    parser.add_argument("--count", type=int, default=20, help="pictures")
    parser.add_argument("--beside", type=Path, help="root of the other checkout")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        work(json.load(sys.stdin), args.child)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        files = pictures(args.annotations, args.images, args.count)
        asked = json.dumps(
            [
                (str(enlarge(file, number, Path(scratch))), name)
                for number, (file, name) in enumerate(files)
            ]
        )
        figures, folders = [], []
        for root in [ROOT, args.beside] if args.beside else [ROOT]:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            subprocess.run(
                [sys.executable, __file__, "--child", folder],
                input=asked,
                text=True,
                check=True,
                env={**os.environ, "PYTHONPATH": str(root)},
            )
            figures.append(json.loads((folder / "figures.json").read_text()))
            folders.append(folder)
            seconds, growth = np.median(figures[-1]["seconds"]), figures[-1]["growth"] / 2**10
            print(
                f"{root}: {seconds:.2f} s a picture (median of {len(files)}), memory grew by "
                f"{growth:.0f} MiB, the picture's {HEIGHT * WIDTH * 3 / 2**20:.0f} included"
            )
        if args.beside:
            ratios = np.divide(figures[1]["seconds"], figures[0]["seconds"])
            print(f"{np.median(ratios):.1f} times as fast (median; least {ratios.min():.1f})")
            pairs = [[np.load(f / f"{i}.npy") for f in folders] for i in range(len(files))]
            same = [
                np.bitwise_count(a & b).sum() / max(1, np.bitwise_count(a | b).sum())
                for a, b in pairs
            ]
            print(
                f"IoU of the masks: mean {np.mean(same):.3f}, median {np.median(same):.3f}, "
                f"least {min(same):.3f}"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
