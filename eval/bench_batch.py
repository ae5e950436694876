"""`textseg batch` measured: rate against a plain loop, memory over many images, storage.

    python eval/bench_batch.py rate --images data/drawn/val --limit 40
    python eval/bench_batch.py overlap --images data/drawn/val --limit 40 --device-seconds 0.2
    python eval/bench_batch.py memory --count 2000
    python eval/bench_batch.py storage --images data/drawn/val --annotations ANNOTATIONS.json

Each prints JSON. `rate` runs `mini` in a loop over `segment()` and in `run_local` with 0 and 1
workers. `overlap` replaces the model's noise prediction by a wait of the given length, as of a
GPU that works while the processor is free: what the runner hides behind it is then seen on a
machine without one; its masks mean nothing. `memory` draws small images and follows the resident
size of this process and its workers; `--stand-in` leaves out the networks. `storage` compares the
masks of an annotation file as RLE and as PNG. Seconds are wall time, with CPU time beside them
where other programs share the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

QUERIES = ["the dog", "the ball"]


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    mine, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF,
                                                        resource.RUSAGE_CHILDREN))  # fmt: skip
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Images a second by wall and by CPU time."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    count = work()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    return {"images": count, "seconds": round(wall, 2), "cpu_seconds": round(cpu, 2),
            "images_per_second": round(count / wall, 3),
            "images_per_cpu_second": round(count / cpu, 3)}  # fmt: skip


def compare(args: argparse.Namespace, job: dict[str, Any]) -> dict[str, Any]:
    """A loop over `segment()` that saves masks, and the runner without and with a worker."""
    import textseg
    from textseg.batch.local import run_local
    from textseg.batch.sources import make_plan
    from textseg.batch.stages import Job
    from textseg.options import NO_REFINEMENT, RefineOptions

    items = make_plan([args.images], QUERIES).items[: args.limit]
    model = textseg.load("mini", device="cpu")
    options: dict[str, Any] = {"samples": args.samples}
    if not args.refine:
        options |= {"refine": RefineOptions.off()}
    textseg.segment(items[0].source, QUERIES, model=model, **options)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:

        def loop() -> int:
            for item in items:
                results = textseg.segment(item.source, QUERIES, model=model, **options)
                for result, slug in zip(results, item.slugs, strict=True):
                    result.save(Path(folder, f"{item.stem}.{slug}.mask.png"))
            return len(items)

        rows["loop over segment()"] = timed(loop)
        for workers in args.workers:
            what = Job(output=f"{folder}/{workers}", device="cpu",
                       contrast={"samples": args.samples},
                       refine={} if args.refine else NO_REFINEMENT, **job)  # fmt: skip
            rows[f"batch, {workers} workers"] = timed(
                lambda what=what, workers=workers: sum(1 for _ in run_local(what, items, workers))
            )
    return rows


def stand_in(seconds: float, *, encoder: bool = False) -> None:
    """Put a wait in place of the UNet, and a mean over cells in place of the encoder."""
    import torch

    from textseg.backbone.latent_unet import LatentUNet

    def predict(self: Any, noisy: Any, t: int, embedding: Any, **told: Any) -> Any:
        time.sleep(seconds)
        return noisy + 0.01 * embedding.mean()

    def encode(self: Any, image: np.ndarray) -> Any:
        pixels = torch.from_numpy(image).float().permute(2, 0, 1) / 255
        pooled = torch.nn.functional.avg_pool2d(pixels.mean(0, keepdim=True), self.factor)
        return pooled.expand(self.vae.config.latent_channels, -1, -1)

    LatentUNet.predict = predict
    if encoder:
        LatentUNet.encode = encode


def overlap(args: argparse.Namespace) -> dict[str, Any]:
    """As `compare`, with a wait in place of each noise prediction."""
    stand_in(args.device_seconds)
    return {"device_seconds_per_call": args.device_seconds} | compare(args, {})


def resident(pid: int) -> int:
    """Bytes of a process's resident set and of its children's."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages * resource.getpagesize() + sum(resident(int(child)) for child in below)


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Resident size while many small images go through, with one worker."""
    from PIL import Image

    if args.stand_in:
        stand_in(0.0, encoder=True)
    from textseg.batch.local import run_local
    from textseg.batch.sources import make_plan
    from textseg.batch.stages import Job
    from textseg.options import NO_REFINEMENT

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.count):
            blocks = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
            Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(f"{folder}/{number:05d}.png")
        items = make_plan([folder], QUERIES[:1]).items
        job = Job(output=f"{folder}/out", device="cpu", contrast={"samples": 1, "strength": (0.5,)},
                  refine=NO_REFINEMENT)  # fmt: skip
        start, seen = time.perf_counter(), {}
        for number, _ in enumerate(run_local(job, items, args.workers[0]), 1):
            if number in (1, 50, 100, 200) or number % 250 == 0:
                seen[number] = round(resident(os.getpid()) / 2**20, 1)
                sys.stderr.write(f"{number} images: {seen[number]} MiB\n")
        return {"count": len(items), "workers": args.workers[0], "stand_in": args.stand_in,
                "resident_mib": seen,
                "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip


def masks_of(path: Path) -> Iterator[np.ndarray]:
    """The masks of a COCO file, one per image and category."""
    from textseg.coco import read_json, to_coco, union_mask
    from textseg.rle import decode_rle

    data, _ = read_json(path, "annotations")
    if isinstance(data, list):
        for mark in data:
            yield decode_rle(mark["segmentation"])
        return
    for image in to_coco(data, str(path)).images:
        for annotation in image.annotations:
            yield union_mask([annotation], image.size)


def storage(args: argparse.Namespace) -> dict[str, Any]:
    """Mean bytes of a mask in each form, at the stored size and scaled to 640 x 480."""
    import zlib

    import cv2

    from textseg.masks import Segmentation
    from textseg.rle import encode_rle
    from textseg.saving import encode_picture

    found: dict[str, list[int]] = {}
    pixels: list[int] = []
    for mask in masks_of(args.annotations):
        scaled = cv2.resize(mask.astype(np.uint8), (640, 480), interpolation=cv2.INTER_LINEAR)
        pixels.append(mask.size)
        for name, each in (("as stored", mask), ("at 640 x 480", scaled > 0)):
            rle = encode_rle(each)["counts"].encode()
            record = Segmentation(each, each.astype(np.float32), 1.0, "the dog").describe()
            for form, data in (("rle", rle), ("rle, deflated", zlib.compress(rle)),
                               ("png", encode_picture(each, ".png", {})),
                               ("png as saved", encode_picture(each, ".png", record))):  # fmt: skip
                found.setdefault(f"{form}, {name}", []).append(len(data))
        if len(pixels) >= args.limit:
            break
    means = {name: round(float(np.mean(sizes))) for name, sizes in found.items()}
    return {"masks": len(pixels), "mean_pixels": round(float(np.mean(pixels))), "mean_bytes": means}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["rate", "overlap", "memory", "storage"])
    parser.add_argument("--images", default="data/drawn/val")
    parser.add_argument("--annotations", type=Path,
                        default=Path("data/drawn/annotations/instances_val.json"))  # fmt: skip
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--stand-in", action="store_true", help="memory: no networks are run")
    parser.add_argument("--device-seconds", type=float, default=0.2)
    parser.add_argument("--refine", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    load = [round(value, 1) for value in os.getloadavg()]
    work = {"rate": lambda a: compare(a, {}), "overlap": overlap, "memory": memory,
            "storage": storage}[args.what]  # fmt: skip
    result = work(args)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    after = [round(value, 1) for value in os.getloadavg()]
    shown = {"what": args.what, "cores": cores, "load_before": load, "load_after": after, **result}
    sys.stdout.write(json.dumps(shown, indent=1) + "\n")


if __name__ == "__main__":
    main()
