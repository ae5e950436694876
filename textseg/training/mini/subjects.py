"""Photographs of one main object, `FOLDER/NOUN/*.jpg`: the object's mask by GrabCut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from ...saving import encode_picture, write_atomic
from ..photo_scenes import Photo

SIDE = 160
MARGIN = 0.04
ITERATIONS = 3


def subject_mask(photo: np.ndarray) -> np.ndarray | None:
    """The mask of a photograph's main object, or None where none stands out.

    GrabCut, started from a frame of background and a centre of probable foreground; what it finds
    must cover a tenth to three quarters of the picture in one piece that keeps off most of its
    border.

    Args:
        photo: (H, W, 3) uint8 RGB.

    Returns:
        (H, W) bool.

    Source: Rother, Kolmogorov, Blake 2004, "GrabCut".
    """
    h, w = photo.shape[:2]
    frame = max(2, round(MARGIN * min(h, w)))
    y, x = np.mgrid[0:h, 0:w]
    centre = ((y / h - 0.5) / 0.33) ** 2 + ((x / w - 0.5) / 0.36) ** 2 < 1
    state = np.where(centre, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    state[:frame], state[-frame:], state[:, :frame], state[:, -frame:] = (cv2.GC_BGD,) * 4
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = cv2.GaussianBlur(photo[..., ::-1], (0, 0), 0.7)
    state, *_ = cv2.grabCut(bgr, state, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)  # pyright: ignore
    mask = ((state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if len(stats) < 2:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    largest = labels == 1 + int(areas.argmax())
    solid = cv2.morphologyEx(largest.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    near = solid[frame], solid[-frame - 1], solid[:, frame], solid[:, -frame - 1]
    touching = sum(int(line.sum()) for line in near) / (2 * (h + w))
    good = 0.1 <= solid.mean() <= 0.75 and areas.max() >= 0.8 * areas.sum() and touching <= 0.25
    return solid > 0 if good else None


def _read(path: Path) -> np.ndarray | None:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        return None
    scale = SIDE / min(pixels.shape[:2])
    if scale < 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(pixels[..., ::-1])


def _cut(path: Path, file: Path) -> None:
    photo = _read(path)
    if photo is None:
        return
    cv2.setNumThreads(1)
    found = subject_mask(photo)
    kept = np.zeros(photo.shape[:2], bool) if found is None else found
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, encode_picture(kept.astype(np.uint8) * 255, ".png", {}))


def cut_subjects(folders: Iterable[Path], skip: frozenset[str], cache: Path) -> Iterator[Photo]:
    """Photographs `FOLDER/NOUN/*.jpg` with the mask of their subject, those without one left out.

    Masks are cut on all processors.

    Args:
        folders: underscores in a subfolder's name are spaces of the noun.
        skip: files to leave out, as `NOUN/NAME`.
        cache: folder in which masks are kept as PNG, empty where none was found.
    """
    pairs = [
        (path, cache / str(number) / path.parent.name / f"{path.stem}.png")
        for number, folder in enumerate(folders)
        for path in sorted(folder.glob("*/*.jp*g"))
        if f"{path.parent.name}/{path.name}" not in skip
    ]
    missing = [pair for pair in pairs if not pair[1].exists()]
    if missing:
        # OpenCV's threads do not survive a fork.
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            list(pool.map(_cut, *zip(*missing, strict=True), chunksize=16))
    for path, file in pairs:
        mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) if file.exists() else None
        photo = _read(path) if mask is not None and mask.any() else None
        if photo is not None and mask is not None:
            yield photo, [(path.parent.name.replace("_", " "), False, mask > 0)]
