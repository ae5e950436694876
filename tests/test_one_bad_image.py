"""What goes wrong with one image, at any stage and of any kind, never stops the work on others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_tools import box, rle_of, write_set
from fake_backbone import FakeBackbone
from PIL import Image

from textseg.cli import main
from textseg.errors import OutputError, TextsegError
from textseg.faults import LOG, VARIABLE, Guard
from textseg.records import RecordFile
from textseg.segmenter import Segmenter
from textseg.workers import spread
from textseg_eval.methods import Answer, Method
from textseg_eval.results import load_results

REPO = Path(__file__).parent.parent
DOG = (0.25, 0.1, 0.75, 0.4)
STAGES = {"decode": "IndexError", "predict": "StopIteration", "refine": "MemoryError",
          "save": "KeyError"}  # fmt: skip
"""Each with a kind of exception that nobody foresees there."""
BAD = "sub/b.png"


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> FakeBackbone:
    """Stands in for every model that a command loads."""
    backbone = FakeBackbone({"dog": DOG, "ball": (0.5, 0.6, 1.0, 0.9)})
    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: backbone)
    return backbone


def picture(path: Path, seed: int, size: tuple[int, int] = (48, 80)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 255, (size[0] // 8, size[1] // 8, 3))
    Image.fromarray(np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for seed, name in enumerate(["a.png", BAD, "sub/c.png", "sub/d.png", "sub/e.png"]):
        picture(folder / name, seed, (48, 80) if seed % 2 else (64, 40))
    return folder


def tree(out: Path, *without: str) -> dict[str, bytes]:
    """All files but the journal, in the order of finishing, and logs, which hold times."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name not in ("journal.jsonl", LOG, *without)
    }


def index(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]


INDEX = ("index.jsonl", "index.parquet", "coco_results.json", "coco_images.json")


def check_log(path: Path, image: str, stage: str, said: str) -> None:
    """The log has an entry with the image, the stage, what was said and the traceback."""
    entries = path.read_text().split("\n\n")
    entry = next(entry for entry in entries if f" {image}, {stage}: {said}\n" in entry)
    assert "Traceback (most recent call last):" in entry and "in _inject" in entry


# -- textseg batch ---------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("stage", STAGES)
def test_batch(
    model: FakeBackbone,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    workers: str,
) -> None:
    words = ["batch", str(photos), "-q", "dog", "--workers", workers, "-o"]
    out, clean, kind = tmp_path / "out", tmp_path / "clean", STAGES[stage]
    assert main([*words, str(clean)]) == 0
    assert not (clean / LOG).exists()
    capsys.readouterr()
    said = f"{kind}: " + ("'injected at save'" if kind == "KeyError" else f"injected at {stage}")
    monkeypatch.setenv(VARIABLE, f"{stage}:{BAD}:{kind}")
    assert main([*words, str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.err == f"textseg: error: {photos / BAD}: {said}\n"
    assert f"(1 failed, tracebacks in {LOG})" in printed.out
    assert {row["name"]: row["error"] for row in index(out) if row["error"]} == {BAD: said}
    check_log(out / LOG, BAD, stage, said)
    kept, whole = tree(out, *INDEX), tree(clean, *INDEX)
    assert kept == {name: data for name, data in whole.items() if "sub/b." not in name}
    assert [row for row in index(out) if not row["error"]] == [
        row for row in index(clean) if row["name"] != BAD
    ]
    # It fails again, and then no more: nothing else is done again.
    assert main([*words, str(out)]) == 1
    assert (out / LOG).read_text().count(f" {BAD}, {stage}: ") == 2
    monkeypatch.delenv(VARIABLE)
    model.encoded = 0
    assert main([*words, str(out), "--json"]) == 0
    assert model.encoded == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["log"] == ""
    assert tree(out) == tree(clean)


# -- textseg segment, textseg caption ----------------------------------------------------------


@pytest.mark.parametrize("stage", ["decode", "predict", "save"])
def test_segment(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], stage: str,
) -> None:  # fmt: skip
    bad = photos / BAD
    words = ["segment", str(photos / "a.png"), str(bad), str(photos / "sub/c.png"), "-q", "dog"]
    monkeypatch.setenv(VARIABLE, f"{stage}:{bad}:IndexError")
    assert main([*words, "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert (
        said == f"textseg: error: {bad}: IndexError: injected at {stage}; --verbose shows where\n"
    )
    assert sorted(tree(tmp_path / "out")) == ["a.dog.mask.png", "c.dog.mask.png"]
    assert main([*words, "-o", str(tmp_path / "out"), "-v", "--json"]) == 1
    printed = capsys.readouterr()
    assert "Traceback (most recent call last):" in printed.err and "in _inject" in printed.err
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row.get("error") for row in rows] == [
        None,
        f"{bad}: IndexError: injected at {stage}",
        None,
    ]
    assert main(["segment", str(bad), "-q", "dog", "-o", str(tmp_path / "dog.png")]) == 2


def test_caption(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["caption", str(photos / "a.png"), str(photos / BAD), str(photos / "sub/c.png")]
    monkeypatch.setenv(VARIABLE, f"predict:{photos / BAD}:StopIteration")
    assert main([*words, "--nouns", "dog,ball"]) == 1
    printed = capsys.readouterr()
    assert f"textseg: error: {photos / BAD}: StopIteration: injected" in printed.err
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == [words[1], words[3]]


# -- workers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("stage", ["refine", "save"])
def test_a_worker_that_dies_costs_its_image_alone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], stage: str, workers: str,
) -> None:  # fmt: skip
    words = ["batch", str(photos), "-q", "dog", "--workers", workers, "-o"]
    out, clean = tmp_path / "out", tmp_path / "clean"
    assert main([*words, str(clean)]) == 0
    monkeypatch.setenv(VARIABLE, f"{stage}:{BAD}:SIGKILL")
    capsys.readouterr()
    assert main([*words, str(out)]) == 1
    said = "two workers died at it (exit code -9)"
    assert capsys.readouterr().err == f"textseg: error: {photos / BAD}: {said}\n"
    assert {row["name"]: row["error"] for row in index(out) if row["error"]} == {BAD: said}
    kept, whole = tree(out, *INDEX), tree(clean, *INDEX)
    assert kept == {name: data for name, data in whole.items() if "sub/b." not in name}
    monkeypatch.delenv(VARIABLE)
    assert main([*words, str(out)]) == 0
    assert tree(out) == tree(clean)


def _dies_once(marks: Path) -> Callable[[int], int]:
    """Squares; the first process that is asked for 3 dies, and any that is asked for 7."""

    def answer(task: int) -> int:
        (marks / f"{task}.{os.getpid()}").touch()
        if task == 7 or (task == 3 and len(list(marks.glob("3.*"))) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return task**2

    return answer


def _stillborn(_: object) -> Callable[[int], int]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.parametrize("workers", [1, 3])
def test_what_a_dead_worker_held_is_done_once_more(tmp_path: Path, workers: int) -> None:
    lost: list[int] = []
    answers = spread(_dies_once, tmp_path, range(1, 10), workers, lambda n, _: lost.append(n) or -n)
    assert sorted(answers) == sorted([-7, *(n**2 for n in range(1, 10) if n != 7)])
    assert lost == [7]
    tried = [path.name.partition(".")[0] for path in tmp_path.iterdir()]
    assert {n: tried.count(str(n)) for n in (3, 7)} == {3: 2, 7: 2}
    assert len(tried) == 11
    (tmp_path / "more").mkdir()
    with pytest.raises(TextsegError, match=r"exit code -9.*same command again"):
        list(spread(_dies_once, tmp_path / "more", range(1, 10), workers))


def test_workers_that_die_before_they_begin_end_the_work() -> None:
    with pytest.raises(TextsegError, match="exit code -9"):
        list(spread(_stillborn, None, range(5), 1, lambda n, _: n))


@pytest.mark.parametrize(
    ("kind", "code"), [("KeyboardInterrupt", 130), ("CancelledError", 2), ("ModelError", 2)]
)
@pytest.mark.parametrize("stage", STAGES)
def test_what_concerns_the_whole_run_stops_it(
    model: FakeBackbone,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    kind: str,
    code: int,
) -> None:
    words = ["batch", str(photos), "-q", "dog", "--workers", "0", "-o", str(tmp_path / "out")]
    monkeypatch.setenv(VARIABLE, f"{stage}:sub/e.png:{kind}")
    assert main(words) == code
    assert not (tmp_path / "out" / "index.jsonl").exists()
    monkeypatch.delenv(VARIABLE)
    assert main(words) == 0
    with RecordFile(tmp_path / "out" / "journal.jsonl", read_only=True) as journal:
        assert len(journal) == 5 and not journal.failed


def test_a_journal_that_cannot_be_written_stops_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError("cannot write 'journal.jsonl': No space left on device")

    monkeypatch.setattr(RecordFile, "append", full)
    words = ["batch", str(photos), "-q", "dog", "--workers", "0", "-o", str(tmp_path / "out")]
    assert main(words) == 2


def test_batch_in_a_store(
    model: FakeBackbone, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    out = f"memory://{tmp_path.name}/out"
    words = ["batch", str(photos), "-q", "dog", "--workers", "0", "-o", out]
    monkeypatch.setenv(VARIABLE, "predict:a.png:TypeError,refine:sub/e.png:TypeError")
    try:
        assert main(words) == 1
        monkeypatch.setenv(VARIABLE, "refine:sub/e.png:TypeError")
        assert main(words) == 1
        logs = [
            store.cat_file(path).decode() for path in store.find(f"/{tmp_path.name}/out/errors")
        ]
        assert len(logs) == 2 and all("Traceback" in text for text in logs)
        monkeypatch.delenv(VARIABLE)
        model.encoded = 0
        assert main(words) == 0 and main(words) == 0
        assert model.encoded == 1
    finally:
        store.rm(f"/{tmp_path.name}", recursive=True)


@pytest.mark.timeout(300)
def test_batch_on_ray(
    photos: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray.data", reason="Ray is not installed")
    words = [sys.executable, "-m", "textseg", "batch", str(photos), "-q", "dog", "--model",
             str(tiny_folder), "--device", "cpu", "--threads", "1", "--samples", "1",
             "--workers", "1"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    environment.pop("RAY_ADDRESS", None)
    broken = dict(zip(STAGES, ("a.png", "sub/b.png", "sub/c.png", "sub/d.png"), strict=True))
    faults = ",".join(f"{stage}:{broken[stage]}:{STAGES[stage]}" for stage in STAGES)
    out, clean = tmp_path / "out", tmp_path / "clean"

    def run(folder: Path, *more: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*words, "-o", str(folder), *more], env=environment | extra,
                              capture_output=True, text=True)  # fmt: skip

    assert run(clean).returncode == 0
    failed = run(out, "--ray", **{VARIABLE: faults})
    assert failed.returncode == 1, failed.stderr
    assert f"(4 failed, tracebacks in {LOG})" in failed.stdout
    errors = {row["name"]: row["error"] for row in index(out) if row["error"]}
    assert set(errors) == set(broken.values())
    for stage, name in broken.items():
        assert errors[name].startswith(f"{STAGES[stage]}: ") and stage in errors[name]
        check_log(out / LOG, name, stage, errors[name])
    kept = tree(out, *INDEX, "run.json")
    assert kept and kept.items() <= tree(clean).items()
    assert {name.partition(".")[0] for name in kept} == {"sub/e"}
    before = (out / "journal.jsonl").read_bytes()
    assert run(out, "--ray").returncode == 0
    again = (out / "journal.jsonl").read_bytes().removeprefix(before).splitlines()
    assert sorted(json.loads(line)["name"] for line in again) == sorted(broken.values())
    assert tree(out) == tree(clean)


# -- names and texts that are not UTF-8 ------------------------------------------------------


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_batch_of_names_that_are_not_utf8(photos: Path, tmp_path: Path, workers: str) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (photos / "a.png").rename(photos / name)
    except OSError:
        pytest.skip("the file system takes only names that are UTF-8")
    out = tmp_path / "out"
    words = ["batch", str(photos), "-q", "dog", "--workers", workers, "-o", str(out)]
    assert main([*words, "--format", "mask,rle,polygon,coco,npz"]) == 0
    rows = {row["name"]: row for row in index(out)}
    assert len(rows) == 5 and rows[name]["error"] is None
    data = json.loads((out / rows[name]["coco_file"]).read_bytes())
    assert data["images"][0]["file_name"] == name
    assert json.loads((out / "coco_images.json").read_text())["images"][0]["file_name"] == name


def test_texts_that_no_encoding_takes_fail_alone(
    tiny_folder: Path, tiny_image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.undo()
    Image.fromarray(tiny_image).save(tmp_path / "a.png")
    Image.fromarray(tiny_image[:, ::-1]).save(tmp_path / "b.png")
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(
        '{"image": "a.png", "queries": ["dog", "a \\udc80"]}\n'
        '{"image": "b.png", "query": "dog"}\n'
        '{"image": "\\ud800.png", "query": "dog"}\n'
    )
    out = tmp_path / "out"
    words = ["batch", str(manifest), "--model", str(tiny_folder), "--device", "cpu", "-o", str(out)]
    assert main([*words, "--workers", "0", "--samples", "1", "--format", "coco"]) == 1
    assert capsys.readouterr().err.count("\n") == 2
    errors = {row["name"]: row["error"] for row in index(out)}
    assert errors["b.png"] is None
    assert errors["a.png"] and errors["\ud800.png"]


# -- textseg eval ----------------------------------------------------------------------------


class Shades(Method):
    """An image's brightness as the score: the best threshold depends on the images."""

    name = "shades"

    def __call__(self, image: np.ndarray, queries: Sequence[str]) -> Answer:
        score = image.mean(axis=2, dtype=np.float32) / 255
        return Answer(np.repeat(score[None], len(queries), axis=0))


@pytest.fixture
def coco(tmp_path: Path) -> list[str]:
    marks = [(n, 1 + n % 2, rle_of(box(20 + n, 31, 2, n, 14, n + 12)), 0) for n in range(1, 9)]
    sizes = {n: (20 + n, 31) for n in range(1, 9)}
    images, annotations = write_set(tmp_path / "set", sizes, marks, {1: "dog", 2: "ball"})
    data = json.loads(annotations.read_text())
    for mark in data["annotations"]:
        mark["caption"] = "the thing"
    annotations.write_text(json.dumps(data))
    return ["--images", str(images), "--annotations", str(annotations)]


@pytest.fixture
def folder(tmp_path: Path, coco: list[str]) -> list[str]:
    masks = tmp_path / "masks"
    masks.mkdir()
    for n in range(1, 9):
        Image.fromarray(box(20 + n, 31, 2, n, 14, n + 12)).save(masks / f"{n}.png")
    return ["--images", coco[1], "--masks", str(masks), "--query", "dog"]


def settled(run: Path) -> dict[str, Any]:
    """The results without what depends on the machine and the command."""
    machine = ("name", "time", "versions", "command")
    return {k: v for k, v in load_results(run).items() if k not in machine}


def lines(run: Path) -> dict[Any, dict[str, Any]]:
    """The records of a run by image, without their times."""
    with RecordFile(run / "per_image.jsonl", read_only=True) as file:
        return {
            record["image_id"]: {k: v for k, v in record.items() if "seconds" not in k}
            for record in file.records()
        }


@pytest.mark.parametrize("command", ["coco", "refer", "folder"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_eval(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    workers: str,
) -> None:
    data = request.getfixturevalue("folder" if command == "folder" else "coco")
    out, clean = tmp_path / "out", tmp_path / "clean"
    words = ["eval", command, *data, "--method", "centre-box", "--fixed-threshold", "own",
             "--replicates", "9", "--workers", workers, "-o"]  # fmt: skip
    assert main([*words, str(clean)]) == 0
    broken = {"decode": "2.png", "ask": "3.png", "predict": "5.png", "score": "8.png"}
    kinds = dict(zip(broken, STAGES.values(), strict=True))
    said = {stage: f"{kind}: injected at {stage}" for stage, kind in kinds.items()}
    said["score"] = "KeyError: 'injected at score'"
    faults = ",".join(f"{stage}:{name}:{kinds[stage]}" for stage, name in broken.items())
    monkeypatch.setenv(VARIABLE, faults)
    capsys.readouterr()
    assert main([*words, str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("textseg: error: ") == 1 and "4 of 8 images failed" in printed.err
    assert str(out / LOG) in printed.err
    results = load_results(out)
    assert results["counts"]["failed"] == 4 and results["counts"]["scored"] == 4
    failures = {f["stage"]: (f["file_name"], f["error"]) for f in results["failures"]}
    page = (out / "report.html").read_text()
    for stage, name in broken.items():
        assert failures[stage] == (name, said[stage])
        assert f"not scored: {name}: {said[stage]}" in printed.out
        assert f"Not scored: {name}: {kinds[stage]}" in page
        check_log(out / LOG, name, stage, said[stage])
    whole, part = lines(clean), lines(out)
    good = {key: record for key, record in part.items() if "error" not in record}
    assert len(good) == 4 and good.items() <= whole.items()
    monkeypatch.delenv(VARIABLE)
    before = (out / "per_image.jsonl").read_bytes()
    assert main([*words, str(out)]) == 0
    again = (out / "per_image.jsonl").read_bytes().removeprefix(before).splitlines()
    assert sorted(json.loads(line)["file_name"] for line in again) == sorted(broken.values())
    assert settled(out) == settled(clean)
    assert lines(out) == whole


def test_a_calibration_image_that_failed_moves_the_threshold_of_all(
    coco: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textseg_eval.workers.build", lambda spec: Shades())
    clean, out = tmp_path / "clean", tmp_path / "out"
    words = ["eval", "coco", *coco, "--calibration", "0.5", "--replicates", "9", "-o"]
    assert main([*words, str(clean)]) == 0
    parts = {key: record["part"] for key, record in lines(clean).items()}
    faults = [f"predict:{key}.png:IndexError" for key, part in parts.items() if part != "test"][1:]
    monkeypatch.setenv(VARIABLE, ",".join(faults))
    assert main([*words, str(out)]) == 1
    assert load_results(out)["counts"]["failed_in_calibration"] == len(faults) > 0
    assert load_results(out)["threshold"] != load_results(clean)["threshold"]
    monkeypatch.delenv(VARIABLE)
    assert main([*words, str(out)]) == 0
    assert settled(out) == settled(clean)
    assert lines(out) == lines(clean)


@pytest.mark.parametrize("rule", ["own", "calibrate"])
def test_an_eval_in_which_every_image_fails_says_so(
    coco: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], rule: str,
) -> None:  # fmt: skip
    words = ["eval", "coco", *coco, "--fixed-threshold", rule, "--replicates", "9", "-o"]
    monkeypatch.setenv(VARIABLE, "predict:*:TypeError")
    assert main([*words, str(tmp_path / "out"), "--method", "centre-box"]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("none could be scored") == 1
    results = load_results(tmp_path / "out")
    assert results["counts"]["scored"] == 0 and not results["figures"]
    # Another method of the same command is measured all the same.
    monkeypatch.setenv(VARIABLE, "decode:*:TypeError")
    both = ["--method", "centre-box", "--method", "grabcut", "--method", "truth"]
    assert main([*words, str(tmp_path / "some"), *both]) == 1
    assert load_results(tmp_path / "some" / "truth")["figures"]
    monkeypatch.delenv(VARIABLE)
    assert main([*words, str(tmp_path / "out"), "--method", "centre-box"]) == 0


def test_sweep_and_compare_say_what_is_left_out(
    coco: list[str], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.undo()
    out = tmp_path / "sweep"
    words = ["eval", "sweep", *coco, "--model", str(tiny_folder), "--device", "cpu", "--samples",
             "1", "--no-crf", "--vary", "threshold=otsu", "--fixed-threshold", "own",
             "--replicates", "9", "-o", str(out)]  # fmt: skip
    monkeypatch.setenv(VARIABLE, "predict:3.png:IndexError")
    assert main(words) == 1
    printed = capsys.readouterr()
    assert printed.err.count("1 of 8 images failed") == 2
    told = "threshold=otsu: 1 images failed and are left out"
    assert told in printed.out and told in (out / "sweep.md").read_text()
    assert told in (out / "report.html").read_text()
    assert [row["failed"] for row in json.loads((out / "sweep.json").read_text())["rows"]] == [1, 1]
    page = tmp_path / "page.html"
    compare = ["eval", "compare", str(out / "base"), str(out / "threshold=otsu"), "-o", str(page)]
    assert main(compare) == 0
    assert told in capsys.readouterr().out and told in page.read_text()
    monkeypatch.delenv(VARIABLE)
    assert main(words) == 0
    assert "left out" not in (out / "sweep.md").read_text()


def test_eval_edit(
    model: FakeBackbone, coco: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, clean = tmp_path / "out", tmp_path / "clean"
    words = ["eval", "edit", *coco, "--swap", "dog=a cat", "--swap", "ball=a boat", "--method",
             "reconstruct,sdedit", "--ratio", "0.5", "--steps", "2", "--draws", "1",
             "--save-images", "-o"]  # fmt: skip
    assert main([*words, str(clean)]) == 0
    broken = {"decode": "2.png", "edit": "3.png", "save": "5.png", "score": "8.png"}
    kinds = dict(zip(broken, STAGES.values(), strict=True))
    faults = ",".join(f"{stage}:{name}:{kinds[stage]}" for stage, name in broken.items())
    monkeypatch.setenv(VARIABLE, faults)
    capsys.readouterr()
    assert main([*words, str(out)]) == 1
    told = capsys.readouterr().err.splitlines()
    results = json.loads((out / "results.json").read_text())
    assert (results["images"], results["failed"], len(told)) == (4, 4, 4)
    failures = {f["stage"]: f for f in results["failures"]}
    for stage, name in broken.items():
        assert failures[stage]["file_name"] == name
        assert failures[stage]["error"].startswith(f"{kinds[stage]}: ")
        check_log(out / LOG, name, stage, failures[stage]["error"])
        assert f"Not edited: {name}: {kinds[stage]}" in (out / "edit.html").read_text()
    good = {key: record for key, record in lines(out).items() if "error" not in record}
    assert len(good) == 4 and good.items() <= lines(clean).items()
    assert main(["eval", "compare", str(clean), str(out)]) == 0
    assert "out: 4 images failed and are left out" in capsys.readouterr().out
    monkeypatch.delenv(VARIABLE)
    before = (out / "per_image.jsonl").read_bytes()
    assert main([*words, str(out)]) == 0
    again = (out / "per_image.jsonl").read_bytes().removeprefix(before).splitlines()
    assert sorted(json.loads(line)["file_name"] for line in again) == sorted(broken.values())
    assert (
        json.loads((out / "results.json").read_text())["rows"]
        == (json.loads((clean / "results.json").read_text())["rows"])
    )
    monkeypatch.setenv(VARIABLE, "decode:*:IndexError")
    assert main([*words, str(tmp_path / "none")]) == 2
    assert "no image could be edited" in capsys.readouterr().err


def test_masks_and_maps_that_cannot_be_read_fail_with_their_image(
    model: FakeBackbone, coco: list[str], folder: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"1": "dog"}))
    (tmp_path / "masks" / "4.png").write_bytes(b"no picture")
    for layout in (["--query", "dog"], ["--labels", str(names), "--protocol", "object"]):
        out = tmp_path / layout[0]
        words = ["eval", "folder", *folder[:4], *layout, "--method", "centre-box",
                 "--fixed-threshold", "own", "--replicates", "9", "-o", str(out)]  # fmt: skip
        assert main(words) == 1
        assert "not scored: 4.png: masks must be pictures" in capsys.readouterr().out
        assert load_results(out)["counts"]["scored"] == 7

    data = json.loads(Path(coco[3]).read_text())
    (tmp_path / "panoptic").mkdir()
    for image in data["images"]:
        ids = np.zeros((image["height"], image["width"], 3), np.uint8)
        ids[2:14, 4:20, 0] = 1
        Image.fromarray(ids).save(tmp_path / "panoptic" / image["file_name"])
    segments = [{"id": 1, "category_id": 1}]
    data["annotations"] = [
        {"image_id": image["id"], "file_name": image["file_name"], "segments_info": segments}
        for image in data["images"]
    ]
    (tmp_path / "panoptic.json").write_text(json.dumps(data))
    (tmp_path / "panoptic" / "4.png").write_bytes(b"no picture")
    words = ["eval", "edit", *coco[:3], str(tmp_path / "panoptic.json"), "--swap", "dog=a cat",
             "--method", "reconstruct", "--draws", "1", "-o", str(tmp_path / "edit")]  # fmt: skip
    assert main(words) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("textseg: error: 4.png: ")
    assert json.loads((tmp_path / "edit" / "results.json").read_text())["images"] == 7


# -- the server ------------------------------------------------------------------------------


def patched(monkeypatch: pytest.MonkeyPatch, place: Any, error: type[Exception]) -> None:
    """Make a function of this process raise."""

    def fail(*_: object, **__: object) -> Any:
        raise error("secret: injected")

    if isinstance(place, str):
        monkeypatch.setattr(place, fail)
    else:
        target, name = place
        monkeypatch.setattr(target, name, fail)


def test_a_disk_that_fills_up_is_one_clear_line_and_what_was_written_stays(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no limit on files on this system")
    path = tmp_path / "records.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = r"cannot write '.*records\.jsonl': File too large"
    file = RecordFile(path)
    file.append({"image_id": 1, "part": "done"})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
        with pytest.raises(OutputError, match=full):
            file.append({"image_id": 2, "part": "done"})
        with pytest.raises(OutputError, match=full):
            file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with RecordFile(path) as again:
        assert 1 in again and 2 not in again
        again.append({"image_id": 2, "part": "done"})


SERVED: dict[str, Callable[[Any], Any]] = {
    "decode": lambda model: "textseg.server.verbs.read_picture",
    "predict": lambda model: (model, "predict"),
    "refine": lambda model: "textseg.segmenter.cut_with",
    "save": lambda model: "textseg.server.verbs._segmentations",
}


@pytest.mark.parametrize("error", [IndexError, StopIteration])
@pytest.mark.parametrize("stage", SERVED)
def test_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stage: str,
    error: type[Exception],
) -> None:  # fmt: skip
    tools = pytest.importorskip("server_tools")
    import base64
    import hashlib

    data = tools.png()
    asked: dict[str, Any] = {"image": base64.b64encode(data).decode(), "query": "the dog"}
    with tools.live(workers=1, scenes=1) as server:
        other = asked | {"image": base64.b64encode(tools.png(seed=1)).decode()}
        clean, aside = (server.post("/v1/segment", each).body for each in (asked, other))
        with monkeypatch.context() as patch:
            patched(patch, SERVED[stage](server.model), error)
            if stage == "predict":
                asked["options"] = {"seed": 5}
            answer = server.post("/v1/segment", asked)
            job = server.post("/v1/segment?async=true", asked).json["links"]
            told = server.ask("GET", job["events"])
            late = server.ask("GET", job["result"])
        assert (answer.status, answer.kind) == (late.status, late.kind) == (500, "failed")
        assert b"secret" not in answer.body + told.body + late.body
        assert b"event: done" in told.body if stage == "save" else b"event: failed" in told.body
        logged = [record for record in caplog.records if record.name == "textseg.server"]
        assert len(logged) == 2
        for record in logged:
            assert record.exc_info
            if stage != "save":
                assert hashlib.sha256(data).hexdigest()[:12] in record.getMessage()
        assert caplog.text.count(f"{error.__name__}: secret: injected") == 2
        assert "textseg_failures_total 2.0" in server.ask("GET", "/metrics").body.decode()
        asked.pop("options", None)
        assert server.post("/v1/segment", other).body == aside
        assert server.post("/v1/segment", asked).body == clean
    caplog.clear()


# -- the studio ------------------------------------------------------------------------------

SHOWN: dict[str, Callable[[Any], Any]] = {
    "decode": lambda model: "textseg.image.load_image",
    "predict": lambda model: (model, "predict"),
    # Not the quick cut, which has no CRF.
    "refine": lambda model: "textseg.refine.crf.DenseCRF.__init__",
    "save": lambda model: "textseg.studio.exports.write_result",
    "show": lambda model: "textseg.studio.display.look",
}


@pytest.mark.parametrize("stage", SHOWN)
def test_studio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stage: str
) -> None:
    gradio = pytest.importorskip("gradio", reason="needs the extra textseg[studio]")
    from textseg.options import RefineOptions
    from textseg.studio import StudioSettings, actions, pictures
    from textseg.studio.controls import ask, open_file
    from textseg.studio.handlers import Handlers
    from textseg.studio.layout import build_page
    from textseg.studio.session import Session

    model = FakeBackbone(
        {"dog": DOG, "ball": (0.5, 0.6, 1.0, 0.9)},
        refine=RefineOptions(min_presence=0.1, crf=True, crf_iterations=2),
    )
    session = Session(model)
    with gradio.Blocks(analytics_enabled=False):
        page = build_page("fake", actions.edit_options(session))
        wiring = Handlers(page, model, StudioSettings())
    toasts: list[str] = []
    monkeypatch.setattr(gradio, "Warning", lambda text, **more: toasts.append(text))
    path = picture(tmp_path / "my park.png", 3)
    opened = pictures.open_file(path, max_pixels=10**6)
    actions.open_picture(session, opened)
    find = wiring.job(ask, clear=page.query)
    list(find(session, "the ball"))
    wiring.settle_now(session)

    with monkeypatch.context() as patch:
        patched(patch, SHOWN[stage](model), IndexError)
        if stage == "decode":
            updates = wiring.step(partial(open_file, max_pixels=10**6))(session, str(path))
        elif stage == "save":
            updates = wiring.save("mask")(session)
        elif stage == "refine":
            list(find(session, "the dog"))
            updates = wiring.settle_now(session)
        else:
            updates = list(find(session, "the dog"))[-1]
            assert page.query in updates and updates[page.query] == "the dog"
            if stage == "show":
                assert "went wrong" in wiring.look(session, "Mask")[page.status]
                assert "went wrong" in wiring.live(session, 0.4)[page.status]
    said = updates[page.status]
    assert "secret" not in said and "Traceback" not in said
    logged = [record for record in caplog.records if record.name.startswith("textseg.studio")]
    assert logged and all(record.exc_info for record in logged)
    assert any("my park.png" in record.getMessage() for record in logged)
    if stage == "refine":
        assert "quick ones: the final cut failed" in said and not toasts
        layer = session.work.layers[1]
        assert layer.settled and actions.ROUGH in layer.result.notes
        assert "approved" in wiring.step(actions.approve)(session)[page.status]
    else:
        assert "Something went wrong inside the studio" in said and toasts
    # Nothing is left locked: the same query goes through, and gives what it gives alone.
    assert not session.busy.locked() and not session.cutting.locked()
    list(find(session, "the dog"))
    if stage in ("refine", "show"):
        wiring.live(session, 0.45)
        wiring.live(session, session.segmenter.refine.level)
    settled = wiring.settle_now(session)
    assert settled == gradio.skip() or "went wrong" not in settled.get(page.status, "")
    layer = session.work.layers[1]
    alone = Segmenter(model).set_image(opened.pixels).query("the dog")
    np.testing.assert_array_equal(layer.mask, alone.mask)
    assert actions.ROUGH not in layer.result.notes


def test_a_job_whose_thread_cannot_start_leaves_nothing_locked(
    model: FakeBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textseg.studio import jobs
    from textseg.studio.actions import Done
    from textseg.studio.session import Session

    session = Session(model)
    with monkeypatch.context() as patch:
        patched(patch, "threading.Thread.start", RuntimeError)
        with pytest.raises(RuntimeError, match="injected"):
            next(jobs.run(session, lambda progress: Done("never")))
    assert list(jobs.run(session, lambda progress: Done("done"))) == [Done("done")]


# -- the guard itself ------------------------------------------------------------------------


class Speechless(Exception):
    """Cannot even be written out."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "said", "traced"),
    [
        (IndexError("no\nrow"), "IndexError: no row", True),
        (MemoryError(), "MemoryError: out of memory", True),
        (OutputError("cannot write 'a':\nfull"), "cannot write 'a': full", False),
        (Speechless(), f"{__name__}.Speechless: <exception str() failed>", True),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"),
         "UnicodeEncodeError: 'utf-8' codec can't encode character '\\udce9' in position 0: "
         "surrogates not allowed", True),
    ],
)  # fmt: skip
def test_any_exception_becomes_a_line(error: Exception, said: str, traced: bool) -> None:
    with Guard("a.png") as guard:
        guard.at("predict")
        raise error
    assert guard.fault.error == said and guard.fault.stage == "predict"
    assert guard.fault.trace.startswith("Traceback") == traced


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_program_passes_the_guard(error: type[BaseException]) -> None:
    with pytest.raises(error), Guard("a.png"):
        raise error
