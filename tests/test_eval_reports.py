"""What reports show: tables in every format, curves, pictures of where runs differ."""

import csv
import io
import json
import re
import string
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from eval_tools import box, eval_, rle_of, write_two_classes
from torchmetrics.functional.classification import binary_precision_recall_curve

from textseg_eval import charts
from textseg_eval.aggregate import Bootstrap, Tally
from textseg_eval.comparison import compare, differ_most, differing
from textseg_eval.counters import count_mask, histogram, pack_histogram, to_bins
from textseg_eval.page import table as html
from textseg_eval.results import image_iou, load_results
from textseg_eval.tables import Figure, Table, comma_separated, latex, markdown, tex

NAMES = {1: "traffic_light & 50%", 2: "red | ball", 3: "cat"}


@pytest.fixture
def data(tmp_path):
    """Eight images of 36 x 50 with the first class in each and the second in every other one."""
    images, annotations = write_two_classes(tmp_path, 8, NAMES)
    return ["--images", str(images), "--annotations", str(annotations), "--replicates", "20"]


def read_csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


# What LaTeX typesets for each way to write a character, from its manual.
TYPESET = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^",
    r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", r"\&": "&", r"\%": "%",
    r"\$": "$", r"\#": "#", r"\_": "_", r"\{": "{", r"\}": "}", "{[}": "[", "{*}": "*",
}  # fmt: skip


def typeset(text):
    """What LaTeX makes of a text; a special character that is not escaped is an error."""
    out, at = "", 0
    while at < len(text):
        command = next((c for c in TYPESET if text.startswith(c, at)), None)
        assert command or text[at] not in "\\~^&%$#_{}[*", text[at:]
        out += TYPESET[command] if command else text[at]
        at += len(command) if command else 1
    return out


def test_every_character_survives_latex():
    visible = string.printable[:-6]
    for text in (visible, visible[::-1], "traffic_light", "[b] *", "a\\_b", "größer"):
        assert typeset(tex(text)) == text
    assert tex("two\nlines") == "two lines"


def test_latex_rows_have_the_columns_they_say():
    rows = [["a_b & c", Figure(0.5, 0.25, 0.75), None, 12345], ["[x]", Figure(1.0), "y", 2]]
    text = latex(Table("t", "50 % of it", ["name", "IoU", "what", "count"], rows))
    lines = text.splitlines()
    assert lines[0].startswith("% ") and lines[2] == r"\begin{tabular}{lrrr}"
    body = [line.removesuffix(r" \\") for line in lines if line.endswith(r" \\")]
    cells = [re.split(r"(?<!\\)&", line) for line in body]
    assert [len(each) for each in cells] == [4, 4, 4]
    assert typeset(cells[1][0].strip()) == "a_b & c"
    assert cells[1][1].strip() == r"0.500 {\scriptsize (0.250 to 0.750)}"
    assert [c.strip() for c in cells[1][2:]] == ["--", "12,345"]
    long = latex(Table("t", "t", ["n"], [["x"]] * 60))
    assert r"\begin{longtable}{l}" in long and r"\endhead" in long


def test_csv_has_numbers_in_full_and_an_interval_in_columns():
    rows = [['say "a", b', Figure(1 / 3, 0.25, 0.75), 7], ["b", None, None]]
    table = Table("t", "t", ["name", "IoU", "n"], rows)
    read = list(csv.DictReader(io.StringIO(comma_separated(table))))
    assert read[0] == {"name": 'say "a", b', "IoU": repr(1 / 3), "IoU low": "0.25",
                       "IoU high": "0.75", "n": "7"}  # fmt: skip
    assert read[1] == {"name": "b", "IoU": "", "IoU low": "", "IoU high": "", "n": ""}
    assert comma_separated(Table("t", "t", ["a", "b"], [])) == "a,b\n"


def test_what_is_rounded_to_nothing_has_no_sign():
    assert str(Figure(-0.0004, -0.0006, 0.0)) == "0.000 (-0.001 to 0.000)"
    assert str(Figure(-0.001, digits=0, percent=True)) == "0%"
    assert str(Figure(-0.1, digits=1)) == "-0.1"


def test_markdown_and_html_keep_the_columns():
    table = Table("t", "t", ["a|b", "c"], [["x | y\nz", Figure(0.5, 0.4, 0.6)]], bar=1)
    lines = markdown(table).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert lines[2] == r"| x \| y z | 0.500 (0.400 to 0.600) |"
    shown = html(Table("t", "t", ["<b>"], [["<i>"]]))
    assert "&lt;b&gt;" in shown and "&lt;i&gt;" in shown and "<i>" not in shown
    assert '<i style="width:50.0%">' in html(table)


def _tally(images=3, size=(9, 14)):
    """Two classes with random truths and scores, and presences; what they were, for an oracle."""
    rng = np.random.default_rng(3)
    tally = Tally([1, 2], Bootstrap(replicates=0))
    pixels = {1: [], 2: []}
    queries = []
    for image in range(images):
        rows = []
        for key in (1, 2):
            truth = rng.random(size) < 0.3
            score = np.clip(truth * 0.3 + rng.random(size) * 0.7, 0, 1).astype(np.float32)
            score = np.round(score * 256) / 256
            presence, present = float(rng.integers(0, 5)) / 4, bool(key == 1 or image)
            fixed = count_mask(score >= 0.5, truth, edges=False).to_list()
            row = {"category_id": key, "present": present, "presence": presence, "own": None,
                   "fixed": fixed if present else count_mask(score > 1, truth & ~truth).to_list(),
                   "truth": int(truth.sum()) if present else None,
                   "hist": pack_histogram(histogram(to_bins(score), truth))}  # fmt: skip
            queries.append((presence, present))
            rows.append(row)
            if present:
                pixels[key].append((score, truth))
        tally.add({"image_id": image, "rows": rows})
    return tally, pixels, queries


def test_precision_and_recall_of_the_pixels_are_torchmetrics():
    tally, pixels, _ = _tally()
    found = np.array(tally.precision_recall())
    expected = []
    for each in pixels.values():
        scores = torch.tensor(np.concatenate([s.ravel() for s, _ in each]))
        truths = torch.tensor(np.concatenate([t.ravel() for _, t in each])).int()
        grid = torch.arange(257) / 256
        precision, recall, _ = binary_precision_recall_curve(scores, truths, thresholds=grid)
        # Where nothing is found the precision is 0 here, and undefined there.
        expected.append(np.stack([precision[:-1].nan_to_num(0), recall[:-1]], axis=1))
    assert found.shape == (257, 2)
    assert found == pytest.approx(np.mean(expected, axis=0), abs=1e-6)
    # At the fixed threshold the curve goes through the figures of the table.
    figures = tally.figures()["fixed"]
    pair = (figures["precision"]["value"], figures["recall"]["value"])
    assert tuple(found[128]) == pytest.approx(pair)


def test_precision_and_recall_of_the_presence_are_torchmetrics():
    tally, _, queries = _tally(images=9)
    scores, present = (torch.tensor(column) for column in zip(*queries, strict=True))
    oracle = zip(*binary_precision_recall_curve(scores, present.int()), strict=False)
    best = {}
    for precision, recall, threshold in oracle:
        point = (float(threshold), float(precision), float(recall))
        # Of equal recalls the highest threshold.
        best[round(point[2], 6)] = max(best.get(round(point[2], 6), point), point)
    expected = [best[recall] for recall in sorted(best) if recall]
    assert len(expected) > 3
    assert np.array(tally.presence_curve()) == pytest.approx(np.array(expected), abs=1e-6)
    precision, recall = np.array(tally.presence_curve())[:, 1:].T
    area = (np.diff(recall, prepend=0) * precision).sum()
    assert tally.presence()["average_precision"]["value"] == pytest.approx(area)


def test_the_curve_of_many_queries_is_thinned_to_evenly_spaced_recalls():
    tally = Tally([1], Bootstrap(replicates=0))
    none = {"category_id": 1, "own": None, "fixed": None, "truth": None, "hist": None}
    rng = np.random.default_rng(0)
    rows = [none | {"presence": float(p), "present": bool(n % 2)}
            for n, p in enumerate(rng.random(4000))]  # fmt: skip
    tally.add({"image_id": 1, "rows": rows})
    recalls = np.array(tally.presence_curve())[:, 2]
    assert len(recalls) == 200 and recalls[-1] == 1
    assert recalls == pytest.approx(np.arange(1, 201) / 200, abs=1e-3)
    assert Tally([1], Bootstrap(replicates=0)).presence_curve() == []


def test_classes_are_counted(data, tmp_path):
    words = ["--method", "everything", "--fixed-threshold", "own", "--absent-queries", "1"]
    assert eval_("coco", *data, *words, "-o", tmp_path / "run", "--quiet") == 0
    found = {c["name"]: c for c in load_results(tmp_path / "run")["classes"]}
    assert load_results(tmp_path / "run")["data"]["images"] == 8
    light, ball = found[NAMES[1]], found[NAMES[2]]
    assert (light["images"], light["own"]["asked"], light["own"]["missed"]) == (8, 8, 0)
    assert (ball["images"], ball["own"]["asked"]) == (4, 4)
    # Four images lack the ball and the cat, four the cat only; everything marks all it is asked.
    assert ball["own"]["asked_absent"] == ball["own"]["invented"] <= 4
    assert eval_("coco", *data, "--method", "nothing", "--fixed-threshold", "own",
                 "-o", tmp_path / "none", "--quiet") == 0  # fmt: skip
    light = next(c for c in load_results(tmp_path / "none")["classes"] if c["name"] == NAMES[1])
    assert (light["own"]["asked"], light["own"]["missed"]) == (8, 8)
    assert light["own"]["invented"] == 0


def test_every_table_of_a_run_in_every_format(data, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["--method", "centre-box", "-o", out, "--format", "latex,csv", "--format", "markdown"]
    assert eval_("coco", *data, *words, "--quiet", "--no-report") == 0
    assert not (out / "report.html").exists()
    written = {path.name for path in (out / "tables").iterdir()}
    tables = ("figures", "presence", "classes", "thresholds", "presence-curve")
    assert written == {f"{name}.{end}" for name in tables for end in ("tex", "csv", "md")}
    results = load_results(out)
    read = {name: read_csv(out / "tables" / f"{name}.csv") for name in tables}
    for row in read["figures"]:
        if row["figure"] == "mIoU":
            for rule in ("own", "fixed"):
                shown = results["figures"][rule]["miou"]
                assert float(row[rule]) == shown["value"]
                assert float(row[f"{rule} low"]) == shown["low"]
                assert float(row[f"{rule} high"]) == shown["high"]
    assert {row["class"] for row in read["classes"]} == {NAMES[1], NAMES[2]}
    assert [float(row["threshold"]) for row in read["thresholds"]] == [k / 256 for k in range(257)]
    text = (out / "tables" / "classes.tex").read_text()
    assert r"traffic\_light \& 50\%" in text and r"red \textbar{} ball" in text
    assert r"red \| ball" in (out / "tables" / "classes.md").read_text()
    assert eval_("coco", *data, "-o", tmp_path / "x", "--format", "word") == 2
    assert "must be one or more of latex,csv,markdown" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def _polylines(svg):
    (found,) = re.findall(r'<svg viewBox="[^"]*" role="img".*?</svg>', svg)
    root = ElementTree.fromstring(found)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for line in root.iter("polyline"):
        points = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
        yield points


def test_a_chart_places_its_points_and_names_its_colours():
    lines = [charts.Line("one & two", [(0, 0), (1, 1), (0.5, 0.25)], "#112233"),
             charts.Line("single", [(0.5, 0.5)], "#445566")]  # fmt: skip
    drawn = charts.chart(lines, x="recall", y="precision",
                         marks=[charts.Mark("here", 1, 1), charts.Mark("there", 0.5)])  # fmt: skip
    (points,) = _polylines(drawn)
    (left, low), (right, high), (middle, quarter) = points
    assert left < right and high < low
    assert middle == pytest.approx((left + right) / 2)
    assert quarter == pytest.approx(low - (low - high) / 4, abs=0.1)
    for name in ("one &amp; two", "single", "here", "there", "recall", "precision"):
        assert f">{name}<" in drawn
    assert charts.chart([charts.Line("", [])], x="", y="") == ""
    (free,) = _polylines(charts.chart([charts.Line("a", [(17, 20), (24, 80)])], x="dB", y="",
                                      across=None, up=None))  # fmt: skip
    assert left < free[0][0] < free[1][0] < right and free[0][1] > free[1][1]


def test_what_differs_is_found():
    runs: list[dict[int | str, float]]
    runs = [{2: 0.5, 1: 0.4, 3: 0.9, 4: 0.2}, {1: 0.1, 2: 0.9, 3: 0.9, 5: 1}]
    assert differ_most(runs, ["a", "b"]) == {"b is better": [2], "a is better": [1]}
    assert differ_most([*runs, {1: 0.4, 2: 0.5, 3: 0}], ["a", "b", "c"]) == {"all runs": [3, 2, 1]}
    assert differ_most([{1: 0.5}, {2: 0.5}], ["a", "b"]) == {"b is better": [], "a is better": []}
    runs = [dict.fromkeys(range(50), 0.0), {n: n / 50 for n in range(50)}]
    assert differ_most(runs, ["a", "b"]) == {"b is better": [49, 48, 47, 46], "a is better": []}
    assert differing([{"a": [1], "b": {}}, {"a": [1], "b": {"x": False}}]) == {"b.x": [None, False]}
    assert differing([{"a": 1}, {"a": 1}]) == {}


def test_several_methods_have_a_page_together(data, tmp_path):
    out = tmp_path / "two"
    words = ["--fixed-threshold", "own", "--method", "everything,truth,centre-box", "--quiet"]
    assert eval_("coco", *data, *words, "-o", out, "--format", "csv") == 0
    text = (out / "report.html").read_text()
    for words in ("Where they differ most", "truth IoU 1.000", "What differs", "IoU by class (2)",
                  "red | ball", "traffic_light &amp; 50%"):  # fmt: skip
        assert words in text
    # Eight images, each a picture, its truth and three masks.
    assert text.count('src="data:image/jpeg;base64,') == 8 * 5 and 'href="' not in text
    ious = {}
    for name in ("everything", "truth", "centre-box"):
        for line in (out / name / "per_image.jsonl").read_text().splitlines():
            record = json.loads(line)
            ious.setdefault(record["image_id"], []).append(image_iou(record, "own"))
    ids = compare([out / name for name in ("everything", "truth", "centre-box")], replicates=5)
    spread = [np.ptp(ious[key]) for key in ids["differ_most"]["all runs"]]
    assert spread == sorted((np.ptp(each) for each in ious.values()), reverse=True)
    rows = read_csv(out / "tables" / "comparison.csv")
    assert [row["run"] for row in rows] == ["everything", "truth", "centre-box"]
    assert float(rows[1]["mIoU"]) == 1


@pytest.mark.parametrize("protocol", ["present", "object"])
def test_compare_shows_pictures_while_the_files_are_there(data, protocol, tmp_path, capsys):
    runs = [tmp_path / "truth", tmp_path / "all"]
    for run, method in zip(runs, ("truth", "everything"), strict=True):
        words = ["--method", method, "--fixed-threshold", "own", "--limit", "5", "--protocol",
                 protocol, "--quiet", "--no-report"]  # fmt: skip
        assert eval_("coco", *data, *words, "-o", run) == 0
    page = tmp_path / "page.html"
    words = ["-o", page, "--format", "markdown,csv", "--replicates", "9"]
    assert eval_("compare", *runs, *words) == 0
    assert "what differs: method" in capsys.readouterr().out
    text = page.read_text()
    assert "truth is better" in text and "all is better" not in text
    assert text.count('src="data:image/jpeg;base64,') == 4 * 4
    tables = {path.name for path in (tmp_path / "page-tables").iterdir()}
    assert tables == {f"{name}.{end}" for name in ("comparison", "settings", "classes")
                      for end in ("md", "csv")}  # fmt: skip
    (tmp_path / "instances.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert eval_("compare", *runs, "-o", page, "--quiet") == 0
    text = page.read_text()
    assert "lie no longer where the runs found them" in text and "data:image" not in text
    assert eval_("compare", *runs, "--format", "csv") == 2
    assert "--format needs -o FILE" in capsys.readouterr().err


def test_masks_in_folders_and_expressions_are_found_again(tmp_path):
    from PIL import Image

    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    region = box(16, 25, 3, 4, 12, 20)
    for name in ("a", "b"):
        Image.new("RGB", (25, 16)).save(images / f"{name}.jpg")
        Image.fromarray(region).save(masks / f"{name}.png")
    common = ["--images", images, "--fixed-threshold", "own", "--replicates", "9", "--quiet"]
    folder = [*common, "--masks", masks, "--query", "dog"]
    refs = tmp_path / "refs.json"
    pictures = [{"id": n, "file_name": f"{name}.jpg", "height": 16, "width": 25, "caption": "dog"}
                for n, name in enumerate("ab")]  # fmt: skip
    marks = [{"id": n, "image_id": n, "category_id": 1, "iscrowd": 0,
              "segmentation": rle_of(region)} for n in range(2)]  # fmt: skip
    refs.write_text(json.dumps({"images": pictures, "annotations": marks,
                                "categories": [{"id": 1, "name": "dog"}]}))  # fmt: skip
    refer = [*common, "--annotations", refs]
    for command, words in (("folder", folder), ("refer", refer)):
        runs = [tmp_path / f"{command}-{method}" for method in ("truth", "everything")]
        for run in runs:
            assert eval_(command, *words, "--method", run.name.split("-")[1], "-o", run) == 0
        page = tmp_path / f"{command}.html"
        assert eval_("compare", *runs, "-o", page, "--quiet", "--replicates", "9") == 0
        assert page.read_text().count("data:image") == 2 * 4
