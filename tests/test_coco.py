"""The reader of COCO files: what it takes, and one line for all it does not."""

from __future__ import annotations

import copy
import json
import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_tools import rle_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from textseg.batch.sources import make_plan
from textseg.coco import Coco, parse_names, read_coco, read_results, to_coco, union_mask
from textseg.errors import ImageError, InputError
from textseg_eval.datasets import load_coco, with_given_masks, with_tags
from textseg_eval.expressions import load_refer
from textseg_eval.methods import Answer
from textseg_eval.protocols import BACKGROUND, LabelMap
from textseg_eval.truth import BrokenTruth

HEIGHT, WIDTH = 40, 60
SQUARE = [10.0, 10, 30, 10, 30, 25, 10, 25]


def coco_file(**fields: Any) -> dict[str, Any]:
    """A file of one image and one annotation, 17, with some fields of that changed."""
    mark = {"id": 17, "image_id": 5, "category_id": 3, "segmentation": [SQUARE], "iscrowd": 0,
            "area": 300.0, **fields}  # fmt: skip
    return {
        "images": [{"id": 5, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [mark],
        "categories": [{"id": 3, "name": "dog"}],
    }


def masks(coco: Coco) -> list[np.ndarray]:
    return [union_mask([a], image.size) for image in coco.images for a in image.annotations]


def refusal(data: Any) -> str:
    with pytest.raises(InputError) as caught:
        to_coco(data, "set.json").check_regions()
    assert "\n" not in str(caught.value) and "set.json" in str(caught.value)
    return str(caught.value)


def oracle(polygons: list[list[float]]) -> np.ndarray:
    code: Any = coco_mask.frPyObjects(polygons, HEIGHT, WIDTH)  # pyright: ignore
    return coco_mask.decode(coco_mask.merge(code)).astype(bool)


SHAPES: dict[str, Any] = {
    "a polygon": [SQUARE],
    "two of them": [SQUARE, [40, 2, 58, 2, 58, 38.5]],
    "partly outside": [[-30, -20, 30, 10, 90, 55]],
    "wholly outside": [[100, 100, 130, 100, 130, 125]],
    "a line": [[1, 1, 50, 1, 1, 1]],
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_polygons_are_those_of_pycocotools(shape):
    np.testing.assert_array_equal(masks(to_coco(coco_file(segmentation=shape), "a"))[0],
                                  oracle(shape))  # fmt: skip


def test_run_lengths_in_both_forms():
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5
    packed: Any = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    packed = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    for shape in (rle_of(mask), packed):
        np.testing.assert_array_equal(masks(to_coco(coco_file(segmentation=shape), "a"))[0], mask)


def test_a_union_of_polygons_and_run_lengths():
    corner = np.zeros((HEIGHT, WIDTH), bool)
    corner[30:, 50:] = True
    data = coco_file()
    data["annotations"].append({**data["annotations"][0], "id": 18, "segmentation": rle_of(corner)})
    image = to_coco(data, "a").images[0]
    np.testing.assert_array_equal(
        union_mask(image.annotations, image.size), oracle([SQUARE]) | corner
    )


REGIONS: list[tuple[Any, str]] = [
    (SQUARE, "list of polygons .* or an RLE"),
    ([[10, 10], [30, 10], [30, 25]], "three points or more, got 2 values"),
    ([[10, 10], [30, 10], [30, 25], [10, 25], [9, 20], [8, 15]], "three points or more, got 2"),
    ([{"x": 10, "y": 10}] * 3, "list of polygons .* or an RLE"),
    ([10, 10, 20, 15], "list of polygons .* or an RLE"),
    ([[10, 10, 20, 15]], "three points or more, got 4"),
    ([SQUARE[:7]], "three points or more, got 7"),
    ([SQUARE, []], "three points or more, got 0"),
    ([{"size": [HEIGHT, WIDTH], "counts": [2400]}], "list of polygons .* or an RLE"),
    ([], r"list of polygons .* or an RLE .*got \[\]"),
    (None, "list of polygons .* or an RLE .*got None"),
    ("10 10 20 20", "list of polygons .* or an RLE"),
    ([["10", 10, 30, 10, 30, 25]], "coordinates must be numbers, got '10'"),
    ([[None, 10, 30, 10, 30, 25]], "coordinates must be numbers, got None"),
    ([[True, 10, 30, 10, 30, 25]], "coordinates must be numbers, got True"),
    ([[math.nan, 10, 30, 10, 30, 25]], "coordinates must lie from -6000 to 6000 .*got nan"),
    ([[10, 10, math.inf, 10, 30, 25]], "coordinates must lie .*got inf"),
    ([[10, 10, 30, 10, 30, 10**400]], "coordinates must lie .*got 1000"),
    ([[10, 10, 30, 10, 30, -6001]], "coordinates must lie .*got -6001"),
    ([[-6000, 0, 6000, 0] * 1000], "at most 1000000 pixels around"),
    ({}, r"image's size \[40, 60\], got None"),
    ({"size": [WIDTH, HEIGHT], "counts": [2400]}, r"image's size \[40, 60\], got \[60, 40\]"),
    ({"size": [HEIGHT, WIDTH]}, "rle must hold size and counts"),
    ({"size": [HEIGHT, WIDTH], "counts": [2399]}, "add up to its size, got 2399"),
    ({"size": [HEIGHT, WIDTH], "counts": [2410, -10]}, "add up to its size"),
    ({"size": [HEIGHT, WIDTH], "counts": [2**63 - 1, 2**63 - 1, 2402]}, "add up to its size"),
    ({"size": [HEIGHT, WIDTH], "counts": "no"}, "rle"),
    ({"size": [HEIGHT, WIDTH], "counts": "\udc80"}, "rle must hold size and counts"),
]


@pytest.mark.parametrize(("shape", "rule"), REGIONS)
def test_a_region_that_cannot_be_read_is_named(shape, rule):
    told = refusal(coco_file(segmentation=shape))
    assert told.startswith("set.json: annotations[0] (id 17): ")
    assert re.search(rule, told), told


@pytest.mark.parametrize(
    ("section", "fields", "rule"),
    [
        ("annotations", {"iscrowd": "0"}, r"\(id 17\): iscrowd must be 0 or 1, got '0'"),
        ("annotations", {"iscrowd": 2}, "iscrowd must be 0 or 1, got 2"),
        ("annotations", {"iscrowd": None}, "iscrowd must be 0 or 1, got None"),
        ("annotations", {"ignore": []}, r"ignore must be 0 or 1, got \[\]"),
        ("annotations", {"area": math.nan}, "area must be a number, got nan"),
        ("annotations", {"area": 10**400}, "area must be a number"),
        ("annotations", {"image_id": "5"}, "image_id must be an image's, got unknown image '5'"),
        ("annotations", {"image_id": [5]}, r"image_id must be a whole number .*got \[5\]"),
        ("annotations", {"image_id": None}, "image_id must be a whole number .*got None"),
        ("annotations", {"category_id": 4}, "one of the file's, got unknown category 4"),
        ("annotations", {"category_id": "3"}, "category_id must be a whole number .*got '3'"),
        ("annotations", {"id": {}}, "id must be a whole number"),
        ("images", {"id": 5.0}, r"images\[0\] \(id 5.0\): id must be a whole number"),
        ("images", {"id": True}, "id must be a whole number"),
        ("images", {"id": "\ud800"}, "id must be a whole number of at least 0 or a text"),
        ("images", {"height": 0}, "height must be a whole number of at least 1, got 0"),
        ("images", {"width": "60"}, "width must be a whole number of at least 1, got '60'"),
        ("images", {"height": 10**6, "width": 10**6}, "image must have at most 64000000 pixels"),
        ("images", {"file_name": None}, "file_name must be a file's name, got None"),
        ("images", {"file_name": "a\0.jpg"}, "file_name must be a file's name"),
        ("categories", {"name": None}, r"categories\[0\] \(id 3\): name must be a text, got None"),
        ("categories", {"name": 7}, "name must be a text, got 7"),
        ("categories", {"name": " "}, "name must be a text, got ' '"),
        ("categories", {"name": "dog\udc80"}, r"name must be a text, got 'dog\\udc80'"),
        ("categories", {"id": -1}, "id must be a whole number of at least 0, got -1"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(section, fields, rule):
    data = coco_file()
    data[section][0].update(fields)
    told = refusal(data)
    assert re.search(rule, told), told


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_ids_that_occur_twice_are_refused(section):
    data = coco_file()
    data[section].append(copy.copy(data[section][0]))
    assert f"two {section} share an id" in refusal(data)


@pytest.mark.parametrize("crowd", [0, 1, True, False, 0.0])
def test_a_crowd_is_told_by_0_and_1(crowd):
    assert to_coco(coco_file(iscrowd=crowd), "a").images[0].annotations[0].crowd == bool(crowd)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    | st.sampled_from([10**400, -(2**63), "\ud800", math.nan, [SQUARE], SQUARE]),
    lambda inner: st.lists(inner, max_size=8)
    | st.dictionaries(st.sampled_from(["size", "counts", "id", "x", "name"]), inner, max_size=4),
    max_leaves=24,
)  # fmt: skip
PLACES = [
    ("annotations", "segmentation"), ("annotations", "id"), ("annotations", "image_id"),
    ("annotations", "category_id"), ("annotations", "iscrowd"), ("annotations", "ignore"),
    ("annotations", "area"), ("annotations", "segments_info"), ("images", "id"),
    ("images", "height"), ("images", "width"), ("images", "file_name"), ("categories", "id"),
    ("categories", "name"), ("annotations", None), ("images", None), ("categories", None),
]  # fmt: skip


@settings(deadline=None, max_examples=600)
@given(st.sampled_from(PLACES), ANY_JSON)
def test_any_json_anywhere_is_read_or_refused(place, value):
    section, field = place
    data = coco_file()
    if field is None:
        data[section] = value
    else:
        data[section][0][field] = value
    try:
        coco = to_coco(data, "set.json").check_regions()
    except InputError as error:
        assert "set.json" in str(error) and "\n" not in str(error)
        if field == "segmentation":
            assert "annotations[0] (id 17)" in str(error)
        return
    for mask in masks(coco):
        assert mask.dtype == bool and mask.shape == coco.images[0].size


NUMBERS = st.integers() | st.floats() | st.integers(-70, 130) | st.floats(-70, 130, width=32)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(NUMBERS, max_size=10), max_size=3))
def test_any_numbers_in_polygons_are_drawn_as_pycocotools_does_or_refused(polygons):
    coco = to_coco(coco_file(segmentation=polygons), "set.json")
    try:
        coco.check_regions()
    except InputError:
        lengths_fit = all(len(p) >= 6 and len(p) % 2 == 0 for p in polygons) and polygons
        assert not lengths_fit or any(not abs(v) <= 6000 for p in polygons for v in p)
        return
    np.testing.assert_array_equal(masks(coco)[0], oracle(polygons))


@settings(deadline=None, max_examples=300)
@given(
    st.fixed_dictionaries(
        {"size": st.just([HEIGHT, WIDTH]) | st.lists(st.integers(), max_size=3),
         "counts": st.lists(st.integers(-3, 2**70), max_size=5) | st.text(max_size=12)}
    )
)  # fmt: skip
def test_any_run_lengths_fill_the_image_or_are_refused(code):
    coco = to_coco(coco_file(segmentation=code), "set.json")
    try:
        coco.check_regions()
    except InputError as error:
        assert "annotations[0] (id 17)" in str(error)
        return
    assert masks(coco)[0].shape == (HEIGHT, WIDTH)


def test_refusing_takes_no_memory():
    for shape, _ in REGIONS:
        coco = to_coco(coco_file(segmentation=shape), "set.json")
        tracemalloc.start()
        with pytest.raises(InputError):
            masks(coco)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20


def test_deep_json_is_refused(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(InputError, match="annotations must be JSON"):
        read_coco(path)
    with pytest.raises(InputError, match="annotations must be JSON"):
        parse_names(path.read_bytes(), "deep.json")


def test_numbers_and_texts_as_image_ids():
    data = coco_file()
    for key in ("b", 7, "a"):
        data["images"].append({**data["images"][0], "id": key})
    assert [image.id for image in to_coco(data, "a").by_id()] == [5, 7, "a", "b"]


# The evaluation


def write(folder: Path, data: Any, name: str = "set.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(data))
    return path


def test_one_bad_region_fails_its_image_and_no_other(tmp_path):
    data = coco_file(segmentation=SQUARE)
    data["images"].append({**data["images"][0], "id": 6, "file_name": "b.jpg"})
    data["annotations"].append({**coco_file()["annotations"][0], "id": 18, "image_id": 6})
    bad, good = load_coco(tmp_path, write(tmp_path, data)).examples
    assert isinstance(bad.truth, BrokenTruth)
    with pytest.raises(ImageError, match=r"set.json: annotations\[0\] \(id 17\): segmentation"):
        bad.truth.keys()
    np.testing.assert_array_equal(good.truth.region(3)[0], oracle([SQUARE]))


@settings(deadline=None, max_examples=100)
@given(field=st.sampled_from(["image_id", "category_id", "segmentation", "score"]), value=ANY_JSON)
def test_any_json_in_results_is_read_or_refused(tmp_path_factory, field, value):
    folder = tmp_path_factory.mktemp("results")
    record = {"image_id": 5, "category_id": 3, "segmentation": [SQUARE], "score": 0.5,
              field: value}  # fmt: skip
    path = write(folder, [record], "results.json")
    try:
        found = read_results(path, {3: "dog"})
        drawn = [union_mask(one, (HEIGHT, WIDTH)) for one in found.values()]
    except InputError as error:
        assert "results.json: [0]" in str(error)
        return
    assert len(drawn) == 1


@pytest.mark.parametrize("records", [{}, [3], [{"image_id": 5}], [None]])
def test_results_of_another_form_are_refused(tmp_path, records):
    dataset = load_coco(tmp_path, write(tmp_path, coco_file()))
    with pytest.raises(InputError, match="results"):
        with_given_masks(dataset, write(tmp_path, records, "results.json"))


@pytest.mark.parametrize("words", [3, None, "dog", [7], [["dog"]], ["cat"]])
def test_tags_that_are_no_names_are_refused(tmp_path, words):
    dataset = load_coco(tmp_path, write(tmp_path, coco_file()))
    with pytest.raises(InputError, match="tags must be category names"):
        with_tags(dataset, write(tmp_path, {"5": words}, "tags.json"))


@settings(deadline=None, max_examples=150)
@given(
    field=st.sampled_from(["sentences", "expressions", "caption", "split", "ann_id"]),
    value=ANY_JSON,
    by_refs=st.booleans(),
)
def test_any_json_in_expressions_is_read_or_refused(tmp_path_factory, field, value, by_refs):
    folder = tmp_path_factory.mktemp("refer")
    fields: dict[str, Any] = {"sentences": ["left dog"], field: value}
    path = write(folder, coco_file(**({} if by_refs else fields)))
    refs = write(folder, [{"ann_id": 17, **fields}], "refs.json") if by_refs else None
    try:
        dataset = load_refer(folder, path, refs=refs, split="val" if field == "split" else None)
    except InputError as error:
        assert "json" in str(error)
        return
    assert dataset.examples[0].truth.region(0)[0].any()


def test_a_category_0_is_a_class_like_any_other(tmp_path):
    data = coco_file(category_id=0)
    data["categories"] = [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}]
    dataset = load_coco(tmp_path, write(tmp_path, data))
    protocol = LabelMap({0: ("dog",), 1: ("cat",)})
    example = dataset.examples[0]
    queries = protocol.queries(example)
    answer = Answer(None, np.stack([oracle([SQUARE]), np.zeros((HEIGHT, WIDTH), bool)]))
    rows = {row["category_id"]: row for row in protocol.rows(example, queries, answer, None)}
    area = int(oracle([SQUARE]).sum())
    assert rows[0]["own"][:2] == [area, area] and rows[0]["truth"] == area
    assert rows[BACKGROUND]["truth"] == HEIGHT * WIDTH - area and rows[BACKGROUND]["below"]
    with pytest.raises(InputError, match="category ids must be at least 1 with maps"):
        load_coco(tmp_path, tmp_path / "set.json", maps=tmp_path)


# Batches, which want the names only


def test_a_batch_looks_at_no_region(tmp_path):
    data = coco_file(segmentation=math.nan)
    del data["images"][0]["height"]
    (item,) = make_plan([str(write(tmp_path, data))]).items
    assert item.queries == ("dog",) and item.image_id == 5
    del data["annotations"], data["categories"]
    (item,) = make_plan([str(write(tmp_path, data))], ["a cat"]).items
    assert item.queries == ("a cat",)


def test_image_ids_that_are_0_or_texts_in_a_batch(tmp_path):
    data = coco_file()
    data["images"] = [{"id": key, "file_name": f"{key}.jpg"} for key in ("x", 1, 0)]
    data["annotations"] = []
    plan = make_plan([str(write(tmp_path, data))], ["a dog"])
    assert [(item.name, item.image_id) for item in plan.items] == [
        ("0.jpg", 0), ("1.jpg", 1), ("x.jpg", 2)]  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(PLACES), ANY_JSON)
def test_any_json_in_a_batch_is_read_or_refused(tmp_path_factory, place, value):
    section, field = place
    data = coco_file()
    if field is None:
        data[section] = value
    else:
        data[section][0][field] = value
    path = write(tmp_path_factory.mktemp("batch"), data)
    try:
        plan = make_plan([str(path)], ["a dog"])
    except InputError as error:
        assert "set.json" in str(error)
        return
    assert len(plan.items) == len(data["images"])


# Training


@pytest.mark.parametrize(("shape", "rule"), REGIONS[:3])
def test_training_refuses_a_region_before_it_begins(tmp_path, shape, rule):
    from textseg.training.lora_data import AnnotatedImages
    from textseg.training.mini.photos import read_photos

    path = write(tmp_path, coco_file(segmentation=shape))
    for reader in (read_photos, AnnotatedImages):
        with pytest.raises(InputError, match=rf"\(id 17\): .*{rule}"):
            reader(tmp_path, path)


def test_training_refuses_a_picture_of_another_size(tmp_path):
    from PIL import Image

    from textseg.training.mini.photos import read_photos

    Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(tmp_path / "a.jpg")
    with pytest.raises(
        InputError, match=r"a\.jpg must have the size its annotations give, 40 x 60"
    ):
        read_photos(tmp_path, write(tmp_path, coco_file()))
