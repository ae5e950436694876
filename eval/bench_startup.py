"""Seconds of `textseg` commands from the shell, of two checkouts side by side.

    git worktree add ../before REVISION
    python eval/bench_startup.py --before ../before --repeats 5

Each repetition runs every command once with either checkout, in turn, so that what else the machine
does falls on both; the fastest counts, by the clock and in processor time, and the median of the
repetitions' ratios. `import torch` alone is the least that any of them can take. `same` says
whether both wrote the same pixels.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parents[1]
PARK = str(HERE / "data" / "samples" / "park.jpg")
COMMANDS = {
    "import torch": ["-c", "import torch"],
    "segment": ["-m", "textseg", "segment", PARK, "-q", "the dog", "-o", "."],
    "edit": ["-m", "textseg", "edit", PARK, "-q", "the dog", "-p", "a cat", "-o", "out.png"],
    "generate": ["-m", "textseg", "generate", "a photo of a dog", "-o", "out.png"],
}


def run(checkout: Path, words: list[str]) -> tuple[tuple[float, float], list[np.ndarray]]:
    """Seconds by the clock and of processor time, and the pictures that were written."""
    paths = os.pathsep.join(map(str, (checkout, checkout / "eval")))
    with tempfile.TemporaryDirectory() as folder:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        pictures = [np.asarray(Image.open(path)) for path in sorted(Path(folder).iterdir())]
    return (wall, cpu), pictures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, metavar="DIR", help="other checkout")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=[*COMMANDS])
    args = parser.parse_args()
    print(
        "| command | clock, before / after | processor, before / after | same |\n|---|---|---|---|"
    )
    for name in args.commands:
        runs = [[run(place, COMMANDS[name]) for place in (args.before.resolve(), HERE)]
                for _ in range(args.repeats)]  # fmt: skip
        cells = []
        for kind in (0, 1):
            old, new = (min(pair[side][0][kind] for pair in runs) for side in (0, 1))
            ratio = statistics.median(pair[0][0][kind] / pair[1][0][kind] for pair in runs)
            cells.append(f"{old:.2f} / {new:.2f} s ({ratio:.1f})")
        same = all(
            len(old) == len(new) and all(map(np.array_equal, old, new))
            for (_, old), (_, new) in runs
        )
        print(f"| {name} | {cells[0]} | {cells[1]} | {'yes' if same else 'no'} |", flush=True)


if __name__ == "__main__":
    main()
