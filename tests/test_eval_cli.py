"""`textseg eval`: subcommands, other data formats, reports, comparisons."""

import json
import pickle
from html.parser import HTMLParser

import numpy as np
import pytest
from eval_tools import box, eval_, rle_of, write_set, write_two_classes
from PIL import Image

from textseg.errors import InputError
from textseg_eval.comparison import compare
from textseg_eval.expressions import load_refer
from textseg_eval.mask_folder import load_folder
from textseg_eval.results import load_results
from textseg_eval.truth import ExpressionTruth

NAMES = {1: "dog", 2: "red ball", 3: "cat"}


@pytest.fixture
def data(tmp_path):
    """Ten images of 36 x 50 with a dog in each and a ball in every other one."""
    images, annotations = write_two_classes(tmp_path, 10, NAMES)
    return ["--images", str(images), "--annotations", str(annotations), "--replicates", "50"]


class _Watcher(HTMLParser):
    """Remembers tags, attributes that load something, and images."""

    def __init__(self):
        super().__init__()
        self.tags, self.loads, self.text, self.open = set(), [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def look(path):
    watcher = _Watcher()
    watcher.feed(path.read_text())
    assert not watcher.open
    assert "script" not in watcher.tags and "link" not in watcher.tags
    assert all(source.startswith("data:image/jpeg;base64,") for source in watcher.loads)
    return watcher


def test_coco(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["textseg", "eval", "coco", "--images", "my photos"])
    out = tmp_path / "run"
    assert eval_("coco", *data, "--method", "centre-box", "-o", out) == 0
    shown = capsys.readouterr().out
    assert "centre-box: " in shown and "(headline)" in shown and "results.json" in shown
    results = load_results(out)
    assert results["headline"] == "fixed" and results["threshold"]["rule"] == "calibrate"
    assert results["counts"]["scored"] + results["counts"]["calibration"] == 10
    assert results["figures"]["own"]["miou"] == results["figures"]["fixed"]["miou"]
    assert results["command"] == "textseg eval coco --images 'my photos'"
    masks = json.loads((out / "coco_results.json").read_text())
    assert len(masks) == sum(results["counts"][f"queries_{kind}"] for kind in ("present", "absent"))
    watcher = look(out / "report.html")
    assert {"svg", "table", "img"} <= watcher.tags and len(watcher.loads) % 3 == 0
    assert "red ball" in watcher.text and "centre-box" in watcher.text
    # The same command takes the finished run up and says the same.
    before = (out / "per_image.jsonl").read_bytes()
    assert eval_("coco", *data, "--method", "centre-box", "-o", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["figures"] == results["figures"]
    assert (out / "per_image.jsonl").read_bytes() == before


def test_several_methods_and_protocols(data, tmp_path, capsys):
    methods = ["--method", "everything", "--method", "truth", "--protocol", "object"]
    assert eval_("coco", *data, *methods, "-o", tmp_path / "two", "--quiet") == 0
    assert capsys.readouterr().out == ""
    truth = load_results(tmp_path / "two" / "truth")
    assert truth["figures"]["own"]["miou"]["value"] == 1
    assert "pixel accuracy" in look(tmp_path / "two" / "everything" / "report.html").text
    tags = tmp_path / "tags.json"
    tags.write_text(json.dumps({str(n): ["dog"] for n in range(1, 11)}))
    words = ["--protocol", "predicted", "--tagger", tags, "--method", "truth"]
    assert eval_("coco", *data, *words, "--fixed-threshold", "own", "-o", tmp_path / "tags") == 0
    classes = {c["name"]: c["own"]["iou"] for c in load_results(tmp_path / "tags")["classes"]}
    assert classes["dog"] == 1 and classes["red ball"] == 0


def test_given_masks_and_a_threshold_from_elsewhere(data, tmp_path, capsys):
    first, second, other = (tmp_path / name for name in ("first", "second", "other.json"))
    assert eval_("coco", *data, "--method", "truth", "-o", first, "--quiet") == 0
    words = ["--results", first / "coco_results.json", "--fixed-threshold", first]
    assert eval_("coco", *data, *words, "-o", second, "--quiet") == 2
    assert "run on other images" in capsys.readouterr().err
    other.write_bytes((tmp_path / "instances.json").read_bytes())
    moved = ["--images", tmp_path / "images", "--annotations", other, "--replicates", "50"]
    assert eval_("coco", *moved, *words, "-o", second, "--quiet") == 0
    results = load_results(second)
    best = load_results(first)["figures"]["oracle"]["threshold"]
    assert results["threshold"]["value"] == best
    assert results["split"]["source"] == str(first) and results["counts"]["scored"] == 10
    # Images that calibrated have no masks in the results file.
    assert results["figures"]["own"]["miou"]["value"] < 1


def test_exit_codes(data, tmp_path, capsys):
    (tmp_path / "images" / "4.png").write_bytes(b"")
    words = ["--method", "centre-box", "--fixed-threshold", "own", "-o", tmp_path / "run"]
    assert eval_("coco", *data, *words) == 1
    assert "not scored: 4.png: image is empty" in capsys.readouterr().out
    assert "image is empty" in look(tmp_path / "run" / "report.html").text
    for words, message in (
        (
            ["coco", *data, "-o", tmp_path / "x", "--method", "magic"],
            "--method: must be one or more of",
        ),
        (
            ["coco", *data, "-o", tmp_path / "x", "--threshold", "own"],
            "own rule alone are scored by --fixed-threshold own",
        ),
        (["coco", *data, "-o", tmp_path / "x", "--threshold", "2"], "a number in [0, 1], got 2.0"),
        (
            ["coco", *data, "-o", tmp_path / "x", "--method", "grabcut", "--crf-points", "16"],
            "--crf-points is for method textseg, got grabcut",
        ),
        (
            ["coco", *data, "-o", tmp_path / "x", "--method", "grabcut", "--no-refine"],
            "--no-refine is for method textseg",
        ),
        (["coco", *data, "-o", "-"], "must be a folder for several files, got '-'"),
        (
            ["coco", *data, "-o", tmp_path / "x", "--results", "r.json", "--samples", "2"],
            "results must come without methods",
        ),
        (["coco", *data, "-o", tmp_path / "x", "--absent-queries", "-1"], "must be at least 0"),
        (["coco", *data, "-o", tmp_path / "x", "--limit", "0"], "limit must be"),
        (
            ["coco", *data, "-o", tmp_path / "x", "--fixed-threshold", "2"],
            "threshold must be a number in (0, 1]",
        ),
        (["coco", *data, "-o", tmp_path / "x", "--set", "a=1"], "set must be METHOD.NAME=VALUE"),
        (["coco", *data, "-o", tmp_path / "x", "--samples", "0"], "samples must be"),
        (["coco", *data, "-o", tmp_path / "x", "--protocol", "predicted"], "tagger must be given"),
        (["sweep", *data, "-o", tmp_path / "x", "--vary", "loudness=1"], "vary must name"),
        (["compare", tmp_path], "runs must be two or more"),
        (["compare", tmp_path / "images", tmp_path / "images"], "results.json"),
    ):
        assert eval_(*words) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("method", ["cross-attention", "cross-self-attention", "clipseg"])
def test_own_is_refused_before_any_work_by_methods_without_masks(method, data, tmp_path, capsys):
    words = ["--method", f"everything,{method}", "--fixed-threshold", "own", "-o", tmp_path / "x"]
    assert eval_("coco", *data, *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not (tmp_path / "x").exists()
    assert f"for {method}, got own: it gives scores and no masks" in error
    assert "all methods but cross-attention, cross-self-attention, clipseg have masks" in error


def test_methods_are_listed_with_commas_or_repeated(data, tmp_path, capsys):
    ways = (["--method", "everything,nothing"], ["--method", "everything", "--method", "nothing"],
            ["--method", "everything", "--method", "nothing,everything"])  # fmt: skip
    for number, way in enumerate(ways):
        out = tmp_path / str(number)
        assert eval_("coco", *data, *way, "-o", out, "--quiet", "--no-report") == 0
        assert sorted(p.name for p in out.iterdir()) == ["everything", "nothing"]
    capsys.readouterr()
    assert eval_("coco", *data, "--method", "everything,magic", "-o", tmp_path / "x") == 2
    assert "got 'magic'" in capsys.readouterr().err


def test_old_names_of_flags_still_work(data, tmp_path, capsys):
    first = tmp_path / "first"
    words = ["--method", "truth", "--absent", "1", "--fixed-threshold", "own", "-o", first]
    assert eval_("coco", *data, *words, "--quiet") == 0
    assert load_results(first)["protocol"]["absent"] == 1
    words = ["--masks", first / "coco_results.json", "--fixed-threshold", "own"]
    assert eval_("coco", *data, *words, "--quiet", "-o", tmp_path / "again") == 0
    assert load_results(tmp_path / "again")["method"]["method"] == "masks"
    with pytest.raises(SystemExit):
        raise SystemExit(eval_("coco", "--help"))
    shown = capsys.readouterr().out
    assert "--results" in shown and "--masks" not in shown and "--absent-queries" in shown


def test_sweep(data, tiny_folder, tmp_path, capsys):
    words = ["--model", tiny_folder, "--device", "cpu", "--limit", "3", "--fixed-threshold", "own"]
    words += ["--vary", "threshold=paper,otsu", "--no-crf", "--samples", "1"]
    assert eval_("sweep", *data, *words, "--format", "csv", "-o", tmp_path / "sweep") == 0
    shown = capsys.readouterr().out
    assert shown.count("\n|") == 4 and "| threshold=otsu |" in shown
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["base", "threshold=paper", "threshold=otsu"]
    assert rows[0]["own"] == rows[1]["own"]
    assert "threshold=otsu" in look(tmp_path / "sweep" / "report.html").text
    look(tmp_path / "sweep" / "threshold=otsu" / "report.html")
    header, *lines = (tmp_path / "sweep" / "tables" / "sweep.csv").read_text().splitlines()
    assert header.startswith('setting,"mIoU, own rule","mIoU, own rule low"') and len(lines) == 3
    assert (tmp_path / "sweep" / "base" / "tables" / "figures.csv").is_file()


def test_compare(data, tmp_path, capsys):
    runs = [tmp_path / name for name in ("box", "all", "box2")]
    for run, method in zip(runs, ("centre-box", "everything", "centre-box"), strict=True):
        assert eval_("coco", *data, "--method", method, "-o", run, "--quiet", "--no-report") == 0
        assert not (run / "report.html").exists()
    compared = compare(runs, replicates=80)
    _, other, same = compared["runs"]
    assert same["difference"]["miou"] == {"value": 0, "low": 0, "high": 0, "better": 0}
    gap = other["difference"]["miou"]
    assert gap["value"] == pytest.approx(
        other["figures"]["miou"]["value"] - same["figures"]["miou"]["value"]
    )
    assert gap["low"] <= gap["value"] <= gap["high"]
    assert other["figures"]["miou"]["value"] == pytest.approx(
        load_results(runs[1])["figures"]["fixed"]["miou"]["value"]
    )
    assert eval_("compare", *runs, "-o", tmp_path / "page.html") == 0
    assert "against the first" in capsys.readouterr().out
    assert "better in" in look(tmp_path / "page.html").text
    assert eval_("coco", *data, "--limit", "6", "--method", "truth", "-o", tmp_path / "few") == 0
    with pytest.raises(InputError, match="share the data set"):
        compare([runs[0], tmp_path / "few"])
    capsys.readouterr()
    assert eval_("compare", *runs, "-o", "-") == 0
    page = (tmp_path / "page.html").read_text()
    assert capsys.readouterr().out == page
    assert eval_("compare", *runs, "-o", "-", "--json") == 2


def test_compare_runs_of_several_methods(data, tmp_path, capsys):
    alone, before, after = (tmp_path / name for name in ("alone", "before", "after"))
    common = [*data, "--quiet", "--no-report", "--fixed-threshold", "own"]
    assert eval_("coco", *common, "--method", "centre-box", "-o", alone) == 0
    assert eval_("coco", *common, "--method", "centre-box,everything", "-o", before) == 0
    assert eval_("coco", *common, "--method", "truth,everything,centre-box", "-o", after) == 0
    capsys.readouterr()

    def said(*runs):
        assert eval_("compare", *runs, "--json") == 0
        return json.loads(capsys.readouterr().out)

    # One such run: its methods, in the order of the table of methods.
    one = said(before)
    assert [run["name"] for run in one["runs"]] == ["everything", "centre-box"]
    assert one == said(before / "everything", before / "centre-box")
    # Two: method by method, over what both have.
    both = said(before, after)["methods"]
    assert list(both) == ["everything", "centre-box"]
    for method, compared in both.items():
        assert [r["name"] for r in compared["runs"]] == [f"before/{method}", f"after/{method}"]
        assert compared["runs"][1]["difference"]["miou"]["value"] == 0
        assert compared == said(before / method, after / method)
    # Beside a run of one method each of the others counts as one.
    mixed = said(alone, after)
    assert [run["name"].split("/")[-1] for run in mixed["runs"]] == [
        "alone", "everything", "centre-box", "truth",
    ]  # fmt: skip
    truth = mixed["runs"][-1]
    assert truth["figures"]["miou"]["value"] == 1 and truth["difference"]["miou"]["better"] == 1
    assert eval_("compare", before, after, "-o", tmp_path / "page.html") == 0
    assert "everything: 10 common images" in capsys.readouterr().out
    assert "centre-box: " in look(tmp_path / "page.html").text
    (after / "everything").rename(after / "all")
    (after / "centre-box").rename(after / "box")
    assert eval_("compare", before, after) == 2
    error = capsys.readouterr().err
    assert "must have one in common, got everything, centre-box and" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [b"[1, 2]", b"{}", b"null", b'{"format": 1}', b"\xff{", b'{"format": 1, "kind": "edit"}'],
)
def test_compare_refuses_foreign_folders_in_one_line(content, data, tmp_path, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    assert eval_("coco", *data, "--method", "truth", "-o", run, "--quiet", "--no-report") == 0
    other.mkdir()
    (other / "results.json").write_bytes(content)
    capsys.readouterr()
    for runs in ((run, other), (other, run), (run, tmp_path / "none"), (run, run / "run.json")):
        assert eval_("compare", *runs) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1 and "run must" in shown.err


@pytest.fixture
def refer_set(tmp_path):
    marks = [
        (1, 1, rle_of(box(20, 30, 2, 2, 10, 12)), 0),
        (1, 1, rle_of(box(20, 30, 2, 15, 10, 28)), 0),
        (2, 1, rle_of(box(25, 18, 5, 3, 20, 15)), 0),
    ]
    return write_set(tmp_path, {1: (20, 30), 2: (25, 18)}, marks, {1: "dog"})


REFS = [
    {"ref_id": 1, "ann_id": 1, "image_id": 1, "split": "val",
     "sentences": [{"sent": "left dog", "raw": "Left dog."}, {"sent": "the dog on the left"}]},
    {"ref_id": 2, "ann_id": 2, "image_id": 1, "split": "val", "sentences": [{"raw": "right one"}]},
    {"ref_id": 3, "ann_id": 3, "image_id": 2, "split": "testA", "sentences": [{"sent": "dog"}]},
]  # fmt: skip


def test_refer_files(refer_set, tmp_path, capsys):
    images, annotations = refer_set
    plain, pickled = tmp_path / "refs.json", tmp_path / "refs(unc).p"
    plain.write_text(json.dumps(REFS))
    pickled.write_bytes(pickle.dumps(REFS, protocol=2))
    one, other = (load_refer(images, annotations, refs=refs) for refs in (plain, pickled))
    assert [e.truth for e in one.examples] == [e.truth for e in other.examples]
    words = ["--images", images, "--annotations", annotations, "--refs", plain]
    words += ["--refs-split", "val", "--fixed-threshold", "own", "--replicates", "20"]
    assert eval_("refer", *words, "--method", "everything", "-o", tmp_path / "run") == 0
    figures = load_results(tmp_path / "run")["figures"]["own"]
    assert figures["query_iou"]["value"] == pytest.approx((80 + 80 + 104) / 600 / 3)
    assert figures["pooled_iou"]["value"] == pytest.approx(264 / 1800)
    assert figures["iou_above_0.5"]["value"] == 0
    assert "pooled_iou 0.147" in capsys.readouterr().out
    look(tmp_path / "run" / "report.html")


class Evil:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_cannot_run_anything(refer_set, tmp_path, capsys):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(InputError, match="pickle that loads builtins"):
        load_refer(*refer_set, refs=path)
    path.write_bytes(b"\x80\x02]q")
    with pytest.raises(InputError, match="JSON or a refer pickle"):
        load_refer(*refer_set, refs=path)
    assert "this ran" not in capsys.readouterr().out


def test_expressions_within_coco_files(refer_set, tmp_path):
    images, annotations = refer_set
    data = json.loads(annotations.read_text())
    data["annotations"][0]["expressions"] = ["left dog"]
    data["images"][1]["caption"] = "the only dog"
    annotations.write_text(json.dumps(data))
    dataset = load_refer(images, annotations)
    truths = [example.truth for example in dataset.examples]
    texts = [[text for text, _ in t.expressions] for t in truths if isinstance(t, ExpressionTruth)]
    assert texts == [["left dog"], ["the only dog"]]
    assert dataset.examples[1].truth.region(0)[0].sum() == 15 * 12
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(InputError, match="must hold expressions"):
        load_refer(images, annotations, refs=tmp_path / "none.json", split="val")


def test_folders(tmp_path, capsys):
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    region = box(16, 25, 3, 4, 12, 20)
    for name in ("a", "b"):
        Image.new("RGB", (25, 16)).save(images / f"{name}.jpg")
        Image.fromarray(region).save(masks / f"{name}.png")
    one = load_folder(images, masks, query="dog")
    assert np.array_equal(one.examples[0].truth.region(1)[0], region)
    table = tmp_path / "queries.json"
    table.write_text(json.dumps({"a": "dog", "b.jpg": "cat"}))
    two = load_folder(images, masks, queries=table)
    assert dict(two.categories) == {1: "cat", 2: "dog"}
    assert [e.truth.keys()[0] for e in two.examples] == [{2}, {1}]
    words = ["--images", images, "--masks", masks, "--query", "dog", "--method", "truth"]
    words += ["--fixed-threshold", "own", "--replicates", "9", "-o", tmp_path / "run"]
    assert eval_("folder", *words) == 0
    assert load_results(tmp_path / "run")["figures"]["own"]["miou"]["value"] == 1

    labels = np.where(region, 7, 0).astype(np.uint8)
    labels[0] = 255
    for name in ("a", "b"):
        Image.fromarray(labels).save(masks / f"{name}.png")
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"0": "background", "7": "dog"}))
    three = load_folder(images, masks, labels=names)
    truth, ignore = three.examples[0].truth.region(7)
    assert np.array_equal(truth, region) and (ignore == (labels == 255)).all()

    nested = tmp_path / "nested"
    for query in ("dog", "red ball"):
        (nested / query).mkdir(parents=True)
        Image.fromarray(region).save(nested / query / "a.png")
    four = load_folder(images, nested)
    assert dict(four.categories) == {1: "dog", 2: "red ball"} and len(four.examples) == 1
    with pytest.raises(InputError, match="no pair"):
        load_folder(images, images / ".." / "nested" / "dog")


def test_too_few_images_to_calibrate_name_the_flags(data, tmp_path, capsys):
    words = ["coco", *data, "--method", "truth", "--limit", "1", "-o", tmp_path / "one"]
    assert eval_(*words) == 2
    error = capsys.readouterr().err
    assert "got none among 0; take more images, raise --calibration" in error
    assert "give --fixed-threshold own" in error and error.count("\n") == 1
    assert eval_(*words[:-1], tmp_path / "two", "--fixed-threshold", "own") == 0
