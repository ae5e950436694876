"""File names that are not UTF-8: in every output as the text that leads back to the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from PIL import Image

from textseg.cli import main
from textseg.saving import read_provenance

RAW = b"caf\xe9 \xff.png"


@pytest.fixture
def photo(tmp_path: Path, tiny_image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    backbone = FakeBackbone({"dog": (0.25, 0.1, 0.75, 0.4)})
    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: backbone)
    folder = tmp_path / "photos"
    folder.mkdir()
    path = folder / os.fsdecode(RAW)
    try:
        path.touch()
    except OSError:
        pytest.skip("the file system takes only names in UTF-8")
    Image.fromarray(tiny_image).save(path)
    return path


def test_segment(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    formats = "mask,score,overlay,cutout,rle,polygon,coco,npz"
    words = ["segment", str(photo), "-q", "the dog", "-o", str(out), "--format", formats, "--json"]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["image"] == str(photo)
    assert all(Path(place).is_file() for place in printed["files"].values())
    text = Path(printed["files"]["coco"]).read_text("utf-8", "strict")
    assert json.loads(text)["images"][0]["file_name"] == photo.name
    assert r"caf\udce9 \udcff.png" in text
    assert read_provenance(printed["files"]["mask"]) is not None
    assert main(["inspect", printed["files"]["mask"], printed["files"]["rle"]]) == 0


def test_batch(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["-q", "the dog", "-o", str(out), "--format", "coco,mask", "--workers", "0", "--quiet"]
    assert main(["batch", str(photo.parent), *words]) == 0
    row = json.loads((out / "index.jsonl").read_text("ascii"))
    assert row["error"] is None
    assert Path(row["image"]).is_file()
    assert (out / row["mask_file"]).is_file()
    images = json.loads((out / "coco_images.json").read_text("ascii"))["images"]
    assert images[0]["file_name"] == photo.name
    # The index is a manifest itself.
    again = tmp_path / "again"
    assert main(["batch", str(out / "index.jsonl"), "-o", str(again), "--workers", "0"]) == 0
    masks = [next(folder.rglob("*.mask.png")).read_bytes() for folder in (out, again)]
    assert masks[0] == masks[1]
    # And the same command goes on where nothing is left to do.
    assert main(["batch", str(photo.parent), *words]) == 0


def test_parquet(photo: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    out = tmp_path / "out"
    words = ["-q", "the dog", "-o", str(out), "--format", "none", "--workers", "0", "--quiet"]
    assert main(["batch", str(photo.parent), *words]) == 0
    assert parquet.read_table(out / "index.parquet").to_pylist()[0]["name"] == (
        r"caf\udce9 \udcff.png"
    )


def test_eval_folder(photo: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    region = np.zeros((48, 80), bool)
    region[12:36, 8:32] = True
    Image.fromarray(region).save(masks / photo.name)
    out = tmp_path / "run"
    words = ["eval", "folder", "--images", str(photo.parent), "--masks", str(masks),
             "--query", "dog", "--method", "truth", "--fixed-threshold", "own",
             "--replicates", "9"]  # fmt: skip
    assert main([*words, "-o", str(out)]) == 0
    record = json.loads((out / "per_image.jsonl").read_text("ascii"))
    assert record["file_name"] == photo.name
    assert r"caf\udce9 \udcff.png" in (out / "report.html").read_text("utf-8", "strict")
