"""What training must not see: the photographs that show a held-out cutout."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from find_likest import likeness, likest

from textseg.training.mini.sprites import split_cutouts


def photograph(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC)


def cut(photo: np.ndarray) -> np.ndarray:
    """An ellipse of it, BGRA as OpenCV writes it."""
    part = photo[40:200, 60:260]
    alpha = np.zeros(part.shape[:2], np.uint8)
    cv2.ellipse(alpha, (100, 80), (95, 75), 0, 0, 360, 255, -1)
    return np.dstack([part, alpha])


def test_a_cutout_is_found_in_its_photograph(tmp_path: Path) -> None:
    photos = [photograph(seed) for seed in range(5)]
    (tmp_path / "photos" / "dog").mkdir(parents=True)
    (tmp_path / "cutouts" / "dog").mkdir(parents=True)
    for number, photo in enumerate(photos):
        cv2.imwrite(str(tmp_path / "photos" / "dog" / f"{number}.jpg"), photo)
        cv2.imwrite(str(tmp_path / "cutouts" / "dog" / f"{number}.png"), cut(photo))
    [held] = split_cutouts({"dog": [np.array(number) for number in range(5)]})[1]["dog"]
    assert likest(tmp_path / "cutouts" / "dog", tmp_path / "photos", 1) == {f"dog/{held}.jpg"}
    assert len(likest(tmp_path / "cutouts" / "dog", tmp_path / "photos", 3)) == 3


def test_a_noun_without_held_out_cutouts_skips_nothing(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "cutouts" / "cat").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "photos" / "cat" / "0.jpg"), photograph(0))
    assert likest(tmp_path / "cutouts" / "cat", tmp_path / "photos", 3) == set()


def test_likeness_is_higher_where_the_cutout_comes_from() -> None:
    # The cutout's 200 pixels become 110, one of the sizes tried.
    same, other = (cv2.resize(photograph(seed), (176, 132)) for seed in (0, 1))
    rgba = cv2.cvtColor(cut(photograph(0)), cv2.COLOR_BGRA2RGBA)
    assert likeness(rgba, same) > 0.95
    assert likeness(rgba, other) < 0.7
