"""Time and memory of the dense CRF against the number of pixels, and against pydensecrf.

    python eval/bench_crf.py --sizes 512x512 1024x1024 2048x2048 --output crf.json

Per size one row for each setting: the grid at 0.45 standard deviations, which is right to half a
percent; at 0.9; the same with a stride of 2; pixels pooled to 1,024 places, which `RefineOptions`
takes, and to 4,096; and pydensecrf, if it is installed (`pip install pydensecrf2`), whose building
is part of its inference. Agreement is the share of pixels with the same label as the first row's.

Each size runs in a process of its own, on a drawn image: coloured discs on a gradient, with
texture. Seconds are wall time and, fairer where other programs share the machine, CPU time; memory
is the process's peak above what it held with the libraries loaded. `textseg` must be importable.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def drawn_image(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A scene (H, W, 3) uint8 and the mask of its largest disc (H, W) bool."""
    import cv2

    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    side = max(height, width)
    ends = rng.uniform(40, 215, (2, 3)).astype(np.float32)
    image = ends[0] + (ends[1] - ends[0]) * (rows / height)[..., None]
    mask = np.zeros((height, width), bool)
    for radius in (0.06, 0.09, 0.13, 0.2):
        centre = rng.uniform(0.2, 0.8, 2) * (height, width)
        mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (radius * side) ** 2
        image[mask] = rng.uniform(20, 235, 3)
    for sigma, strength in ((side / 60, 120.0), (side / 400, 16.0)):
        texture = rng.normal(size=(height, width, 3)).astype(np.float32)
        texture = cv2.GaussianBlur(texture, (0, 0), sigma)
        image += strength * 0.2 * texture / texture.std()
    return np.clip(image, 0, 255).astype(np.uint8), mask


SETTINGS: dict[str, dict[str, Any]] = {
    "spacing 0.45": {"spacing": 0.45},
    "spacing 0.9": {"spacing": 0.9},
    "spacing 0.9, stride 2": {"spacing": 0.9, "stride": 2},
    "1024 points": {"points": 1024},
    "4096 points": {"points": 4096},
    "pydensecrf": {},
}


class Permutohedral:
    """pydensecrf's dense CRF, behind the calls of `DenseCRF`."""

    def __init__(self, image: np.ndarray, *, alpha: float, gamma: float) -> None:
        self.image, self.alpha, self.gamma = image, alpha, gamma

    def marginals(self, unary: np.ndarray, iterations: int) -> np.ndarray:
        from pydensecrf.densecrf import DenseCRF2D  # pyright: ignore[reportMissingImports]

        labels, height, width = unary.shape
        crf = DenseCRF2D(width, height, labels)
        crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(labels, -1), np.float32))
        crf.addPairwiseGaussian(sxy=self.gamma, compat=3)
        crf.addPairwiseBilateral(sxy=self.alpha, srgb=13, rgbim=self.image, compat=10)
        return np.array(crf.inference(iterations)).reshape(unary.shape)


def measure(
    height: int, width: int, labels: int, iterations: int, repeats: int, setting: str, folder: str
) -> dict[str, Any]:
    """One row of the table, measured in this process; its labels go to and come from `folder`."""
    import cv2
    import scipy.sparse  # noqa: F401  (loaded here, so that its memory is not the CRF's)

    from textseg.refine.crf import DenseCRF

    image, mask = drawn_image(height, width)
    score = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(height, width) / 40)
    p = np.clip(score, 0.05, 0.95)
    probability = np.stack([1 - p] + [p / (labels - 1)] * (labels - 1))
    scale = max(height, width) / 500
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def timed(work: Any) -> tuple[Any, float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        return work(), time.perf_counter() - wall, time.process_time() - cpu

    def build() -> Any:
        if setting == "pydensecrf":
            return Permutohedral(image, alpha=80 * scale, gamma=3 * scale)
        return DenseCRF(image, alpha=80 * scale, gamma=3 * scale, exact_pixels=0,
                        **SETTINGS[setting])  # fmt: skip

    rows = []
    for _ in range(repeats):
        crf, built, built_cpu = timed(build)
        marginals, infer, infer_cpu = timed(
            lambda crf=crf: crf.marginals(-np.log(probability), iterations)
        )
        rows.append((built, built_cpu, infer, infer_cpu))
    built, built_cpu, infer, infer_cpu = np.min(rows, axis=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = marginals.argmax(axis=0).astype(np.uint8)
    first = Path(folder) / f"{height}x{width}.npy"
    if not first.exists():
        np.save(first, found)
    inside = found > 0
    return {
        "height": height, "width": width, "pixels": height * width, "labels": labels,
        "iterations": iterations, "setting": setting,
        "build_s": built, "build_cpu_s": built_cpu, "infer_s": infer, "infer_cpu_s": infer_cpu,
        "peak_mib": (peak - before) / 1024,
        "agreement": float((np.load(first) == found).mean()),
        "iou_before": float((mask & (score > 0.5)).sum() / (mask | (score > 0.5)).sum()),
        "iou_after": float((mask & inside).sum() / (mask | inside).sum()),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| size | setting | build, CPU s | inference, CPU s | peak MiB | agreement |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['height']} x {r['width']} | {r['setting']} | {r['build_cpu_s']:.2f} "
        f"| {r['infer_cpu_s']:.2f} | {r['peak_mib']:.0f} | {r['agreement']:.2%} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["512x512", "1024x1024", "2048x2048"],
                        help="HEIGHTxWIDTH, one or more")  # fmt: skip
    parser.add_argument("--labels", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--here", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        height, width = map(int, args.sizes[0].split("x"))
        row = measure(height, width, args.labels, args.iterations, args.repeats,
                      args.settings[0], args.here)  # fmt: skip
        sys.stdout.write(json.dumps(row))
        return
    settings = [name for name in args.settings
                if name != "pydensecrf" or importlib.util.find_spec("pydensecrf")]  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            for setting in settings:
                command = [sys.executable, __file__, "--here", folder, "--sizes", size, "--labels",
                           str(args.labels), "--iterations", str(args.iterations), "--repeats",
                           str(args.repeats), "--settings", setting]  # fmt: skip
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
                rows.append(json.loads(done.stdout))
    if args.output:
        report = {"machine": platform.processor() or platform.machine(), "rows": rows}
        args.output.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
