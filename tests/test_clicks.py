"""Masks corrected by clicks and boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone

from textseg import ContrastOptions, InputError, Measurement, RefineOptions, Segmenter, correct, cut
from textseg.cutting import measurement_of

HEIGHT, WIDTH = 60, 100


@pytest.fixture
def image() -> np.ndarray:
    """Two red squares on green; the text finds the left one alone."""
    pixels = np.full((HEIGHT, WIDTH, 3), (40, 160, 60), np.uint8)
    pixels[20:40, 10:30] = pixels[20:40, 65:85] = (200, 30, 40)
    return pixels


def found(presence: float = 0.9, **refine: Any) -> Measurement:
    contrast = np.zeros((15, 25), np.float32)
    contrast[5:10, 2:8] = 1.0
    options = RefineOptions(min_area=0, max_hole=0, **refine)
    return Measurement("the square", ("", ""), contrast, presence, ContrastOptions(), options,
                       "fake", "0")  # fmt: skip


def rectangle(left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:40, left:right] = True
    return mask


def square(left: int) -> np.ndarray:
    return rectangle(left, left + 20)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_without_points_and_boxes_it_is_cut(image: np.ndarray) -> None:
    plain, corrected = cut(found(), image), correct(found(), image)
    assert np.array_equal(plain.mask, corrected.mask)
    assert np.array_equal(plain.score, corrected.score)
    assert plain.notes == corrected.notes
    assert iou(plain.mask, square(10)) > 0.9


def test_a_plus_point_adds_its_object_and_keeps_the_other(image: np.ndarray) -> None:
    corrected = correct(found(), image, [(75, 30, 1)])
    assert iou(corrected.mask, square(10) | square(65)) > 0.9
    assert corrected.notes == ("; corrected by 1 point",)


@pytest.mark.parametrize("label", [0, -1])
def test_a_minus_point_takes_its_object_away(image: np.ndarray, label: int) -> None:
    corrected = correct(found(), image, [(20, 30, label)])
    assert corrected.mask[square(10)].mean() < 0.1


def test_a_minus_point_leaves_what_is_surer_than_it(image: np.ndarray) -> None:
    # One red band, of which the text finds the left end surely and the rest as well.
    image[20:40, 10:85] = (200, 30, 40)
    contrast = np.full((15, 25), 0.02, np.float32)
    contrast[5:10, 2:8], contrast[5:10, 8:21] = 1.0, 0.6
    measured = replace(found(clamp=100.0, level=0.5), contrast=contrast)
    band, left = rectangle(10, 85), square(10)
    assert iou(cut(measured, image).mask, band) > 0.9
    corrected = correct(measured, image, [(60, 30, 0)])
    assert corrected.mask[left].mean() > 0.9
    assert corrected.mask[rectangle(50, 70)].mean() < 0.1


@pytest.mark.parametrize(
    ("point", "moved"), [((20, 30, 0), -0.675), ((75, 30, 1), 0.675), ((20, 30, 1), 0.0)]
)
def test_a_score_that_said_the_opposite_moves_as_a_whole(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch, point: Any, moved: float
) -> None:
    monkeypatch.setattr("textseg.clicks._REACH", 1e-3)
    score = correct(found(crf=False), image, [point]).score
    # The score said 0.05 in this corner: far from all clicks, that is all that moves it.
    assert score[0, 99] == pytest.approx(1 / (1 + np.exp(-np.log(0.05 / 0.95) - moved)), abs=1e-4)


@pytest.mark.parametrize("crf", [True, False])
def test_points_have_their_label_and_nothing_lies_outside_a_box(
    image: np.ndarray, crf: bool
) -> None:
    points = [(75, 30, 1), (20, 30, 0), (99, 59, 1)]
    corrected = correct(found(crf=crf), image, points)
    assert [corrected.mask[y, x] for x, y, _ in points] == [True, False, True]
    boxed = correct(found(crf=crf), image, [(75, 30, 1)], [(5, 15, 35, 45)])
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[15:45, 5:35] = False
    # But for the point's own disc: what is pointed at goes before the box.
    outside[29:32, 74:77] = False
    assert not boxed.mask[outside].any() and boxed.mask[30, 75]
    # Without a CRF the edge of the score is as blurred as its cells are wide.
    assert iou(boxed.mask & ~square(65), square(10)) > (0.9 if crf else 0.7)


def test_pointing_at_it_says_that_it_is_there(image: np.ndarray) -> None:
    absent = found(presence=0.1, min_presence=0.5)
    assert not correct(absent, image).mask.any()
    emptied = correct(absent, image, [(75, 30, 0), (3, 3, 0)])
    assert not emptied.mask.any()
    assert emptied.notes == (
        "; corrected by 2 points", "the mask is empty: presence 0.1 is below 0.5"
    )  # fmt: skip
    assert measurement_of(emptied).notes == ("",)
    assert correct(absent, image, [(20, 30, 1)]).mask.any()
    assert correct(absent, image, boxes=[(5, 15, 35, 45)]).mask.any()


def test_it_is_the_same_each_time_and_takes_arrays(image: np.ndarray) -> None:
    points: Any = [(75.5, 30.2, 1), (20, 30, 0)]
    array: Any = np.array(points)
    first, again = (correct(found(), image, given) for given in (points, array))
    assert np.array_equal(first.mask, again.mask) and np.array_equal(first.score, again.score)


@pytest.mark.parametrize(
    ("points", "boxes", "words"),
    [
        ([(100, 3, 1)], [], r"point must lie in the picture of 100 x 60, got \(100, 3, 1\)"),
        ([(3, -1, 1)], [], "point must lie in the picture"),
        ([(3, 60, 1)], [], "point must lie in the picture"),
        ([(3, 3)], [], "point must be x, y, label"),
        ([(3, 3, 2)], [], "label 1 or 0"),
        ([(3, float("nan"), 1)], [], "point must be x, y, label"),
        ([3], [], "point must be x, y, label"),
        ([], [(5, 5, 5, 9)], "box must be left < right"),
        ([], [(5, 5, 101, 9)], "box must be left < right"),
        ([], [(5, 5, 9)], "box must be left, top, right, bottom"),
        ([], ["5599"], "box must be left, top, right, bottom"),
    ],
)
def test_bad_points_and_boxes_are_named(
    image: np.ndarray, points: Any, boxes: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        correct(found(), image, points, boxes)


def test_a_query_takes_points_and_boxes(image: np.ndarray) -> None:
    segmenter = Segmenter(FakeBackbone({"dog": (0.2, 0.1, 0.7, 0.4)})).set_image(image)
    points = [(75, 30, 1)]
    asked = segmenter.query("the dog", points=points)
    by_hand = correct(segmenter.measure("the dog"), segmenter.image, points)
    assert np.array_equal(asked.mask, by_hand.mask) and asked.mask[30, 75]
    with pytest.raises(InputError, match="points and boxes must go with one query"):
        segmenter.query(["the dog", "the cat"], points=points)
