"""The studio in a real browser, from an upload to a downloaded edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import textseg
from textseg.labels import read_label
from textseg.saving import read_provenance

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [(1280, 860, "light"), (1280, 860, "dark"), (390, 844, "light"), (390, 844, "dark")],
)
def test_the_first_view(visit: Any, photograph: Any, width: int, height: int, scheme: str) -> None:
    at = visit(width, height, scheme)
    assert at.page.inner_text("#ts-found label.selected") == "the horse"
    tried = [at.page.inner_text(f"#ts-try-{i}") for i in range(3)]
    assert tried == ["the horse", "the cow", "the tractor"]
    photograph(at, f"first-{width}-{scheme}")
    assert at.page.evaluate("document.documentElement.scrollWidth") <= width
    dark = at.page.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark")
    at.is_clean()


def test_from_an_upload_to_a_downloaded_edit(visit: Any, photograph: Any, tmp_path: Path) -> None:
    picture = tmp_path / "my table.png"
    Image.open(SAMPLES / "table.jpg").save(picture)
    at = visit()
    page = at.page

    page.set_input_files("#ts-bar input[type=file]", picture)
    at.says("my table.png is open, 480 × 360 pixels.")
    at.type("#ts-query", "the apple")
    page.keyboard.press("Enter")
    at.says("“the apple”:")
    at.says("8 UNet rows")
    at.turn("3 Save")
    mask = at.download("mask", tmp_path)
    assert mask.name == "my table.the-apple.mask.png"
    apart = textseg.segment(picture, "the apple")
    assert np.array_equal(np.asarray(Image.open(mask)) > 127, apart.mask)

    at.turn("1 Find")
    page.fill("#ts-level input[type=number]", "0.4")
    page.keyboard.press("Tab")
    at.says("0 UNet rows")
    at.turn("3 Save")
    page.wait_for_selector("#ts-python >> text=level=")
    moved = np.asarray(Image.open(at.download("mask", tmp_path))) > 127
    assert np.array_equal(moved, textseg.segment(picture, "the apple", level=0.4).mask)

    at.turn("Paint")
    page.wait_for_selector("#ts-editor canvas")
    page.wait_for_timeout(3000)
    box = page.locator("#ts-editor canvas").first.bounding_box()
    x, y = box["x"] + 0.3 * box["width"], box["y"] + 0.35 * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 70, y + 10, steps=8)
    page.mouse.up()
    photograph(at, "paint-1280-light")
    page.click("#ts-paint")
    at.says("Painted in")
    painted = np.asarray(Image.open(at.download("mask", tmp_path))) > 127
    assert (painted & ~moved).sum() > 500
    assert not (moved & ~painted).any()

    at.turn("1 Find")
    page.click("#ts-approve")
    at.says("is approved")
    at.type("#ts-prompt", "a tomato")
    page.fill("#ts-edit-steps input[type=number]", "200")
    page.click("#ts-edit")
    page.click("#ts-cancel")
    at.says("Cancelled. Nothing was changed.")
    page.fill("#ts-edit-steps input[type=number]", "20")
    page.click("#ts-edit")
    at.says("became “a tomato”")
    page.wait_for_selector("#ts-after img")
    photograph(at, "edit-1280-light")
    at.turn("3 Save")
    photograph(at, "save-1280-light")
    edited = at.download("edit", tmp_path)
    said = read_provenance(edited)
    assert said is not None and said["prompt"] == "a tomato" and said["options"]["steps"] == 20
    assert read_label(edited).made_by_model
    before, after = (np.asarray(Image.open(path).convert("RGB")) for path in (picture, edited))
    assert np.array_equal(before[~painted], after[~painted])
    assert (before[painted] != after[painted]).any()
    at.is_clean()


def test_a_phone_and_the_keyboard_are_enough(visit: Any, photograph: Any) -> None:
    at = visit(390, 844, "dark")
    page = at.page
    page.focus("#ts-try-1")
    page.keyboard.press("Enter")
    at.says("“the cow”:")
    page.wait_for_selector("#ts-found label.selected >> text=the cow")
    photograph(at, "cow-390-dark")
    page.focus("#ts-level input[type=range]")
    page.keyboard.press("ArrowLeft")
    at.says("0 UNet rows")
    page.focus("#ts-view input[value='Soft map']")
    page.keyboard.press("Space")
    page.wait_for_selector("#ts-view label.selected >> text=Soft map")
    photograph(at, "soft-390-dark")
    page.focus("#ts-invert")
    page.keyboard.press("Enter")
    at.says("Inverted")
    page.focus("#ts-undo")
    page.keyboard.press("Enter")
    at.says("Back at:")
    at.is_clean()


def test_what_goes_wrong_is_said_in_a_sentence(visit: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    at = visit()
    at.page.set_input_files("#ts-bar input[type=file]", broken)
    at.says("Image is in no known format")
    assert "Traceback" not in at.page.content()
    at.type("#ts-query", "the")
    at.page.click("#ts-find")
    at.says("Query must name something")
    at.is_clean()


def test_two_visitors_do_not_see_each_others_work(visit: Any) -> None:
    first, second = visit(), visit()
    first.page.click("#ts-invert")
    first.says("Inverted")
    second.page.click("#ts-grow")
    second.says("Grown by 2 pixels. “the horse”")
    assert "Inverted" not in second.page.inner_text("#ts-python, body")
    second.is_clean()
