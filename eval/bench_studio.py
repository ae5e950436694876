"""How long the studio takes to answer: first mask, next query, threshold, final edges.

    python eval/bench_studio.py --repeat 5

Times each step on the server's side, to the encoded picture of the new overlay and without the
browser, for every sample of the package; medians, and the predictions of each step. Wall time is
that of a machine others may use as well; the CPU seconds tell runs apart there.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable

from PIL import Image

from textseg.segmenter import Segmenter
from textseg.studio import actions, pictures, views
from textseg.studio.session import Session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    model = Segmenter(args.model).model
    taken: dict[str, list[tuple[float, float, int]]] = {}
    # The first round warms caches and is left out.
    for round_number in range(args.repeat + 1):
        for sample in pictures.SAMPLES:
            for name, wall, cpu, rows in _one(Session(model), sample.name, sample.things):
                if round_number:
                    taken.setdefault(name, []).append((wall, cpu, rows))
    print("| step | predictions | ms | CPU ms |\n|---|---|---|---|")
    for name, runs in taken.items():
        wall, cpu, rows = (statistics.median(run[i] for run in runs) for i in range(3))
        print(f"| {name} | {rows:.0f} | {1000 * wall:.0f} | {1000 * cpu:.0f} |")
    print(f"{len(pictures.SAMPLES)} samples, {args.repeat} rounds, {args.model}", file=sys.stderr)


def _one(
    session: Session, name: str, things: tuple[str, ...]
) -> list[tuple[str, float, float, int]]:
    steps: list[tuple[str, float, float, int]] = []

    def timed(step: str, act: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        done = act()
        Image.fromarray(views.overlay(session.work)).save(io.BytesIO(), "PNG")
        rows = done.rows if isinstance(done, actions.Done) else 0
        steps.append((step, time.perf_counter() - wall, time.process_time() - cpu, rows))

    def first() -> actions.Done:
        actions.open_picture(session, pictures.open_sample(name))
        return actions.ask(session, things[0])

    timed("first mask after opening a picture", first)
    timed("its final edges (CRF)", lambda: actions.settle(session))
    timed("a new query on the same picture", lambda: actions.ask(session, things[1]))
    timed("threshold to new overlay", lambda: actions.retune(session, level=0.4))
    timed("two queries' final edges (CRF)", lambda: actions.settle(session))
    timed("a click to new overlay", lambda: actions.point(session, 20, 20, 0))
    timed("its final edges after a click", lambda: actions.settle(session))
    return steps


if __name__ == "__main__":
    main()
