"""What clicks are worth: the rule of clicking, GrabCut beside, figures and taking up again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from eval_tools import box, rle_of, write_set
from fake_backbone import FakeBackbone
from measure_clicks import figures, grabcut, ious, main, next_click

from textseg import Segmenter
from textseg.clicks import Point
from textseg_eval.aggregate import Bootstrap


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((60, 100), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_click_goes_to_the_middle_of_the_largest_error() -> None:
    truth = rectangle(10, 10, 31, 41)
    assert next_click(np.zeros_like(truth), truth) in [(x, 20.0, 1) for x in range(20, 31)]
    # The larger of two errors, whatever its kind: 21 x 41 too much against 21 x 20 missed.
    mask = rectangle(10, 30, 31, 41) | rectangle(35, 50, 56, 91)
    x, y, label = next_click(mask, truth) or (0, 0, 0)
    assert (y, label) == (45, 0) and 60 <= x <= 80
    # Two errors that touch but are of different kinds are two.
    x, y, label = next_click(rectangle(10, 41, 31, 60), truth) or (0, 0, 0)
    assert label == 1 and 20 <= x <= 30
    # By the border of the picture: what lies outside is no error.
    corner = rectangle(0, 0, 21, 21)
    assert next_click(np.zeros_like(corner), corner) == (10.0, 10.0, 1)
    assert next_click(truth, truth) is None


def test_ious_are_of_the_masks_that_the_clicks_make() -> None:
    truth, seen = rectangle(10, 10, 30, 40), []
    halves = [rectangle(10, 10, 30, 25), truth]

    def clicked(points: Sequence[Point]) -> np.ndarray:
        seen.append(list(points))
        return halves[min(len(points), 1)]

    assert ious(clicked, truth) == [0.5, 1.0, 1.0, 1.0]
    assert [len(points) for points in seen] == [0, 1, 1, 1]


def test_grabcut_cuts_what_is_clicked_and_nothing_without() -> None:
    image = np.full((60, 100, 3), (40, 160, 60), np.uint8)
    noise = np.random.default_rng(0).integers(-8, 8, image.shape)
    image[20:40, 10:50] = (200, 30, 40)
    clicked = grabcut((image + noise).clip(0, 255).astype(np.uint8))
    assert not clicked([]).any() and not clicked([(3, 3, 0)]).any()
    truth = rectangle(20, 10, 40, 50)
    mask = clicked([(30, 30, 1), (80, 10, 0)])
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


def test_figures_are_means_over_regions_resampled_over_photographs() -> None:
    rows = np.random.default_rng(0).random((6, 4))
    records = [
        {"rows": [{"text": a.tolist(), "grabcut": b.tolist()}]}
        for a, b in zip(rows[:3], rows[3:], strict=True)
    ]
    records.append({"rows": []})
    found = figures(records, Bootstrap(replicates=400))
    assert (found["images"], found["regions"]) == (3, 3)
    for one, mean in zip(found["text"], rows[:3].mean(axis=0), strict=True):
        assert one["value"] == pytest.approx(mean)
        assert one["low"] <= mean <= one["high"]
    gaps = [one["value"] for one in found["difference"]]
    assert gaps == pytest.approx(rows[:3].mean(axis=0) - rows[3:].mean(axis=0))
    same = figures([records[0]] * 5, Bootstrap(replicates=50))["text"][0]
    assert same["low"] == same["high"] == pytest.approx(rows[0, 0])


def test_it_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = FakeBackbone({"dog": (0.25, 0.1, 0.75, 0.4)})
    monkeypatch.setattr("measure_clicks.Segmenter", lambda _: Segmenter(backbone))
    shapes = {1: (48, 80), 2: (64, 40), 3: (48, 80)}
    marks = [
        (1, 7, rle_of(box(48, 80, 10, 10, 40, 30)), 0),
        (1, 8, rle_of(box(48, 80, 2, 2, 4, 4)), 0),
        (2, 7, rle_of(box(64, 40, 4, 4, 24, 34)), 0),
        (3, 7, rle_of(box(48, 80, 4, 4, 24, 34)), 1),
    ]
    pictures, annotations = write_set(tmp_path, shapes, marks, {7: "dog", 8: "cat"})
    out = tmp_path / "out"
    words = ["measure_clicks", "--images", str(pictures), "--annotations", str(annotations),
             "-o", str(out)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [*words])
    main()
    table = capsys.readouterr().out
    # The cat is smaller than asked for; the third picture has a crowd alone.
    assert "mean IoU of 2 classes on 2 photographs" in table
    written = (out / "figures.json").read_bytes()
    assert len(json.loads(written)["grabcut"]) == 4
    lines = (out / "per_image.jsonl").read_text().splitlines(keepends=True)
    (out / "per_image.jsonl").write_text("".join(lines[:1]) + lines[1][:20])
    encoded = backbone.encoded
    main()
    assert backbone.encoded == encoded + 1
    assert (out / "figures.json").read_bytes() == written
