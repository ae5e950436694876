"""Whole runs on hand-made data: figures worked out by hand, kills, workers, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from eval_tools import box, rle_of, write_set
from PIL import Image

from textseg.errors import InputError, OutputError
from textseg_eval.aggregate import Bootstrap
from textseg_eval.datasets import load_coco, with_given_masks, with_tags
from textseg_eval.methods import MethodSpec
from textseg_eval.protocols import LabelMap, Present
from textseg_eval.records import RecordFile
from textseg_eval.results import load_results
from textseg_eval.run import Run, Split, Variant, evaluate

SIZES = {1: (10, 20), 2: (8, 12), 3: (6, 9)}
NAMES = {1: "cat", 2: "dog", 3: "bird"}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "coco-mini"


@pytest.fixture
def three(tmp_path):
    """A cat beside a crowd of cats; a dog; nothing at all. The prediction finds half the cat and
    part of the crowd, the dog three columns too far right, and a cat where nothing is."""
    marks = [
        (1, 1, [[0, 0, 10, 0, 10, 5, 0, 5]], 0),
        (1, 1, rle_of(box(10, 20, 5, 0, 10, 10)), 1),
        (2, 2, rle_of(box(8, 12, 0, 0, 4, 6)), 0),
    ]
    images, annotations = write_set(tmp_path / "set", SIZES, marks, NAMES)
    found = [
        (1, 1, box(10, 20, 0, 0, 10, 5)),
        (2, 2, box(8, 12, 0, 3, 4, 9)),
        (3, 1, box(6, 9, 0, 0, 2, 3)),
    ]
    results = tmp_path / "found.json"
    records = [
        {"image_id": image, "category_id": category, "segmentation": rle_of(mask), "score": 1.0}
        for image, category, mask in found
    ]
    results.write_text(json.dumps(records))
    return with_given_masks(load_coco(images, annotations), results)


def texts(dataset):
    return {key: (name,) for key, name in dataset.categories.items()}


def measure(dataset, protocol, folder, method="masks", options=None, **changes):
    spec = MethodSpec(method, options=options or {})
    given = {"split": Split("own"), "bootstrap": Bootstrap(replicates=50), **changes}
    return evaluate(Run(dataset, protocol, [Variant("v", spec, folder)], **given))["v"]


def own(results, figure="miou"):
    return results["figures"]["own"][figure]["value"]


def test_present_by_hand(three, tmp_path):
    results = measure(three, Present(texts(three), absent=1), tmp_path / "run")
    # Cat: 25 of 50 found, the crowd's 25 count neither way. Dog: 12 shared, 36 in the union.
    assert own(results) == pytest.approx((25 / 50 + 12 / 36) / 2)
    assert own(results, "image_iou") == pytest.approx((25 / 50 + 12 / 36) / 2)
    assert own(results, "pooled_iou") == pytest.approx(37 / 86)
    assert own(results, "precision") == pytest.approx((1 + 12 / 24) / 2)
    assert own(results, "recall") == pytest.approx((25 / 50 + 12 / 24) / 2)
    assert results["counts"]["scored"] == 3 and results["counts"]["without_objects"] == 1
    assert results["counts"]["queries_present"] == 2 and results["counts"]["queries_absent"] == 3
    assert [entry["name"] for entry in results["classes"]] == ["cat", "dog"]


def test_object_by_hand(three, tmp_path):
    results = measure(three, LabelMap(texts(three)), tmp_path / "run")
    # The crowd counts as cat here; the image without annotations is all background.
    cat, dog, background = 50 / 106, 12 / 36, 208 / 288
    assert own(results) == pytest.approx((cat + dog + background) / 3)
    assert own(results, "pixel_accuracy") == pytest.approx((50 + 12 + 208) / 350)


def test_predicted_by_hand(three, tmp_path):
    tags = tmp_path / "tags.json"
    tags.write_text(json.dumps({"1": ["cat"], "2.png": ["cat"]}))
    tagged = with_tags(three, tags)
    results = measure(tagged, LabelMap(texts(three), "predicted", "file"), tmp_path / "run")
    # The tagger misses the dog and asks nothing of the third image.
    assert own(results) == pytest.approx((50 / 100 + 0 + 226 / 300) / 3)


@pytest.mark.parametrize("name", ["present", "object"])
def test_truth_and_nothing(three, tmp_path, name):
    protocol = Present(texts(three)) if name == "present" else LabelMap(texts(three))
    labels = {"labels": name == "object"}
    perfect = measure(three, protocol, tmp_path / "truth", "truth", labels)
    assert own(perfect) == 1 and own(perfect, "image_iou") == 1 and own(perfect, "boundary_f") == 1
    nothing = own(measure(three, protocol, tmp_path / "nothing", "nothing"))
    # Under `object` the background alone is right where nothing is: 226 of 350 pixels, one of
    # three classes.
    assert nothing == pytest.approx(0 if name == "present" else 226 / 350 / 3)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the COCO sample at {SHARED}")
@pytest.mark.parametrize("name", ["present", "object"])
def test_original_coco_files(tmp_path, name):
    dataset = load_coco(SHARED / "val2017", SHARED / "annotations" / "instances_val2017.json")
    assert len(dataset.examples) == 79 and len(dataset.categories) == 80
    dataset = dataset.limited(5, seed=3)
    assert len(dataset.examples) == 5
    protocol = Present(texts(dataset)) if name == "present" else LabelMap(texts(dataset))
    results = measure(dataset, protocol, tmp_path, "truth", {"labels": name == "object"})
    assert own(results) == 1 and results["counts"]["failed"] == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the COCO sample at {SHARED}")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools under NumPy 2
def test_regions_are_pycocotools_own(capsys):
    from pycocotools.coco import COCO

    path = SHARED / "annotations" / "instances_val2017.json"
    dataset, oracle = load_coco(SHARED / "val2017", path), COCO(str(path))
    crowds = 0
    for example in dataset.examples[::2]:
        marks = oracle.loadAnns(oracle.getAnnIds(imgIds=[int(example.image_id)]))
        for key in {mark["category_id"] for mark in marks}:
            region, ignore = example.truth.region(key)
            inside, crowd = np.zeros((2, *region.shape), bool)
            for mark in marks:
                if mark["category_id"] == key:
                    (crowd if mark["iscrowd"] else inside)[oracle.annToMask(mark) == 1] = True
            assert np.array_equal(region, inside)
            crowds += ignore is not None
            expected = crowd & ~inside
            assert np.array_equal(expected, np.zeros_like(region) if ignore is None else ignore)
    assert crowds


def integers(folder):
    """Every record without its times."""
    with RecordFile(folder / "per_image.jsonl", read_only=True) as file:
        records = list(file.records())
    for record in records:
        record.pop("seconds", None)
        record.pop("scoring_seconds", None)
    return records


def settled(folder):
    """The results without what depends on the machine."""
    return {k: v for k, v in load_results(folder).items() if k not in ("time", "versions")}


@pytest.fixture
def many(tmp_path):
    rng = np.random.default_rng(5)
    sizes = {n: (20 + n, 31) for n in range(1, 13)}
    marks = []
    for n, (height, width) in sizes.items():
        for category in {1, 1 + n % 3}:
            top, left = (int(v) for v in rng.integers(0, 8, 2))
            marks.append(
                (n, category, rle_of(box(height, width, top, left, top + 9, left + 12)), 0)
            )
    write_set(tmp_path / "set", sizes, marks, NAMES)
    return tmp_path


SCRIPT = """
import os, signal, sys
from pathlib import Path
from textseg_eval.aggregate import Bootstrap
from textseg_eval.datasets import load_coco
from textseg_eval.methods import MethodSpec
from textseg_eval.protocols import Present
from textseg_eval.run import Run, Split, Variant, evaluate

def measure(root, output, workers, stop):
    data = load_coco(root / "set" / "images", root / "set" / "instances.json")
    texts = {key: (name,) for key, name in data.categories.items()}
    variant = Variant("v", MethodSpec("grabcut"), root / output)
    run = Run(data, Present(texts), [variant], Split(fraction=0.4), Bootstrap(replicates=50),
              workers=workers)
    seen = []

    def progress(_):
        seen.append(1)
        if len(seen) == stop:
            os.kill(os.getpid(), signal.SIGKILL)

    evaluate(run, progress)

if __name__ == "__main__":
    root = Path(sys.argv[1])
    for stop, workers in ((2, 1), (3, 1), (1, 1), (2, 2), (1, 1)):
        child = os.fork()
        if not child:
            measure(root, "killed", workers, stop)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        with (root / "killed" / "per_image.jsonl").open("ab") as file:
            file.write(b'{"image_id":99,"part":"te')
    measure(root, "killed", 2, 0)
    measure(root, "whole", 1, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
def test_same_integers_after_five_kills_and_with_two_workers(many):
    script = many / "script.py"
    script.write_text(SCRIPT)
    paths = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, str(script), str(many)],
        capture_output=True,
        timeout=110,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert integers(many / "killed") == integers(many / "whole")
    assert settled(many / "killed")["figures"] == settled(many / "whole")["figures"]
    lines = (many / "killed" / "per_image.jsonl").read_text().splitlines()
    assert len(lines) == 12
    masks = [(many / name / "coco_results.json").read_text() for name in ("whole", "killed")]
    assert masks[0] == masks[1]


def test_an_unreadable_image_is_counted_and_not_fatal(many):
    root = many / "set" / "images"
    (root / "3.png").write_bytes(b"not a picture")
    (root / "4.png").unlink()
    data = load_coco(root, many / "set" / "instances.json")
    results = measure(data, Present(texts(data)), many / "run", "centre-box")
    assert results["counts"]["failed"] == 2 and results["counts"]["scored"] == 10
    assert [failure["image_id"] for failure in results["failures"]] == [3, 4]
    assert "image is in no known" in results["failures"][0]["error"]


def test_masks_are_scored_at_the_truths_size(many):
    picture = many / "set" / "images" / "1.png"
    with Image.open(picture) as image:
        image.resize((62, 42)).save(picture)
    data = load_coco(many / "set" / "images", many / "set" / "instances.json")
    results = measure(data, Present(texts(data)), many / "run", "everything")
    assert results["counts"]["resized"] == 1
    assert all(entry["own"]["predicted"] == entry["own"]["union"] for entry in results["classes"])


def test_results_say_how_many_images_and_where_they_lie(many):
    folder, file = many / "set" / "images", many / "set" / "instances.json"
    data = load_coco(folder, file)
    found = measure(data, Present(texts(data)), many / "run", "centre-box")["data"]
    assert found["images"] == len(list(folder.iterdir())) == 12
    assert (found["pictures"], found["annotations"]) == (str(folder), str(file))


def test_another_run_in_the_same_folder_is_refused(many):
    data = load_coco(many / "set" / "images", many / "set" / "instances.json")
    measure(data, Present(texts(data)), many / "run", "centre-box")
    with pytest.raises(InputError, match="another method"):
        measure(data, Present(texts(data)), many / "run", "everything")
    with (
        RecordFile(many / "run" / "per_image.jsonl"),
        pytest.raises(OutputError, match="another run is at it"),
    ):
        measure(data, Present(texts(data)), many / "run", "centre-box")


def test_a_damaged_line_is_named(many):
    data = load_coco(many / "set" / "images", many / "set" / "instances.json")
    measure(data, Present(texts(data)), many / "run", "centre-box")
    path = many / "run" / "per_image.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"oops\n", *lines[1:]]))
    with pytest.raises(InputError, match=f"at byte {len(lines[0])} of"):
        measure(data, Present(texts(data)), many / "run", "centre-box")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("categories"), "no list 'categories'"),
        (lambda d: d["images"][0].pop("height"), r"images\[0\] \(id \d+\) has no 'height'"),
        (lambda d: d["annotations"][0].update(image_id=77), "unknown image 77"),
        (lambda d: d["annotations"][1].update(category_id=9), "unknown category 9"),
        (lambda d: d["images"].append(d["images"][0]), "two images share an id"),
        (lambda d: d["annotations"][0].pop("segmentation"), "no 'segmentation'"),
    ],
)
def test_bad_annotation_files(many, change, message):
    path = many / "set" / "instances.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        load_coco(many / "set" / "images", path)


def test_missing_and_broken_files(tmp_path, many):
    images = many / "set" / "images"
    with pytest.raises(InputError, match="images must be a folder"):
        load_coco(tmp_path / "nowhere", many / "set" / "instances.json")
    with pytest.raises(InputError, match="annotations must be a readable file"):
        load_coco(images, tmp_path / "nowhere.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"images": [')
    with pytest.raises(InputError, match="annotations must be JSON"):
        load_coco(images, broken)
    broken.write_text("{}")
    data = load_coco(images, many / "set" / "instances.json")
    with pytest.raises(InputError, match="results must be a JSON list"):
        with_given_masks(data, broken)
    broken.write_text('{"1": ["unicorn"]}')
    with pytest.raises(InputError, match="got 'unicorn'"):
        with_tags(data, broken)


def test_panoptic_and_stuff_maps(tmp_path):
    pictures, maps = tmp_path / "images", tmp_path / "panoptic"
    pictures.mkdir()
    maps.mkdir()
    Image.new("RGB", (14, 9)).save(pictures / "1.jpg")
    ids = np.zeros((9, 14), int)
    ids[:4, :5], ids[5:, :7], ids[5:, 9:] = 300, 70000, 5
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(maps / "1.png")
    segments = [
        {"id": 300, "category_id": 1, "iscrowd": 0},
        {"id": 70000, "category_id": 2, "iscrowd": 0},
        {"id": 5, "category_id": 2, "iscrowd": 1},
    ]
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "grass"}]
    image = {"id": 1, "file_name": "1.jpg", "height": 9, "width": 14}
    path = tmp_path / "panoptic.json"
    path.write_text(
        json.dumps(
            {"images": [image], "categories": names,
             "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}]}
        )
    )  # fmt: skip
    truth = load_coco(pictures, path).examples[0].truth
    region, ignore = truth.region(2)
    assert np.array_equal(region, ids == 70000)
    assert ignore is not None and np.array_equal(ignore, (ids == 5) | (ids == 0))
    assert np.array_equal(truth.labels({1: 1, 2: 2}), np.select([ids == 300, ids > 0], [1, 2], 0))

    stuff = tmp_path / "stuff"
    stuff.mkdir()
    values = np.full((9, 14), 255, np.uint8)
    values[:4, :5], values[6:, :3] = 0, 1
    Image.fromarray(values).save(stuff / "1.png")
    path = tmp_path / "instances.json"
    path.write_text(
        json.dumps(
            {"images": [image], "categories": names,
             "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0,
                              "segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]}]}
        )
    )  # fmt: skip
    truth = load_coco(pictures, path, maps=stuff).examples[0].truth
    assert truth.region(1)[0].sum() == 9 and truth.keys() == ({1}, set())
    expected = np.select([values == 0, values == 1], [1, 2], 0)
    assert np.array_equal(truth.labels({1: 1, 2: 2}), expected)
