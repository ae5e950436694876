"""Results out: RLE, polygons, COCO records, pictures, and files that are whole or absent."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import signal
import stat
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFont
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import textseg
from textseg.drawing import _fit, draw_labels, parse_color
from textseg.edits import Edit
from textseg.errors import ImageError, InputError, OutputError
from textseg.masks import Segmentation, overlay_many
from textseg.options import ContrastOptions, EditOptions, RefineOptions
from textseg.rle import decode_rle
from textseg.saving import read_provenance, write_atomic

HEIGHT, WIDTH = 30, 44
MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def ring_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:20, 8:30] = True
    mask[9:14, 12:22] = False
    mask[25, 40] = True
    return mask


@pytest.fixture
def result() -> Segmentation:
    rng = np.random.default_rng(0)
    return Segmentation(
        mask=ring_mask(),
        score=rng.random((HEIGHT, WIDTH), np.float32),
        presence=0.75,
        query='the "dög" 犬',
        prompts=("", "without a dog"),
        contrast_options=ContrastOptions(reference="absent", strength=(0.3, 0.7), seed=11),
        refine_options=RefineOptions(threshold="otsu", level=0.4),
        model="mini",
        notes=("one", "two"),
        image=rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
        contrast=rng.random((4, 6), np.float32),
    )


def fill(rings: list, shape: tuple[int, int]) -> np.ndarray:
    """Even-odd filling by counting the vertical edges to the left of each pixel centre."""
    crossings = np.zeros(shape, int)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
            assert (x0 == x1) != (y0 == y1), "edges run along the pixels"
            if x0 == x1:
                crossings[min(y0, y1) : max(y0, y1), x0:] += 1
    return crossings % 2 == 1


def signed_area(ring: list) -> float:
    following = ring[1:] + ring[:1]
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, following, strict=True)) / 2


def segmentation_of(mask: np.ndarray) -> Segmentation:
    return Segmentation(mask, mask.astype(np.float32), 1.0, "it")


# Run lengths and outlines


@settings(deadline=None)
@given(MASKS)
def test_rle_goes_there_and_back(mask):
    rle = json.loads(json.dumps(segmentation_of(mask).to_rle()))
    assert rle["size"] == list(mask.shape)
    np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), mask)
    np.testing.assert_array_equal(decode_rle(rle), mask)


def test_long_runs_and_lists_of_runs():
    mask = np.zeros((300, 500), bool)
    mask[100:290, 30:480] = np.random.default_rng(0).random((190, 450)) < 0.02
    rle = segmentation_of(mask).to_rle()
    np.testing.assert_array_equal(decode_rle(rle), mask)
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    np.testing.assert_array_equal(decode_rle({"size": [300, 500], "counts": runs}), mask)


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [4, 5]},
        {"size": [4], "counts": "0"},
        {"size": [4, 5], "counts": ""},
        {"size": [4, 5], "counts": "0"},
        {"size": [4, 5], "counts": "P100000000"},
        {"size": [4, 5], "counts": "\x01"},
        {"size": [4, 5], "counts": "é"},
        {"size": [4, 5], "counts": "oooooooooooooooooooo0"},
        {"size": [4, 5], "counts": "o"},
        {"size": [4, 5], "counts": [3]},
        {"size": [4, 5], "counts": [3, -2, 19]},
        {"size": [4, 5], "counts": [10.0, 10.0]},
        {"size": [0, 5], "counts": []},
        {"size": [4, 5], "counts": None},
    ],
)
def test_a_false_rle_is_refused(rle):
    with pytest.raises(InputError, match="rle"):
        decode_rle(rle)


@settings(deadline=None, max_examples=50)
@given(MASKS)
def test_polygons_enclose_exactly_the_mask(mask):
    polygons = segmentation_of(mask).to_polygons()
    rings = [ring for p in polygons for ring in (p["exterior"], *p["holes"])]
    np.testing.assert_array_equal(fill(rings, mask.shape), mask)
    assert sum(map(signed_area, rings)) == mask.sum()
    assert all(signed_area(p["exterior"]) > 0 for p in polygons)
    assert all(signed_area(hole) < 0 for p in polygons for hole in p["holes"])
    regions, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    assert len(polygons) == regions - 1
    # A hole of a 4-connected region is an 8-connected piece of what is not the region.
    for polygon in polygons:
        region = fill([polygon["exterior"], *polygon["holes"]], mask.shape)
        outside = np.pad(~region, 1, constant_values=True).astype(np.uint8)
        pieces, _ = cv2.connectedComponents(outside, connectivity=8)
        assert len(polygon["holes"]) == pieces - 2


def test_a_polygon_by_hand():
    polygons = segmentation_of(ring_mask()).to_polygons()
    assert polygons == [
        {
            "exterior": [[8, 5], [30, 5], [30, 20], [8, 20]],
            "holes": [[[12, 14], [22, 14], [22, 9], [12, 9]]],
        },
        {"exterior": [[40, 25], [41, 25], [41, 26], [40, 26]], "holes": []},
    ]


def test_coco_records_load_in_pycocotools(result, tmp_path):
    records = [
        result.to_coco(7, 18, annotation_id=1),
        result.to_coco(7, 18, annotation_id=2, segmentation="polygon"),
    ]
    assert records[0]["bbox"] == [8, 5, 33, 21]
    assert records[0]["area"] == 15 * 22 - 5 * 10 + 1
    assert records[0]["iscrowd"] == 0 and records[0]["score"] == 0.75
    assert "holes_lost" not in records[0] and records[1]["holes_lost"] == 1
    path = tmp_path / "annotations.json"
    images = [{"id": 7, "height": HEIGHT, "width": WIDTH}]
    path.write_text(
        json.dumps({"images": images, "annotations": records, "categories": [{"id": 18}]})
    )
    with contextlib.redirect_stdout(None):
        coco = COCO(str(path))
    exact, filled = (coco.annToMask(annotation) for annotation in coco.loadAnns([1, 2]))
    np.testing.assert_array_equal(exact.astype(bool), result.mask)
    expected = result.mask.copy()
    expected[5:20, 8:30] = True
    np.testing.assert_array_equal(filled.astype(bool), expected)
    np.testing.assert_array_equal(coco_mask.toBbox(result.to_rle()), records[0]["bbox"])


def test_a_coco_record_needs_no_ids(result):
    """Against the smallest COCO file there is: one image and one category, counted from 1."""
    images = [{"id": 1, "height": HEIGHT, "width": WIDTH}]
    with contextlib.redirect_stdout(None):
        truth: Any = COCO()
        truth.dataset = {"info": {}, "images": images, "categories": [{"id": 1}], "annotations": []}
        truth.createIndex()
        loaded = truth.loadRes([result.to_coco()])
    (annotation,) = loaded.loadAnns(loaded.getAnnIds(imgIds=[1], catIds=[1]))
    np.testing.assert_array_equal(loaded.annToMask(annotation).astype(bool), result.mask)


def test_an_empty_mask_has_every_form():
    empty = dataclasses.replace(
        segmentation_of(np.zeros((3, 5), bool)), image=np.zeros((3, 5, 3), np.uint8)
    )
    assert empty.to_polygons() == []
    assert empty.to_coco(1, 1)["bbox"] == [0, 0, 0, 0]
    assert empty.to_coco(1, 1, segmentation="polygon")["segmentation"] == []
    assert not decode_rle(empty.to_rle()).any()
    assert not empty.overlay().any() and not empty.cutout().any()


# Pictures


def test_the_overlay_tints_the_inside_and_leaves_the_rest(result):
    overlay = result.overlay((200, 0, 100), alpha=0.5)
    around = cv2.dilate(result.mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    within = cv2.erode(result.mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    np.testing.assert_array_equal(overlay[~around], result.image[~around])
    expected = np.add(result.image[within].astype(float), (200, 0, 100)) / 2
    assert np.abs(overlay[within] - expected).max() <= 0.5
    assert (overlay[around & ~result.mask] == 0).all()
    assert (overlay[result.mask & ~within] == 255).all()


@pytest.mark.parametrize("ground", [0, 127, 255])
def test_the_outline_shows_on_any_ground(result, ground):
    flat = dataclasses.replace(result, image=np.full((HEIGHT, WIDTH, 3), ground, np.uint8))
    difference = np.abs(flat.overlay((ground,) * 3).astype(int) - ground).max(axis=2)
    assert difference[5, 8:30].min() > 100 or difference[4, 8:30].min() > 100


def test_a_cutout_is_transparent_or_on_a_ground(result):
    cutout = result.cutout()
    assert cutout.shape == (HEIGHT, WIDTH, 4)
    np.testing.assert_array_equal(cutout[..., 3] == 255, result.mask)
    np.testing.assert_array_equal(cutout[result.mask][:, :3], result.image[result.mask])
    assert not cutout[~result.mask].any()
    green = result.cutout("#00ff00")
    assert (green[~result.mask] == (0, 255, 0)).all()
    other = np.full_like(result.image, 9)
    assert (result.cutout(other)[~result.mask] == 9).all()
    with pytest.raises(InputError, match="background"):
        result.cutout(other[1:])


@pytest.mark.parametrize("color", ["no colour", (1, 2), (1, 2, 300), (0.5, 0.5, 0.5)])
def test_colours_that_are_none(color):
    with pytest.raises(InputError, match="color"):
        parse_color(color)


def test_several_masks_in_one_picture():
    image = np.full((240, 320, 3), 128, np.uint8)
    masks = np.zeros((3, 240, 320), bool)
    for index, mask in enumerate(masks):
        mask[150:220, 20 + 100 * index : 90 + 100 * index] = True
    several = [segmentation_of(mask) for mask in masks]
    plain = overlay_many(image, several, legend=False)
    assert len({tuple(plain[180, 50 + 100 * index]) for index in range(3)}) == 3
    legend = overlay_many(image, several)
    changed = (legend != plain).any(axis=2)
    assert changed[:140, :120].any() and not changed[140:].any()
    with pytest.raises(InputError, match="size"):
        overlay_many(image[1:], several)


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (9, 300), (64, 64), (400, 20)])
def test_labels_fit_or_are_left_out(shape):
    image = np.full((*shape, 3), 128, np.uint8)
    labels = [("a very long query " * 50 + "犬", (255, 0, 0)), ("short", None)]
    for corner in ("upper left", "lower left"):
        assert draw_labels(image, labels, corner=corner).shape == image.shape


def test_a_label_too_long_is_cut_as_late_as_possible():
    font = ImageFont.load_default(12)
    text = "a long query about a dog" * 3
    cut = _fit(text, font, 90)
    kept = cut.removesuffix("...")
    assert text.startswith(kept) and font.getlength(cut) <= 90
    assert font.getlength(text[: len(kept) + 1] + "...") > 90
    assert _fit("dog", font, 90) == "dog"
    assert len(_fit("x" * 10_000, font, 90)) < 90


def test_pictures_need_the_image(result):
    bare = dataclasses.replace(result, image=None)
    for make in (bare.overlay, bare.cutout):
        with pytest.raises(InputError, match="image"):
            make()


# Files


def same(left: Segmentation, right: Segmentation) -> bool:
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in (
            (getattr(left, field.name), getattr(right, field.name))
            for field in dataclasses.fields(left)
        )
    )


def test_npz_gives_everything_back(result, tmp_path):
    result.save(tmp_path / "all.npz")
    assert same(Segmentation.load(tmp_path / "all.npz"), result)
    bare = dataclasses.replace(result, image=None, contrast=None)
    bare.save(tmp_path / "bare.npz")
    assert same(Segmentation.load(tmp_path / "bare.npz"), bare)


@pytest.mark.parametrize("suffix", [".png", ".json"])
def test_mask_and_provenance_come_back(result, tmp_path, suffix):
    path = tmp_path / f"dog{suffix}"
    result.save(path)
    loaded = Segmentation.load(path)
    np.testing.assert_array_equal(loaded.mask, result.mask)
    assert loaded.contrast_options == result.contrast_options
    assert loaded.refine_options == result.refine_options
    assert (loaded.query, loaded.prompts, loaded.presence) == (
        result.query,
        result.prompts,
        result.presence,
    )
    assert loaded.notes == (*result.notes, "score not saved; the mask stands in for it")


def test_saving_twice_gives_the_same_bytes(result, tmp_path):
    for name in ("a.png", "a.json", "a.npz"):
        result.save(tmp_path / name)
        first = (tmp_path / name).read_bytes()
        result.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == first


def test_pngs_hold_what_they_say(result, tmp_path):
    pixels = {}
    for what in ("mask", "score", "overlay", "cutout"):
        path = tmp_path / f"{what}.png"
        result.save(path, what=what)
        pixels[what] = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        with Image.open(path) as image:
            assert isinstance(image, Image.Image)
            found = json.loads(image.info["textseg"])
        assert found == result.describe() | {"what": what}
        assert read_provenance(path) == found
    np.testing.assert_array_equal(pixels["mask"], result.mask * np.uint8(255))
    assert pixels["score"].dtype == np.uint16
    assert np.abs(pixels["score"] / 65535 - result.score).max() < 1e-5
    np.testing.assert_array_equal(pixels["overlay"][..., ::-1], result.overlay())
    np.testing.assert_array_equal(pixels["cutout"][..., [2, 1, 0, 3]], result.cutout())
    with pytest.raises(InputError, match="holds the overlay, not the mask"):
        Segmentation.load(tmp_path / "overlay.png")


def test_the_record_says_how_it_was_made(result):
    record = json.loads(json.dumps(result.describe()))
    assert record["textseg"] == textseg.__version__
    assert record["seed"] == 11 and record["model"] == "mini"
    assert record["options"]["contrast"]["strength"] == [0.3, 0.7]
    assert record["options"]["refine"]["threshold"] == "otsu"
    assert record["size"] == [HEIGHT, WIDTH]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.json", None),
        ("missing.npz", None),
        ("missing.png", None),
        ("broken.json", b"{"),
        ("other.json", b'{"a": 1}'),
        ("list.json", b"[]"),
        ("half.json", b'{"textseg": "1", "kind": "segmentation"}'),
        ("binary.json", b"\xff\xfe"),
        ("text.npz", b"no archive"),
        ("empty.npz", b""),
        ("text.png", b"no image"),
        ("bad.txt", b""),
    ],
)
def test_files_that_hold_no_segmentation(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        Segmentation.load(path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_arrays_that_are_not_ours(result, tmp_path):
    np.savez(tmp_path / "foreign.npz", mask=result.mask)
    with pytest.raises(InputError, match="foreign"):
        Segmentation.load(tmp_path / "foreign.npz")
    np.savez(tmp_path / "pickled.npz", mask=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="pickled"):
        Segmentation.load(tmp_path / "pickled.npz")
    Image.fromarray(result.image).save(tmp_path / "plain.png")
    with pytest.raises(InputError, match="does not hold a textseg segmentation"):
        Segmentation.load(tmp_path / "plain.png")


@pytest.mark.parametrize("name", ["dog.jpg", "dog", "dog.PNGX"])
def test_suffixes_that_are_not_known(result, tmp_path, name):
    with pytest.raises(InputError, match=r"must end in \.png, \.json, \.npz"):
        result.save(tmp_path / name)


def test_writing_goes_through_links_and_keeps_to_the_umask(tmp_path):
    target, link = tmp_path / "target.bin", tmp_path / "link.bin"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomic(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    plain = tmp_path / "plain"
    plain.touch()
    write_atomic(tmp_path / "other", b"")
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, reason in [
        (tmp_path / "none" / "a.png", "No such file or directory"),
        (tmp_path / "folder", "it is a folder"),
        (tmp_path / "file" / "a.png", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        ("/dev/null", "it is not a regular file"),
    ]:
        with pytest.raises(OutputError, match=reason) as caught:
            write_atomic(path, b"data")
        assert "\n" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write_atomic(tmp_path / "a.png", b"data")
    tmp_path.chmod(0o700)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    resource = pytest.importorskip("resource", reason="file size limits exist on Unix only")
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match="cannot write"):
            write_atomic(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, failure, expected):
    def fail(descriptor):
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(expected):
        write_atomic(tmp_path / "a.png", b"data")
    assert list(tmp_path.iterdir()) == []


# Validation


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mask": np.zeros((HEIGHT, WIDTH), np.uint8)}, "mask must be .* bool, got .* uint8"),
        ({"mask": np.zeros((HEIGHT, WIDTH, 1), bool)}, "mask must be"),
        ({"mask": None}, "mask must be .* got NoneType"),
        ({"mask": np.zeros((0, 4), bool)}, "at least one pixel"),
        ({"score": np.zeros((HEIGHT, WIDTH))}, "float32, got .* float64"),
        ({"score": np.zeros((WIDTH, HEIGHT), np.float32)}, r"size \(30, 44\), got \(44, 30\)"),
        ({"score": np.full((HEIGHT, WIDTH), np.nan, np.float32)}, r"\[0, 1\], got nan"),
        ({"score": np.full((HEIGHT, WIDTH), 1.5, np.float32)}, r"\[0, 1\], got 1.5"),
        ({"presence": 1.01}, "presence"),
        ({"presence": float("nan")}, "presence"),
        ({"prompts": ("one",)}, "prompts"),
        ({"image": np.zeros((HEIGHT, WIDTH), np.uint8)}, "image"),
        ({"image": np.zeros((WIDTH, HEIGHT, 3), np.uint8)}, "image must be of size"),
        ({"contrast": np.zeros((4, 6))}, "contrast must be"),
    ],
)
def test_a_segmentation_is_checked(result, change, match):
    with pytest.raises((InputError, ImageError), match=match):
        dataclasses.replace(result, **change)


# Edits


@pytest.fixture
def edited(result) -> Edit:
    return Edit(
        image=255 - result.image,
        mask=result.mask,
        query=result.query,
        prompt="a cat — 猫",
        options=EditOptions(encode_ratio=0.8, seed=3),
        segmentation=result,
        model="mini",
        source=result.image,
        notes=("noted",),
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp"])
def test_an_edit_is_saved_with_how_it_was_made(edited, tmp_path, suffix):
    path = tmp_path / f"cat{suffix}"
    edited.save(path)
    assert read_provenance(path) == json.loads(json.dumps(edited.describe()))
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if suffix in (".png", ".webp"):
        np.testing.assert_array_equal(pixels, edited.image)
    else:
        assert pixels.shape == edited.image.shape


def test_an_edit_comes_back_from_npz(edited, tmp_path):
    edited.save(tmp_path / "cat.npz")
    loaded = Edit.load(tmp_path / "cat.npz")
    np.testing.assert_array_equal(loaded.image, edited.image)
    np.testing.assert_array_equal(loaded.source, edited.source)
    assert loaded.describe() == edited.describe()
    assert loaded.segmentation is not None
    np.testing.assert_array_equal(loaded.segmentation.score, edited.segmentation.score)
    with pytest.raises(InputError, match="does not hold a textseg segmentation"):
        Segmentation.load(tmp_path / "cat.npz")


def test_a_visible_label_changes_one_corner(tmp_path):
    image = np.full((200, 300, 3), 90, np.uint8)
    edit = Edit(image, np.zeros((200, 300), bool), "it", "that")
    edit.save(tmp_path / "labelled.png", visible_label=True)
    changed = (np.asarray(Image.open(tmp_path / "labelled.png")) != image).any(axis=2)
    assert changed[150:, :150].any() and not changed[:150].any() and not changed[:, 200:].any()
    assert (edit.image == 90).all()


def test_an_edit_is_checked(edited):
    with pytest.raises(InputError, match="mask must be of size"):
        dataclasses.replace(edited, mask=edited.mask.T.copy())
    with pytest.raises(ImageError, match="source"):
        dataclasses.replace(edited, source=edited.source[..., 0])
