"""Lists the photographs that may show a held-out cutout, for `textseg train --skip`.

    python eval/find_likest.py --cutouts photo-cutouts --photos captioned -o skip.txt

Of every held-out cutout (each fifth of a noun) the likest photographs of the noun by masked
template matching at several sizes, `NOUN/NAME` a line.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from textseg.training.mini.sprites import split_cutouts

SHORT_SIDE = 120
TEMPLATE_SIDES = (70, 90, 110, 130, 150)


def likeness(cutout: np.ndarray, photo: np.ndarray) -> float:
    """Largest normalised correlation of an RGBA cutout with any place of a BGR photograph."""
    best = -1.0
    for side in TEMPLATE_SIDES:
        scale = side / max(cutout.shape[:2])
        part = cv2.resize(cutout, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if part.shape[0] > photo.shape[0] or part.shape[1] > photo.shape[1]:
            continue
        mask = np.repeat(np.float32(part[..., 3:] > 128), 3, 2)
        bgr = part[..., 2::-1].astype(np.float32)
        found = cv2.matchTemplate(photo.astype(np.float32), bgr, cv2.TM_CCOEFF_NORMED, mask=mask)
        found = found[np.isfinite(found)]
        best = max(best, float(found.max())) if found.size else best
    return best


def likest(folder: Path, photos: Path, count: int) -> set[str]:
    """Names of the photographs of one noun likest to one of its held-out cutouts."""
    files = sorted(folder.glob("*.png"))
    rgba = [np.asarray(Image.open(f).convert("RGBA")) for f in files]
    held = split_cutouts({folder.name: rgba})[1].get(folder.name, [])
    found: set[str] = set()
    read: list[tuple[str, np.ndarray]] = []
    for file in sorted((photos / folder.name).glob("*.jp*g")) if held else ():
        photo = cv2.imread(str(file))
        if photo is not None:
            scale = SHORT_SIDE / min(photo.shape[:2])
            size = {"fx": scale, "fy": scale, "interpolation": cv2.INTER_AREA}
            read.append((f"{folder.name}/{file.name}", cv2.resize(photo, None, **size)))
    for cutout in held:
        ranked = sorted(read, key=lambda item: -likeness(cutout, item[1]))
        found.update(name for name, _ in ranked[:count])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cutouts", type=Path, required=True, help="FOLDER/NOUN/*.png")
    parser.add_argument("--photos", type=Path, required=True, help="FOLDER/NOUN/*.jpg")
    parser.add_argument("--count", type=int, default=3, help="for each cutout (default: 3)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    folders = sorted(f for f in args.cutouts.iterdir() if f.is_dir())
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        names = pool.map(partial(likest, photos=args.photos, count=args.count), folders)
        found = sorted(set().union(*names))
    args.output.write_text("\n".join(found) + "\n")
    print(f"{len(found)} photographs")


if __name__ == "__main__":
    main()
