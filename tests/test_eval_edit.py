"""Runs of edits: guidance scales, workers, and the pictures of their reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_tools import box, rle_of, write_set
from fake_backbone import FakeBackbone

from textseg.cli import main
from textseg.errors import InputError
from textseg.image import load_image
from textseg.options import EditOptions
from textseg_eval.datasets import load_coco
from textseg_eval.edit_comparison import compare_edits
from textseg_eval.edit_plan import SHIPPED, EditRun, Setting
from textseg_eval.edit_run import evaluate_edits
from textseg_eval.edit_tables import compared_tables, edit_table
from textseg_eval.edit_worker import image_path, picture_path

IMAGES = 5


def _set(folder: Path) -> tuple[Path, Path]:
    """Images of 72 x 48, each with a dog in the middle."""
    region = rle_of(box(72, 48, 18, 12, 54, 36))
    return write_set(folder, dict.fromkeys(range(1, IMAGES + 1), (72, 48)),
                     [(n, 1, region, 0) for n in range(1, IMAGES + 1)], {1: "dog"})  # fmt: skip


def _plan(folder: Path, **changes: Any) -> EditRun:
    plan: dict[str, Any] = {
        "dataset": load_coco(*_set(folder)),
        "pairs": {"dog": "a cat"},
        "methods": ("reconstruct", "sdedit", "diffedit", SHIPPED),
        "ratios": (0.5, 1.0),
        "levels": (0.5,),
        "options": EditOptions(steps=4),
        "draws": 2,
    }
    return EditRun(**(plan | changes))


@pytest.fixture
def fake() -> FakeBackbone:
    return FakeBackbone({"dog": (0.25, 0.25, 0.75, 0.75)})


def test_several_guidance_scales_are_settings_of_their_own(
    tmp_path: Path, fake: FakeBackbone
) -> None:
    plan = _plan(tmp_path, guidances=(1.0, 6.0))
    settings = list(plan.settings())
    assert settings[0] == Setting("reconstruct") and len(settings) == 1 + 3 * 2 * 2
    both = evaluate_edits(plan, fake, tmp_path / "both")
    for scale in (1.0, 6.0):
        options = EditOptions(steps=4, guidance_scale=scale)
        alone = evaluate_edits(
            replace(plan, guidances=(), options=options), fake, tmp_path / str(scale)
        )
        assert alone["rows"] == [row for row in both["rows"] if row["guidance"] in (None, scale)]
    assert "guidance" in edit_table(both["rows"]).head
    assert "guidance" not in edit_table(alone["rows"]).head
    with pytest.raises(InputError, match="guidances must be one or more numbers of at least 0"):
        replace(plan, guidances=(-1.0,))


@pytest.mark.timeout(300)
def test_any_number_of_workers_gives_the_same(tmp_path: Path, tiny_folder: Path) -> None:
    images, annotations = _set(tmp_path)
    base = ["eval", "edit", "--images", str(images), "--annotations", str(annotations),
            "--swap", "dog=a cat", "--steps", "2", "--draws", "1", "--method",
            "sdedit,diffedit-composited", "--encode-ratio", "0.5", "--guidance", "1,3",
            "--threshold", "0.5", "--model", str(tiny_folder), "--device", "cpu",
            "--limit", "3", "--save-images", "--quiet"]  # fmt: skip
    for workers in ("1", "2"):
        assert main([*base, "--workers", workers, "-o", str(tmp_path / workers)]) == 0
    one, two = (
        sorted((tmp_path / workers / "per_image.jsonl").read_text().splitlines())
        for workers in ("1", "2")
    )
    assert len(one) == 3 and one == two
    rows = [json.loads((tmp_path / w / "results.json").read_text())["rows"] for w in ("1", "2")]
    assert rows[0] == rows[1]
    assert len({row["margin"]["mean"] for row in rows[0]}) == 2 * 2
    files = {p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*.[pj][np]g")}
    assert len(files) == 3 * (2 * 2 + 2 + 2)
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()
    # The report may have been made by either.
    assert (tmp_path / "1" / "edit.html").read_text() == (tmp_path / "2" / "edit.html").read_text()
    other = [*base, "--threads", "2", "-o", str(tmp_path / "1")]
    assert main(other) == 2


def test_the_report_shows_before_mask_and_after(tmp_path: Path, fake: FakeBackbone) -> None:
    out = tmp_path / "out"
    plan = _plan(tmp_path, ratios=(0.5, 0.75, 1.0), guidances=(3.0,))
    results = evaluate_edits(plan, fake, out)
    shown = [Setting(**setting) for setting in results["shown"]]
    assert shown[:2] == [Setting("reconstruct"), Setting("sdedit", 0.75, None, 3.0)]
    assert shown[2:] == [Setting(method, 0.75, 0.5, 3.0) for method in ("diffedit", SHIPPED)]
    text = (out / "edit.html").read_text()
    # Five images, none twice: two best, one median, two worst.
    assert text.count("data:image/jpeg") == 5 * (2 + 4)
    records = [json.loads(line) for line in (out / "per_image.jsonl").read_text().splitlines()]
    margins = {
        record["file_name"]: next(row["margin"] for row in record["rows"]
                                  if (row["method"], row["ratio"]) == (SHIPPED, 0.75))
        for record in records
    }  # fmt: skip
    order = sorted(margins, key=lambda name: -margins[name])
    places = {name: text.index(f">{name}: dog to a cat") for name in order}
    assert places[order[0]] < places[order[1]] < places[order[2]]
    assert places[order[2]] < places[order[4]] < places[order[3]]
    for words in ("region that is edited", "outline of the annotated region", "Median",
                  ">edit took<", ">background PSNR, dB<"):  # fmt: skip
        assert words in text
    (out / "pictures" / "before" / "1.jpg").unlink()
    evaluate_edits(plan, fake, out)
    assert (out / "edit.html").read_text().count("data:image/jpeg") == 5 * (2 + 4) - 1


def test_pictures_are_of_the_edits(tmp_path: Path, fake: FakeBackbone) -> None:
    out = tmp_path / "out"
    plan = _plan(tmp_path, ratios=(1.0,), save_images=True)
    evaluate_edits(plan, fake, out)
    setting = plan.shown()[-1]
    edited = load_image(image_path(out, setting, 2))
    before = load_image(plan.dataset.examples[1].path)
    assert np.array_equal(edited[:10], before[:10]) and not np.array_equal(edited, before)
    others = [load_image(e.path) for e in plan.dataset.examples if e.image_id != 2]
    for what, image in ((SHIPPED, edited), ("before", before)):
        small = load_image(picture_path(out, what, 2)).astype(int)
        near, *far = (np.abs(small - other).mean() for other in (image, *others))
        assert near < 0.7 * min(far)
    assert image_path(out, setting, "../a b").parent.parent == out / "images"


def test_the_shipped_edit_grows_as_edit_does(tmp_path: Path, fake: FakeBackbone) -> None:
    import textseg

    plan = _plan(tmp_path, ratios=(0.5,), methods=("diffedit", SHIPPED), save_images=True,
                 options=EditOptions(steps=4, grow=0.1))  # fmt: skip
    evaluate_edits(plan, fake, tmp_path / "out")
    example = plan.dataset.examples[0]
    expected = textseg.edit(
        example.path, "dog", "a cat", model=fake, method="diffedit", options=plan.options,
        threshold=0.5,
    )  # fmt: skip
    found = load_image(image_path(tmp_path / "out", plan.shown()[-1], example.image_id))
    outside = ~expected.mask
    original = load_image(example.path)
    assert np.array_equal(found[outside], original[outside])
    assert (found != original).any(axis=2).sum() > 0.9 * expected.mask.sum()


def test_runs_side_by_side_say_what_differs_and_show_it(
    tmp_path: Path, fake: FakeBackbone, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    plan = _plan(tmp_path)
    evaluate_edits(plan, fake, first)
    evaluate_edits(replace(plan, guidances=(1.0,), draws=3), fake, other)
    compared = compare_edits([first, other], replicates=20)
    assert compared["settings"] == {"guidances": [[7.5], [1.0]], "draws": [2, 3]}
    rows = compared["runs"][0]["rows"]
    assert [(row["method"], row["ratio"]) for row in rows] == [s[:2] for s in plan.settings()]
    tables = {table.name: table for table in compared_tables(compared)}
    assert tables["settings"].rows[0] == ["guidances", "7.5", "1.0"]
    assert {"took", "psnr", "margin"} < tables.keys()
    page = tmp_path / "page.html"
    words = [str(first), str(other), "-o", str(page), "--format", "csv", "--replicates", "20"]
    assert main(["eval", "compare", *words]) == 0
    text = page.read_text()
    ids = [i for ids in compared["differ_most"].values() for i in ids]
    assert ids and text.count("data:image/jpeg") == 3 * len(ids)
    assert "| guidances | 7.5 | 1.0 |" in capsys.readouterr().out
    assert (tmp_path / "page-tables" / "psnr.csv").is_file()
    # Several scales are settings of their own, and are compared with the same.
    evaluate_edits(replace(plan, guidances=(1.0, 7.5)), fake, tmp_path / "both")
    rows = compare_edits([first, tmp_path / "both"], replicates=5)["runs"][1]["rows"]
    assert {row["guidance"] for row in rows} == {None, 7.5}
    assert all(gap["value"] == 0 for row in rows for gap in row["difference"].values())


def test_intervals_of_shares_stay_within_them(tmp_path: Path) -> None:
    setting = Setting("sdedit", 0.5, None, 3.0)._asdict()
    about = {"dataset": {"name": "d", "fingerprint": "f"}, "pairs": {}, "seed": 0, "model": "m"}
    for name, values in (("a", [1, 0, 1, 0, 1, 0]), ("b", [1, 1, 1, 1, 1, 0])):
        (tmp_path / name).mkdir()
        results = {"format": 1, "kind": "edit", "run": about, "versions": {}, "failed": 0,
                   "rows": [setting]}  # fmt: skip
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        lines = [
            json.dumps({"image_id": n, "part": "test",
                        "rows": [setting | {"took": took, "margin": 100.0 * took}]})
            for n, took in enumerate(values)
        ]  # fmt: skip
        (tmp_path / name / "per_image.jsonl").write_text("\n".join(lines) + "\n")
    first, other = (
        run["rows"][0]
        for run in compare_edits([tmp_path / "a", tmp_path / "b"], replicates=300)["runs"]
    )
    assert first["figures"]["took"]["value"] == 0.5
    # The margins are the same values a hundredfold, and have no bounds.
    assert first["figures"]["took"]["low"] == 0 > first["figures"]["margin"]["low"]
    assert other["figures"]["took"]["high"] <= 1
    assert other["difference"]["took"]["value"] == pytest.approx(1 / 3)
    assert first["figures"]["margin"]["value"] == 50
