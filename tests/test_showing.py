"""Results as a person sees them: reprs, pictures in a notebook, viewers, Pillow, supervision."""

from __future__ import annotations

import dataclasses
import io
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageShow

import textseg
from textseg.cutting import Measurement
from textseg.edits import Edit
from textseg.errors import InputError, MissingDependencyError
from textseg.generation import Generation
from textseg.masks import Segmentation
from textseg.options import ContrastOptions, GenerateOptions, RefineOptions
from textseg.saving import read_provenance
from textseg.segmenter import Segmenter
from textseg.showing import LONGEST_SIDE

HEIGHT, WIDTH = 50, 32


@pytest.fixture
def found() -> Segmentation:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:20, 4:12] = True
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Segmentation(mask, mask.astype(np.float32), 0.874, "the dog", image=image)


@pytest.fixture
def edited(found: Segmentation) -> Edit:
    assert found.image is not None
    return Edit(255 - found.image, found.mask, "the dog", "a cat", source=found.image)


def made(height: int = HEIGHT, width: int = WIDTH) -> Generation:
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Generation(image, "a photo of a dog", GenerateOptions(seed=3), "mini")


def seen(result: Any) -> np.ndarray:
    """The pixels of what a notebook shows."""
    with Image.open(io.BytesIO(result._repr_png_())) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def test_a_result_is_one_line(found: Segmentation, edited: Edit) -> None:
    assert repr(found) == "Segmentation('the dog', 32x50, presence 0.87, area 5.0 %)"
    end = "diffedit, 32x50, area 5.0 %)"
    assert repr(edited) == f"Edit('the dog' to 'a cat', {end}"
    assert repr(dataclasses.replace(edited, prompt="")) == f"Edit('the dog' to '', {end}"
    assert repr(dataclasses.replace(edited, query="")) == f"Edit('a cat', {end}"
    assert repr(dataclasses.replace(edited, query="", prompt="")) == f"Edit({end}"
    assert repr(made()) == "Generation('a photo of a dog', 32x50, seed 3)"
    wordy = dataclasses.replace(found, query="the dog\n" * 200)
    assert len(repr(wordy)) < 140 and "\n" not in repr(wordy)


def test_what_asks_a_model_is_one_line() -> None:
    model = textseg.load("mini", device="cpu")
    assert repr(model) == "LatentUNet('mini', cpu)"
    segmenter = Segmenter(model)
    assert repr(segmenter) == "Segmenter(LatentUNet('mini', cpu), no image)"
    segmenter.set_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert repr(segmenter) == "Segmenter(LatentUNet('mini', cpu), 32x50)"


def test_a_measurement_shows_its_contrast() -> None:
    contrast = np.zeros((30, 20), np.float32)
    contrast[4, 7] = 2
    options = ContrastOptions(), RefineOptions()
    found = Measurement("the dog", ("", ""), contrast, 0.5, *options, "mini", "1")
    assert repr(found) == "Measurement('the dog', 20x30, presence 0.50)"
    shown = seen(found)
    times = shown.shape[0] // 30
    assert shown.shape == (30 * times, 20 * times, 3) and times > 5
    bright = shown[..., 0] > 200
    expected = np.zeros_like(bright)
    expected[4 * times : 5 * times, 7 * times : 8 * times] = True
    np.testing.assert_array_equal(bright, expected)


def test_a_notebook_shows_the_overlay(found: Segmentation) -> None:
    np.testing.assert_array_equal(seen(found), found.overlay())
    bare = dataclasses.replace(found, image=None)
    np.testing.assert_array_equal(seen(bare), np.where(found.mask, 255, 0))


def test_a_notebook_shows_before_and_after(edited: Edit) -> None:
    shown = seen(edited)
    assert shown.shape[0] == HEIGHT and shown.shape[1] > 2 * WIDTH
    np.testing.assert_array_equal(shown[:, :WIDTH], edited.source)
    np.testing.assert_array_equal(shown[:, -WIDTH:], edited.image)
    assert (shown[:, WIDTH:-WIDTH] == 255).all()
    np.testing.assert_array_equal(seen(dataclasses.replace(edited, source=None)), edited.image)


@pytest.mark.parametrize(("height", "width"), [(3000, 1500), (40, 5000)])
def test_a_notebook_is_not_filled_by_a_large_picture(height: int, width: int) -> None:
    generated = made(height, width)
    shown = seen(generated)
    scale = LONGEST_SIDE / max(height, width)
    assert shown.shape == (round(height * scale), round(width * scale), 3)
    assert generated.to_pil().size == (width, height)


def test_a_large_overlay_is_that_of_the_small_picture() -> None:
    """Against every pixel tinted, then shrunk: outlines apart, whose width goes with the size."""
    mask = np.zeros((2 * LONGEST_SIDE, 1600), bool)
    mask[300:1500, 200:700] = True
    image = np.full((*mask.shape, 3), (40, 90, 160), np.uint8)
    large = Segmentation(mask, mask.astype(np.float32), 0.5, "the dog", image=image)
    shown = seen(large)
    assert shown.shape == (LONGEST_SIDE, 800, 3)
    expected = np.asarray(large.to_pil().resize((800, LONGEST_SIDE))).astype(int)
    edges = np.zeros(shown.shape[:2], bool)
    edges[145:756, 95:356] = True
    edges[156:744, 106:344] = False
    assert np.abs(shown.astype(int) - expected)[~edges].max() <= 2
    assert (shown[edges] == 255).all(axis=1).any()


def test_show_opens_every_pixel_in_the_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Image.Image] = []
    monkeypatch.setattr(ImageShow, "show", lambda image, title: opened.append(image) or True)
    large = made(2000, 1100)
    large.show()
    np.testing.assert_array_equal(np.asarray(opened[0]), large.image)


def test_show_says_where_there_is_no_viewer(
    found: Segmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageShow, "_viewers", [])
    with pytest.raises(MissingDependencyError, match="a viewer for pictures is missing"):
        found.show()


@pytest.mark.parametrize("in_notebook", [True, False])
def test_show_knows_a_notebook_from_a_terminal(
    in_notebook: bool, found: Segmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    displayed: list[Any] = []
    opened: list[Any] = []
    shell = SimpleNamespace(kernel=object()) if in_notebook else SimpleNamespace()
    python: Any = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", python)
    display: Any = SimpleNamespace(display=displayed.append)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(ImageShow, "show", lambda image, title: opened.append(image) or True)
    found.show()
    assert (displayed == [found], len(opened)) == ((True, 0) if in_notebook else (False, 1))


def test_pillow_pictures_are_what_is_saved(
    found: Segmentation, edited: Edit, tmp_path: Any
) -> None:
    for what, mode in (("mask", "L"), ("score", "I;16"), ("overlay", "RGB"), ("cutout", "RGBA")):
        picture = found.to_pil(what)  # pyright: ignore[reportArgumentType]
        found.save(tmp_path / "file.png", what)  # pyright: ignore[reportArgumentType]
        with Image.open(tmp_path / "file.png") as saved:
            assert (picture.mode, picture.size) == (mode, (WIDTH, HEIGHT))
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(saved))
    np.testing.assert_array_equal(np.asarray(edited.to_pil()), edited.image)
    with pytest.raises(InputError, match="what must be one of mask, score, overlay, cutout"):
        found.to_pil("everything")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="image must be given for an overlay"):
        dataclasses.replace(found, image=None).to_pil()


def test_results_are_equal_to_themselves_alone() -> None:
    one, same = made(), made()
    assert one == one and one != same and len({one, same}) == 2


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_an_overlay_is_saved_as_photographs_are(
    found: Segmentation, suffix: str, tmp_path: Any
) -> None:
    path = tmp_path / f"dog{suffix}"
    found.save(path, "overlay")
    assert read_provenance(path) == found.describe() | {"what": "overlay"}
    with Image.open(path) as picture:
        assert picture.format == {".webp": "WEBP"}.get(suffix, "JPEG")
        off = np.asarray(picture.convert("RGB")).astype(int) - found.overlay()
    assert np.abs(off).mean() <= (0 if suffix == ".webp" else 8)


def test_a_cutout_is_saved_as_webp_with_its_transparency(
    found: Segmentation, tmp_path: Any
) -> None:
    found.save(tmp_path / "dog.webp", "cutout")
    with Image.open(tmp_path / "dog.webp") as picture:
        np.testing.assert_array_equal(np.asarray(picture)[found.mask], found.cutout()[found.mask])
        np.testing.assert_array_equal(np.asarray(picture)[..., 3] > 0, found.mask)


@pytest.mark.parametrize(("what", "name"), [
    ("mask", "dog.jpg"), ("mask", "dog.webp"), ("score", "dog.webp"), ("cutout", "dog.jpg"),
    ("overlay", "dog.bmp"),
])  # fmt: skip
def test_what_a_format_would_spoil_is_refused(
    found: Segmentation, what: Any, name: str, tmp_path: Any
) -> None:
    with pytest.raises(InputError, match=r"path must end in \.png, .*, got '.*dog"):
        found.save(tmp_path / name, what)
    assert not list(tmp_path.iterdir())


def test_detections_for_supervision(found: Segmentation) -> None:
    supervision: Any = pytest.importorskip("supervision", reason="supervision is not installed")
    detections = found.to_supervision(class_id=4)
    np.testing.assert_array_equal(detections.mask, found.mask[None])
    # supervision's own box counts to the last pixel, ours, as COCO's, to the end of it.
    last = supervision.mask_to_xyxy(found.mask[None])
    np.testing.assert_array_equal(np.subtract(detections.xyxy, last), [[0, 0, 1, 1]])
    np.testing.assert_allclose(np.asarray(detections.confidence), 0.874, rtol=1e-6)
    other = dataclasses.replace(found, query="the tree").to_supervision(class_id=5)
    both = supervision.Detections.merge([detections, other])
    assert both.class_id.tolist() == [4, 5]
    assert both["class_name"].tolist() == ["the dog", "the tree"]
    np.testing.assert_array_equal(both.area, [80, 80])
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    annotated = supervision.MaskAnnotator(opacity=1).annotate(canvas.copy(), both)
    np.testing.assert_array_equal(annotated.any(axis=2), found.mask)


def test_an_empty_mask_is_no_detection(found: Segmentation) -> None:
    supervision: Any = pytest.importorskip("supervision", reason="supervision is not installed")
    empty = dataclasses.replace(found, mask=np.zeros_like(found.mask)).to_supervision()
    assert len(empty) == 0
    assert len(supervision.Detections.merge([empty, found.to_supervision()])) == 1


def test_supervision_that_is_missing(found: Segmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'textseg\[supervision\]'"):
        found.to_supervision()
