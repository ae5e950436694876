"""What `eval/judge_swaps.py` makes of pictures, regions and a judge."""

from __future__ import annotations

import judge_swaps
import numpy as np
import pytest
import torch

from textseg.training.painter.facts import NOUNS


@pytest.mark.parametrize("box", [(10, 20, 8, 38), (0, 30, 2, 12), (25, 40, 30, 61)])
def test_the_square_around_a_region_holds_it_in_its_middle(box: tuple[int, ...]) -> None:
    top, bottom, left, right = box
    image = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    region = np.zeros((40, 61), bool)
    region[top, left] = region[bottom - 1, right - 1] = True
    square = judge_swaps.square_around(image, region)
    side = len(square)
    assert square.shape == (side, side, 3)
    assert side == round(1.16 * max(bottom - top, right - left))
    y, x = (top + bottom - side) // 2, (left + right - side) // 2
    for dy in range(side):
        for dx in range(side):
            if 0 <= y + dy < 40 and 0 <= x + dx < 61:
                np.testing.assert_array_equal(square[dy, dx], image[y + dy, x + dx])


def test_a_swap_took_where_the_new_noun_is_likelier_than_the_old() -> None:
    one = np.eye(len(NOUNS), dtype=np.float32)
    judge = {"mean": 0.0, "scale": 1.0, "weight": one, "bias": 0.0}
    cat, dog, car = (NOUNS.index(noun) for noun in ("cat", "dog", "car"))
    features = torch.from_numpy(
        np.stack([one[cat], one[dog] + 0.5 * one[cat], 0.5 * one[cat] + one[car]])
    )
    took, first = judge_swaps.judge_all(judge, features, ["dog"] * 3, ["cat"] * 3)
    assert took.tolist() == [True, False, True]
    assert first.tolist() == [True, False, False]
