"""Edit metrics against plain arithmetic, and a whole run over a hand-made data set."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone
from PIL import Image

from textseg.cli import main
from textseg.errors import InputError
from textseg.options import EditOptions
from textseg_eval.commands.edit import swaps
from textseg_eval.datasets import load_coco
from textseg_eval.edit_comparison import compare_edits
from textseg_eval.edit_metrics import (
    Scripted,
    background_lpips,
    background_psnr,
    background_ssim,
    change_inside,
    evidence_inside,
    frechet_distance,
)
from textseg_eval.edit_plan import ABLATION, RECONSTRUCT, SHIPPED, EditRun
from textseg_eval.edit_run import evaluate_edits
from textseg_eval.edit_tables import edit_table
from textseg_eval.edit_worker import Judges
from textseg_eval.tables import markdown

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")


def _pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image, edited = rng.integers(0, 256, (2, 40, 64, 3), dtype=np.uint8)
    region = np.zeros((40, 64), bool)
    region[5:20, 10:50] = True
    return image, edited, region


def test_psnr_is_over_the_background_alone() -> None:
    image, edited, region = _pair()
    shifted = image.astype(int)
    shifted[~region] = (image[~region].astype(int) + 128) % 256
    error = [
        (float(a) - float(b)) ** 2
        for a, b in zip(image[~region].ravel(), shifted[~region].ravel(), strict=True)
    ]
    expected = 10 * math.log10(255**2 / (sum(error) / len(error)))
    assert background_psnr(image, shifted.astype(np.uint8), region) == pytest.approx(expected)
    inside_only = np.where(region[..., None], edited, image)
    assert background_psnr(image, inside_only, region) == 100
    assert background_psnr(image, edited, np.ones_like(region)) is None


def test_ssim_is_one_where_nothing_changed() -> None:
    image, edited, region = _pair()
    assert background_ssim(image, image, region) == pytest.approx(1)
    whole = background_ssim(image, edited, np.zeros_like(region))
    assert whole is not None and abs(whole) < 0.1
    far = np.where(region[..., None], edited, image)
    near = background_ssim(image, far, region)
    assert near is not None and 0.8 < near < 1
    assert background_ssim(image, edited, np.ones_like(region)) is None


def test_change_inside_is_a_mean_difference() -> None:
    image = np.zeros((10, 14, 3), np.uint8)
    edited = np.full_like(image, 255)
    region = np.zeros((10, 14), bool)
    assert change_inside(image, edited, region) is None
    region[:5] = True
    edited[2:5] = 0
    assert change_inside(image, edited, region) == pytest.approx(2 / 5)


def test_evidence_prefers_what_is_there() -> None:
    fake = FakeBackbone({"dog": (0.2, 0.2, 0.8, 0.8)})
    image = _pair()[0]
    region = np.zeros((40, 64), bool)
    region[12:28, 20:44] = True
    there = evidence_inside(fake, image, region, "a cat", "a dog")
    gone = evidence_inside(fake, image, region, "a dog", "a cat")
    assert there["took"] == 1 and gone["took"] == 0
    assert there["margin"] == pytest.approx(-gone["margin"], rel=1e-5)
    # Where the dog is, the fake's error is 0 for "dog" and 0.5 for anything else.
    assert there["margin"] == pytest.approx(0.25, abs=0.08)
    assert there["presence"] > 0.99 and gone["presence"] == 0


def test_frechet_distance_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(400, 5))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    moved = first * 2 + 3
    # Commuting covariances: |m|^2 + tr((C1^(1/2) - C2^(1/2))^2).
    c = np.cov(first.T)
    expected = np.square(first.mean(0) - moved.mean(0)).sum() + np.trace(c)
    assert frechet_distance(first, moved) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="at least 2 images a side, got 1, 400"):
        frechet_distance(first[:1], first)


class _Pooled(torch.nn.Module):
    def forward(self, x: torch.Tensor, return_lpips: bool = False) -> torch.Tensor:
        return x.float().mean((2, 3)) / (2.0 if return_lpips else 1.0)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    torch.jit.save(torch.jit.script(_Pooled()), str(tmp_path / "net.pt"))
    return tmp_path / "net.pt"


def test_networks_from_files(network: Path, tmp_path: Path) -> None:
    image, edited, region = _pair()
    inside_only = np.where(region[..., None], edited, image)
    scripted = Scripted(network, return_lpips=True)
    np.testing.assert_allclose(scripted.features(image), image.mean((0, 1)) / 2, rtol=1e-5)
    assert background_lpips(scripted, image, inside_only, region) == 0
    assert background_lpips(scripted, image, edited, region) > 0
    with pytest.raises(InputError, match="weights must be a TorchScript file"):
        Scripted(tmp_path / "none.pt")


def _dataset(folder: Path, count: int = 3) -> tuple[Path, Path]:
    rng = np.random.default_rng(1)
    images, annotations = [], []
    (folder / "images").mkdir()
    for number in range(1, count + 1):
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 64})
        # The fake's dog covers this same box.
        box = [16, 12, 32, 24]
        corners = [16, 12, 48, 12, 48, 36, 16, 36]
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1 + (number == 3),
                "bbox": box,
                "area": 768,
                "iscrowd": 0,
                "segmentation": [corners],
            }
        )
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "boat"}]
    (folder / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return folder / "images", folder / "instances.json"


def _run(folder: Path, **changes: Any) -> EditRun:
    plan: dict[str, Any] = {
        "dataset": load_coco(*_dataset(folder)),
        "pairs": {"dog": "a cat"},
        "ratios": (0.5, 1.0),
        "levels": (0.5,),
        "options": EditOptions(steps=4),
        "draws": 2,
    }
    return EditRun(**(plan | changes))


@pytest.fixture
def fake() -> FakeBackbone:
    return FakeBackbone({"dog": (0.25, 0.25, 0.75, 0.75)})


def test_a_run_measures_every_setting(tmp_path: Path, fake: FakeBackbone, network: Path) -> None:
    run = _run(tmp_path)
    judges = Judges(lpips=Scripted(network, return_lpips=True), inception=Scripted(network))
    results = evaluate_edits(run, fake, tmp_path / "out", judges)
    assert results["images"] == 2 and results["failed"] == 0
    settings = [(r["method"], r["ratio"], r["level"], r["guidance"]) for r in results["rows"]]
    assert settings == list(run.settings())
    assert len(settings) == 1 + 2 * 5
    by = {(r["method"], r["ratio"]): r for r in results["rows"]}
    # Latents outside the mask are the image's own: but for the cells at the region's edge, only
    # the autoencoder touches the background.
    assert by["diffedit", 1.0]["psnr"]["mean"] == pytest.approx(
        by[RECONSTRUCT, None]["psnr"]["mean"], abs=1
    )
    assert by["diffedit", 1.0]["psnr"]["mean"] > by["sdedit", 1.0]["psnr"]["mean"]
    assert by[SHIPPED, 1.0]["psnr"]["mean"] > by["diffedit", 1.0]["psnr"]["mean"] + 3
    assert by[SHIPPED, 1.0]["lpips"]["mean"] < by["diffedit", 1.0]["lpips"]["mean"]
    assert by[RECONSTRUCT, None]["took"]["mean"] == 0
    assert by["diffedit", 0.5]["psnr"]["low"] <= by["diffedit", 0.5]["psnr"]["high"]
    assert all(row["fid"] >= 0 for row in results["rows"])
    assert "<svg" in (tmp_path / "out" / "edit.html").read_text()
    shown = markdown(edit_table(results["rows"]))
    assert shown.count("\n") == len(settings) + 2
    assert "| diffedit | 0.5 | 0.5 |" in shown


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path, fake: FakeBackbone) -> None:
    run = _run(tmp_path)

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_edits(run, fake, tmp_path / "out", progress=stop)
    resumed = evaluate_edits(run, fake, tmp_path / "out")
    whole = evaluate_edits(run, fake, tmp_path / "whole")
    assert resumed["rows"] == whole["rows"]
    other = EditRun(run.dataset, run.pairs, ratios=(0.5,))
    with pytest.raises(InputError, match=r"of the same run, got .* with another"):
        evaluate_edits(other, fake, tmp_path / "out")


def test_encoding_once_for_all_ratios_changes_nothing(tmp_path: Path, fake: FakeBackbone) -> None:
    both = evaluate_edits(_run(tmp_path, truth_mask=True), fake, tmp_path / "both")
    (tmp_path / "again").mkdir()
    alone = evaluate_edits(
        _run(tmp_path / "again", truth_mask=True, ratios=(0.5,)), fake, tmp_path / "alone"
    )
    rows = {(r["method"], r["ratio"]): r for r in both["rows"]}
    for row in alone["rows"]:
        assert rows[row["method"], row["ratio"]] == row


def test_runs_of_edits_are_compared_setting_by_setting(
    tmp_path: Path, fake: FakeBackbone, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    plan = _run(tmp_path)
    evaluate_edits(plan, fake, first)
    changed = replace(plan, ratios=(1.0,), options=EditOptions(steps=4, guidance_scale=1.0))
    evaluate_edits(changed, fake, other)
    compared = compare_edits([first, other], replicates=200)
    records = [
        [json.loads(line) for line in (run / "per_image.jsonl").read_text().splitlines()]
        for run in (first, other)
    ]
    base, run = compared["runs"]
    assert [row["ratio"] for row in run["rows"]] == [None] + 5 * [1.0]
    for row in run["rows"]:
        key = {name: row[name] for name in ("method", "ratio", "level")}
        for name in ("psnr", "change", "margin"):
            values = [
                np.array([next(r[name] for r in image["rows"] if key.items() <= r.items())
                          for image in images])
                for images in records
            ]  # fmt: skip
            gap = row["difference"][name]
            assert row["figures"][name]["value"] == pytest.approx(values[1].mean())
            assert gap["value"] == pytest.approx((values[1] - values[0]).mean())
            # A resampled mean of gaps lies between the smallest and the largest of them.
            spread = np.ptp(values[1] - values[0])
            assert gap["value"] - spread - 1e-9 <= gap["low"] <= gap["high"] + 1e-12
            assert gap["high"] <= gap["value"] + spread + 1e-9
    assert "difference" not in base["rows"][0]
    same = compare_edits([first, first], replicates=50)["runs"][1]["rows"]
    assert all(gap["low"] == gap["high"] == 0 for row in same for gap in row["difference"].values())
    assert main(["eval", "compare", str(first), str(other), "-o", str(tmp_path / "c.html")]) == 0
    shown = capsys.readouterr().out
    assert "2 common images, edits" in shown and "| other less first | higher in |" in shown
    assert "other less first" in (tmp_path / "c.html").read_text()
    assert main(["eval", "compare", str(first), str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "edit"


def test_runs_of_edits_that_differ_too_much_are_refused(
    tmp_path: Path, fake: FakeBackbone, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = _run(tmp_path, methods=("sdedit",), ratios=(1.0,))
    evaluate_edits(plan, fake, tmp_path / "a")
    evaluate_edits(replace(plan, pairs={"dog": "a ball"}), fake, tmp_path / "b")
    evaluate_edits(replace(plan, methods=("encode-decode",)), fake, tmp_path / "c")
    for other, words in (
        ("b", "runs must share the swaps, got another in"),
        ("c", "must have a method, ratio and threshold in common"),
        ("images", "run must be a folder with results.json"),
    ):
        assert main(["eval", "compare", str(tmp_path / "a"), str(tmp_path / other)]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert main(["eval", "compare", str(tmp_path / "a")]) == 2
    assert "runs must be two or more, got 1" in capsys.readouterr().err


def test_the_command_takes_lists_and_old_names(
    tmp_path: Path, fake: FakeBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: fake)
    images, annotations = _dataset(tmp_path)
    base = ["eval", "edit", "--images", str(images), "--annotations", str(annotations),
            "--swap", "dog=a cat", "--steps", "2", "--draws", "1", "--quiet"]  # fmt: skip
    ways = (
        ["--method", "sdedit,diffedit", "--encode-ratio", "0.5,1", "--threshold", "0.25,0.5"],
        ["--method", "sdedit", "--method", "diffedit", "--ratio", "0.5", "--encode-ratio", "1",
         "--threshold", "0.25", "--threshold", "0.5"],
    )  # fmt: skip
    for number, way in enumerate(ways):
        assert main([*base, *way, "-o", str(tmp_path / str(number))]) == 0
        results = json.loads((tmp_path / str(number) / "results.json").read_text())
        assert results["run"]["methods"] == ["sdedit", "diffedit"]
        assert results["run"]["ratios"] == [0.5, 1.0] and results["run"]["levels"] == [0.25, 0.5]


def test_refuses(tmp_path: Path) -> None:
    for changes, words in (
        ({"methods": ("magic",)}, "methods must be of reconstruct, sdedit"),
        ({"pairs": {}}, "pairs must hold at least one"),
        ({"pairs": {"zebra": "a cat"}}, "must name categories of the data set, got 'zebra'"),
    ):
        folder = tmp_path / words[:8].strip()
        folder.mkdir(exist_ok=True)
        for old in folder.rglob("*.png"):
            old.unlink()
        if (folder / "images").exists():
            (folder / "images").rmdir()
        with pytest.raises(InputError) as caught:
            _run(folder, **changes)
        assert words in str(caught.value)


def test_swaps_are_read(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text('{"dog": "a cat", "boat": ""}')
    assert swaps(["dog=a ball", "hot dog = a boat"], tmp_path / "pairs.json") == {
        "dog": "a ball",
        "boat": "",
        "hot dog": "a boat",
    }
    with pytest.raises(InputError, match="swap must be CATEGORY=PROMPT, got 'dog'"):
        swaps(["dog"], None)
    assert len(ABLATION) == 4
