"""`textseg batch`: sources, results, order, resuming, bad files."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from PIL import Image

import textseg
from textseg.batch.index import rows
from textseg.batch.journal import Journal
from textseg.batch.local import run_local
from textseg.batch.sources import make_plan
from textseg.batch.stages import Draft, Drafter, Finisher, Job, Loaded, load
from textseg.batch.storage import Folder
from textseg.cli import main
from textseg.cutting import cut
from textseg.errors import InputError, OutputError
from textseg.masks import Segmentation
from textseg.options import RefineOptions
from textseg.rle import decode_rle

DOG = (0.25, 0.1, 0.75, 0.4)
REPO = Path(__file__).parent.parent


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeBackbone:
    """Stands in for every model that a command loads."""
    backbone = FakeBackbone({"dog": DOG, "ball": (0.5, 0.6, 1.0, 0.9)})
    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: backbone)
    return backbone


def draw(path: Path, seed: int, size: tuple[int, int] = (48, 80)) -> Path:
    """A picture of blocks, different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (size[0] // 8, size[1] // 8, 3))
    Image.fromarray(np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images in two folders, two of them of one name."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(["b.png", "a.png", "sub/deep/c.png", "a.bmp"]):
        draw(folder / name, seed, (48, 80) if seed % 2 else (64, 40))
    (folder / "notes.txt").write_text("no image")
    draw(folder / ".hidden" / "d.png", 9)
    return folder


def read_rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]


def tree(out: Path) -> dict[str, bytes]:
    """All files but the journal, in the order of finishing, and what a kill left behind."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "journal.jsonl" and path.suffix != ".tmp"
    }


def test_results_have_the_shape_of_the_tree_and_are_those_of_segment(
    model: FakeBackbone, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["batch", str(photos), "-q", "the dog", "-q", "a ball", "-o", str(out), "--workers"]
    options = ["--format", "mask,overlay,cutout", "--crf", "--crf-iterations", "2"]
    assert main([*words, "0", *options]) == 0
    assert "4 images, 8 masks (left out 1 file: 1 .txt): " in capsys.readouterr().out
    stems = ("a", "a-2", "b", "sub/deep/c")
    expected = {
        f"{stem}.{slug}.{kind}.png"
        for stem in stems
        for slug in ("the-dog", "a-ball")
        for kind in ("mask", "overlay", "cutout")
    }
    assert {name for name in tree(out) if name.endswith(".png")} == expected
    refine = RefineOptions.off(crf=True, crf_iterations=2)
    for stem, source in zip(stems, ("a.bmp", "a.png", "b.png", "sub/deep/c.png"), strict=True):
        both = textseg.segment(photos / source, ["the dog", "a ball"], model=model, refine=refine)
        for result, slug in zip(both, ("the-dog", "a-ball"), strict=True):
            for kind in ("mask", "overlay", "cutout"):
                result.save(tmp_path / "one.png", kind)
                written = (out / f"{stem}.{slug}.{kind}.png").read_bytes()
                assert written == (tmp_path / "one.png").read_bytes()


def test_the_cut_of_a_draft_is_that_of_a_query(model: FakeBackbone, photos: Path) -> None:
    refine: dict[str, Any] = {"min_presence": 0.4, "closing": 0.05, "crf": True, "level": 0.4}
    contrast = {"stop_risk": 0.01, "samples": 12}
    options = refine | contrast
    job = Job(output="unused", contrast=contrast, refine=refine, exclusive=True)
    plan = make_plan([str(photos)], ["the dog", "a boat", "a ball", "a unicorn"])
    drafter = Drafter(job)
    for item in plan.items:
        loaded = load(job, item)
        assert isinstance(loaded, Loaded)
        draft = drafter.draft(loaded)
        assert isinstance(draft, Draft)
        segmenter = textseg.Segmenter(model).set_image(loaded.pixels)
        wanted = segmenter.query(item.queries, exclusive=True, **options)
        found = cut(draft.measured, draft.pixels, exclusive=True)
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine.describe() == theirs.describe()
            np.testing.assert_array_equal(mine.mask, theirs.mask)
            np.testing.assert_array_equal(mine.score, theirs.score)
    said = [note for result in wanted for note in result.notes[1:]]
    assert any(note.startswith("used ") for note in said)
    assert any("presence" in note for note in said)


def test_index_and_coco_results_say_what_the_masks_are(
    model: FakeBackbone, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["batch", str(photos), "-q", "the dog", "-q", "a boat", "-o", str(out)]
    assert main([*words, "--workers", "0", "--min-presence", "0.3"]) == 0
    index = read_rows(out)
    assert [(row["name"], row["query"]) for row in index] == [
        (name, query)
        for name in ("a.bmp", "a.png", "b.png", "sub/deep/c.png")
        for query in ("the dog", "a boat")
    ]
    for row in index:
        mask = Segmentation.load(out / row["mask_file"]).mask
        decoded = decode_rle({"size": [row["height"], row["width"]], "counts": row["rle"]})
        np.testing.assert_array_equal(decoded, mask)
        assert row["area"] == mask.sum()
        assert (row["presence"] < 0.3) == (row["query"] == "a boat") == (row["area"] == 0)

    from pycocotools.coco import COCO

    truth = COCO(str(out / "coco_images.json"))
    found = truth.loadRes(str(out / "coco_results.json"))
    assert sorted(truth.getImgIds()) == [1, 2, 3, 4]
    assert [c["name"] for c in truth.loadCats(truth.getCatIds())] == ["the dog", "a boat"]
    marks = found.loadAnns(found.getAnnIds())
    assert [(mark["image_id"], mark["category_id"]) for mark in marks] == [
        (1, 1), (2, 1), (3, 1), (4, 1)]  # fmt: skip
    np.testing.assert_array_equal(found.annToMask(marks[2]), decode_rle(
        {"size": [index[4]["height"], index[4]["width"]], "counts": index[4]["rle"]}))  # fmt: skip


def test_parquet_holds_what_the_lines_hold(
    model: FakeBackbone, photos: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    (photos / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert main(["batch", str(photos), "-q", "dog", "-o", str(out), "--workers", "0"]) == 1
    assert parquet.read_table(out / "index.parquet").to_pylist() == read_rows(out)
    assert sum(row["error"] is not None for row in read_rows(out)) == 1


def test_without_pyarrow_the_lines_are_there(
    model: FakeBackbone, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = tmp_path / "out"
    words = ["batch", str(photos), "-q", "dog", "-o", str(out), "--workers", "0"]
    assert main([*words, "--format", "none"]) == 0
    assert set(tree(out)) == {
        "index.jsonl", "run.json", "coco_results.json", "coco_images.json"
    }  # fmt: skip
    assert len(read_rows(out)) == 4


def test_one_bad_file_is_reported_and_the_rest_done(
    model: FakeBackbone, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    words = ["batch", str(photos), "-q", "dog", "-o", str(out), "--workers", "0"]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "b.png" in printed.err
    assert "(1 failed, left out 1 file: 1 .txt)" in printed.out
    assert [row["name"] for row in read_rows(out) if row["error"]] == ["b.png"]
    assert len([name for name in tree(out) if name.endswith(".png")]) == 3
    # The second call tries what failed, and nothing else.
    model.encoded = 0
    assert main(words) == 1
    (photos / "b.png").write_bytes(whole)
    assert main(words) == 0
    assert model.encoded == 1
    assert not any(row["error"] for row in read_rows(out))


def test_a_run_with_only_bad_files_is_2(
    model: FakeBackbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(b"")
    assert main(["batch", str(tmp_path / "in"), "-q", "dog", "-o", str(tmp_path / "out")]) == 2


def test_workers_change_nothing(model: FakeBackbone, photos: Path, tmp_path: Path) -> None:
    """The model stays in this process; the workers get what it found."""
    words = ["batch", str(photos), "-q", "dog", "-q", "ball", "--crf", "--crf-iterations", "2"]
    for workers in ("0", "2"):
        assert main([*words, "-o", str(tmp_path / workers), "--workers", workers]) == 0
    assert tree(tmp_path / "0") == tree(tmp_path / "2")


def test_other_options_in_the_same_output_are_refused(
    model: FakeBackbone, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["batch", str(photos), "-q", "dog", "-o", str(tmp_path / "out"), "--workers", "0"]
    assert main(words) == 0
    before = tree(tmp_path / "out")
    for more, what in ((["--samples", "3"], "contrast"), (["--no-refine"], "refine"),
                       (["--format", "rle"], "formats"),
                       (["-q", "ball"], "queries")):  # fmt: skip
        capsys.readouterr()
        assert main([*words, *more]) == 2
        message = capsys.readouterr().err
        assert f"with another {what}" in message and message.count("\n") == 1
    assert main([*words[:1], str(photos / "sub"), *words[2:]]) == 2
    assert tree(tmp_path / "out") == before


def test_the_last_line_counts_the_masks_and_the_empty_ones(
    model: FakeBackbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(draw(tmp_path / "one.png", 1))
    at = ["-o", str(tmp_path / "one"), "--workers", "0", "--min-presence", "0.4"]
    assert main(["batch", photo, "-q", "dog", *at]) == 0
    assert capsys.readouterr().out.startswith("1 image, 1 mask: ")
    at[1] = str(tmp_path / "three")
    words = ["batch", photo, "-q", "dog", "-q", "a boat", "-q", "a unicorn", *at]
    assert main(words) == 0
    areas = [np.asarray(Image.open(path)).sum() for path in (tmp_path / "three").glob("*.png")]
    assert len(areas) == 3 and areas.count(0) == 2
    assert capsys.readouterr().out.startswith("1 image, 3 masks (2 empty): ")
    assert main([*words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["masks"], summary["empty"]) == (3, 2)


def test_a_second_call_does_nothing_again(
    model: FakeBackbone, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["batch", str(photos), "-q", "dog", "-o", str(tmp_path / "out"), "--workers", "0"]
    assert main(words) == 0
    before, calls = tree(tmp_path / "out"), model.encoded
    draw(photos / "new.png", 11)
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done_before"] == 4
    assert model.encoded == calls + 1
    after = tree(tmp_path / "out")
    assert all(after[name] == data for name, data in before.items() if name.endswith(".png"))
    # An output inside the source is not taken for more images.
    inside = ["batch", str(photos), "-q", "dog", "-o", str(photos / "out"), "--workers", "0"]
    assert main(inside) == 0
    assert main([*inside, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 5


def test_a_torn_last_line_is_done_again(model: FakeBackbone, photos: Path, tmp_path: Path) -> None:
    words = ["batch", str(photos), "-q", "dog", "-o", str(tmp_path / "out"), "--workers", "0"]
    assert main(words) == 0
    before = tree(tmp_path / "out")
    journal = tmp_path / "out" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    model.encoded = 0
    assert main(words) == 0
    assert model.encoded == 1
    assert tree(tmp_path / "out") == before
    journal.write_bytes(journal.read_bytes().replace(b'"part"', b'"pa\n"', 1))
    assert main(words) == 2


SLOW = """
import sys, time
import textseg.backbone
from fake_backbone import FakeBackbone
from textseg.cli import main

class Slow(FakeBackbone):
    def encode(self, image):
        time.sleep(0.05)
        return super().encode(image)

textseg.backbone.load = lambda *_, **__: Slow({"dog": (0.25, 0.1, 0.75, 0.4)})
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.timeout(300)
def test_a_killed_run_goes_on_and_repeats_nothing(model: FakeBackbone, tmp_path: Path) -> None:
    folder, out, whole = tmp_path / "in", tmp_path / "out", tmp_path / "whole"
    names = [f"{seed:02d}.png" for seed in range(40)]
    for seed, name in enumerate(names):
        draw(folder / name, seed)
    words = ["batch", str(folder), "-q", "dog", "--no-refine", "--workers"]
    environment = os.environ | {"PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'tests'}"}
    journal = out / "journal.jsonl"
    run = subprocess.Popen([sys.executable, "-c", SLOW, *words, "1", "-o", str(out)],
                           env=environment, stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
            assert run.poll() is None
            time.sleep(0.005)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    kept = journal.read_bytes()
    done = kept.count(b"\n")
    assert 3 <= done < len(names)
    assert main([*words, "0", "-o", str(out)]) == 0
    assert main([*words, "0", "-o", str(whole)]) == 0
    lines = journal.read_bytes().splitlines(keepends=True)
    assert lines[:done] == kept.splitlines(keepends=True)[:done]
    assert sorted(json.loads(line)["name"] for line in lines) == names
    assert model.encoded == 2 * len(names) - done
    assert tree(out) == tree(whole)


def test_two_runs_at_one_output_are_refused(tmp_path: Path) -> None:
    with Journal(Folder(str(tmp_path)), {}), pytest.raises(OutputError, match="another run"):
        Journal(Folder(str(tmp_path)), {})


def test_memory_holds_a_few_images_only(model: FakeBackbone, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 0)
    plan = make_plan([str(tmp_path / "a.png")], ["dog"])
    taken = 0

    def items() -> Any:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield plan.items[0]

    records = run_local(Job(output=str(tmp_path / "out"), formats=()), items(), workers=0)
    for done in range(1, 20):
        next(records)
        assert taken <= done + 4
    records.close()


def test_manifests(model: FakeBackbone, photos: Path, tmp_path: Path) -> None:
    lines = tmp_path / "list.jsonl"
    lines.write_text(
        json.dumps({"image": "photos/b.png", "queries": ["the dog", "a ball"]}) + "\n\n"
        + json.dumps({"image": str(photos / "a.png"), "query": "dog", "caption": "a dog"}) + "\n"
        + json.dumps({"path": "photos/sub/deep/c.png"}) + "\n"
    )  # fmt: skip
    plan = make_plan([str(lines)], ["a boat"])
    assert [item.queries for item in plan.items] == [("the dog", "a ball"), ("dog",), ("a boat",)]
    assert [item.image_id for item in plan.items] == [1, 2, 3]
    assert plan.items[1].caption == "a dog"
    assert plan.items[1].stem == str(photos / "a")[1:]
    assert plan.categories == {1: "the dog", 2: "a ball", 3: "dog", 4: "a boat"}
    out = tmp_path / "out"
    assert main(["batch", str(lines), "-q", "a boat", "-o", str(out), "--workers", "0"]) == 0
    assert (out / "photos/b.the-dog.mask.png").is_file()
    assert (out / "photos/sub/deep/c.a-boat.mask.png").is_file()

    table = tmp_path / "list.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["Image", "query"], ["photos/b.png", "the dog|a ball"], ["photos/a.png", "dog"],
             ["photos/b.png", "the dog"], ["photos/b.png", "a boat"]]
        )  # fmt: skip
    plan = make_plan([str(table)])
    assert [(item.name, item.queries) for item in plan.items] == [
        ("photos/b.png", ("the dog", "a ball", "a boat")), ("photos/a.png", ("dog",))]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"image": "a.png"\n', "JSON lines.*line 1"),
        ("x.jsonl", '{"queries": ["dog"]}\n', "name an image.*line 1"),
        ("x.jsonl", '{"image": "a.png"}\n', "queries must be given"),
        ("x.jsonl", '{"image": "a.png", "queries": [3]}\n', "queries must be texts"),
        ("x.csv", "file,what\n,\n", "name an image"),
        ("x.csv", "", "at least one image"),
        ("x.json", "[1]", "COCO's format"),
        ("x.json", '{"images": [{"id": 1}]}', "has no 'file_name'"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        make_plan([str(tmp_path / name)])


@pytest.mark.parametrize(
    "words",
    [
        ["nowhere", "-q", "dog"],
        ["photos"],
        ["photos", "-q", "?"],
        ["photos/*.xyz", "-q", "dog"],
        ["photos", "-q", "dog", "--workers", "-1"],
        ["photos", "-q", "dog", "--format", "none,mask"],
        ["photos", "-q", "dog", "--actors", "2"],
        ["photos", "-q", "dog", "--level", "7"],
        ["photos", "-q", "dog", "-o", "photos/b.png"],
    ],
)
def test_bad_usage_is_2_in_one_line(
    photos: Path, words: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(photos.parent)
    assert main(["batch", *words, *([] if "-o" in words else ["-o", "out"])]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_names_never_lead_out_of_the_output(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 0)
    (tmp_path / "in").mkdir()
    rows = [{"image": "../a.png"}, {"image": "s3://bucket/k/../../a.png?x=1"}]
    (tmp_path / "in" / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = make_plan([str(tmp_path / "in" / "x.jsonl")], ["dog"])
    assert [item.stem for item in plan.items] == ["a", "bucket/k/a"]


def test_coco_files_ask_for_what_is_there(photos: Path, tmp_path: Path) -> None:
    data = {
        "images": [{"id": 40, "file_name": "b.png"}, {"id": 7, "file_name": "sub/deep/c.png"},
                   {"id": 9, "file_name": "a.png"}],
        "annotations": [{"image_id": 40, "category_id": 18}, {"image_id": 40, "category_id": 3},
                        {"image_id": 40, "category_id": 18}, {"image_id": 7, "category_id": 18}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
    }  # fmt: skip
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(data))
    plan = make_plan([str(path)], images=str(photos))
    assert [(item.image_id, item.queries, item.categories) for item in plan.items] == [
        (7, ("dog",), (18,)), (40, ("dog", "car"), (18, 3))]  # fmt: skip
    assert plan.unasked == 1
    plan = make_plan([str(path)], ["the dog", "a boat"], images=str(photos))
    assert [item.categories for item in plan.items] == [(18, 19)] * 3
    assert plan.categories == {18: "dog", 3: "car", 19: "a boat"}


def test_globs(photos: Path) -> None:
    names = [item.name for item in make_plan([str(photos / "**" / "*.png")], ["dog"]).items]
    assert {"a.png", "b.png", "sub/deep/c.png"} <= set(names)
    assert [item.name for item in make_plan([str(photos / "?.bmp")], ["dog"]).items] == ["a.bmp"]


def test_captions_of_manifests_are_used(model: FakeBackbone, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(
        json.dumps({"image": "photos/b.png", "query": "dog", "caption": "a dog and a ball"})
    )
    out = tmp_path / "out"
    words = ["batch", str(tmp_path / "x.jsonl"), "-o", str(out), "--workers", "0"]
    assert main([*words, "--reference", "erase"]) == 0
    made = Segmentation.load(out / "photos/b.dog.mask.png")
    assert made.prompts[0] == "a dog and a ball"


def test_a_store_is_read_and_written_through_fsspec(
    model: FakeBackbone, photos: Path, tmp_path: Path
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    store = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}"
    store.put(str(photos), f"{root}/photos", recursive=True)
    words = ["batch", f"memory:/{root}/photos", "-q", "dog", "--workers", "0"]
    assert main([*words, "-o", f"memory:/{root}/out", "--format", "mask,coco"]) == 0
    assert main(["batch", str(photos), *words[2:], "-o", str(tmp_path / "out"), "--format",
                 "mask,coco"]) == 0  # fmt: skip
    local = tree(tmp_path / "out")
    for name, data in local.items():
        if name.endswith(".png") or name == "coco_results.json":
            assert store.cat_file(f"{root}/out/{name}") == data
    calls = model.encoded
    assert main([*words, "-o", f"memory:/{root}/out", "--format", "mask,coco"]) == 0
    assert model.encoded == calls
    assert main([*words, "-o", f"memory:/{root}/out"]) == 2
    out = tmp_path / "file"
    assert main(["batch", f"file://{photos}", *words[2:], "-o", f"file://{out}"]) == 0
    assert (out / "sub/deep/c.dog.mask.png").is_file()


def test_rows_of_a_failure_have_the_columns_of_a_result(tmp_path: Path) -> None:
    job = Job(output=str(tmp_path), formats=("mask", "rle"))
    item = make_plan([str(draw(tmp_path / "a.png", 0))], ["dog"]).items[0]
    finisher = Finisher(job)
    failed = load(job, make_plan([str(tmp_path / "a.png")], ["dog"]).items[0])
    assert isinstance(failed, Loaded)
    (tmp_path / "a.png").write_bytes(b"")
    broken = finisher.finish(load(job, item))  # pyright: ignore[reportArgumentType]
    assert broken["part"] == "failed"
    (row,) = rows(job, item, broken)
    assert {"mask_file", "rle_file", "rle", "error"} <= set(row)


def test_line_ends_inside_a_manifests_texts(tmp_path: Path) -> None:
    odd = "a\u2028b\u0085c\u2029d.png"
    rows = [{"image": odd, "query": "the dog"}, {"image": "b.png", "query": "a\u000bball"}]
    text = "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "x.jsonl").write_bytes(text.encode())
    plan = make_plan([str(tmp_path / "x.jsonl")])
    assert [Path(item.source).name for item in plan.items] == [odd, "b.png"]
    for end in ("\n", "\r\n", "\r"):
        text = end.join(["\ufeffimage,query", f'"{odd}",the dog', '"c\nd.png","a\u2028ball"', ""])
        (tmp_path / "x.csv").write_bytes(text.encode())
        plan = make_plan([str(tmp_path / "x.csv")])
        assert [(item.name, item.queries) for item in plan.items] == [
            (odd, ("the dog",)), ("c\nd.png", ("a\u2028ball",))]  # fmt: skip


def test_every_format_that_pillow_reads_is_taken(
    model: FakeBackbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    names = ["a.jfif", "b.jpe", "c.PPM", "d.pgm", "e.pnm", "f.tga", "g.JPG", "h.dib"]
    for seed, name in enumerate(names):
        draw(folder / "plain.png", seed)
        with Image.open(folder / "plain.png") as picture:
            kind = {".jfif": "JPEG", ".jpe": "JPEG", ".JPG": "JPEG", ".tga": "TGA", ".dib": "DIB"}
            picture.save(folder / name, kind.get(Path(name).suffix, "PPM"))
    (folder / "plain.png").unlink()
    for name in ("notes.txt", "more.TXT", "drawing.eps", "film.mpg", "paper.pdf", "README"):
        (folder / name).write_text("no picture")
    out = tmp_path / "out"
    words = ["batch", str(folder), "-q", "dog", "-o", str(out), "--workers", "0"]
    assert main(words) == 0
    assert [row["name"] for row in read_rows(out)] == sorted(names)
    assert capsys.readouterr().out == (
        "8 images, 8 masks (left out 6 files: 2 .txt, 1 without suffix, 1 .eps, 1 .mpg, 1 .pdf): "
        f"{out}/index.jsonl\n"
    )
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"][".txt"] == 2
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.heif-like").touch()
    with pytest.raises(InputError, match=r"at least one image.*1 file: 1 \.heif-like left out"):
        make_plan([str(tmp_path)], ["dog"])


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    root, other = tmp_path / "photos", tmp_path / "other"
    draw(root / "own" / "a.png", 0)
    draw(other / "deep" / "b.png", 1)
    draw(other / ".hidden" / "c.png", 2)
    draw(tmp_path / "outside.png", 3)
    links = {"again": root / "own", "loop": root, "up": tmp_path, "a-far": other,
             "far-too": other / "deep", "gone": tmp_path / "none"}  # fmt: skip
    try:
        for name, target in links.items():
            (root / name).symlink_to(target, target_is_directory=True)
        (other / "back").symlink_to(root, target_is_directory=True)
        (root / "one.png").symlink_to(tmp_path / "outside.png")
    except OSError:
        pytest.skip("links cannot be made here")
    names = [item.name for item in make_plan([str(root)], ["dog"]).items]
    assert names == ["a-far/deep/b.png", "one.png", "own/a.png"]
