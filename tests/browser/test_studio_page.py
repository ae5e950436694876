"""The studio in a real browser, from an upload to a downloaded edit."""

from __future__ import annotations

import io
import json
import time
import zipfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

import textseg
from textseg.provenance import read_label
from textseg.rle import decode_rle
from textseg.saving import read_provenance
from textseg.studio import StudioSettings
from textseg.studio.pictures import SAMPLES

FOLDER = Path(__file__).parents[2] / "data" / "samples"
FIRST = next(sample for sample in SAMPLES if sample.name == StudioSettings().sample)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def mini() -> textseg.Segmenter:
    return textseg.Segmenter("mini")


@pytest.fixture(scope="module")
def rows(mini: textseg.Segmenter) -> int:
    """Noisy images that mini's own options predict for each prompt."""
    return mini.contrast.samples * len(mini.contrast.strength)


def findable(mini: textseg.Segmenter, picture: Path, things: tuple[str, ...]) -> str:
    """The first of some things of a picture that mini finds."""
    mini.set_image(picture)
    found = [thing for thing in things if mini.query(thing).mask.any()]
    assert found, f"mini finds none of {things}"
    return found[0]


def mask_in(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) > 127


@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [
        (1280, 860, "light"),
        (1280, 860, "dark"),
        (1920, 1080, "light"),
        (390, 844, "light"),
        (390, 844, "dark"),
    ],
)
def test_the_first_view(visit: Any, photograph: Any, width: int, height: int, scheme: str) -> None:
    at = visit(width, height, scheme)
    found = at.page.inner_text("#ts-found label.selected")
    assert found in FIRST.things
    at.says(f"“{found}” is found already")
    tried = [at.page.inner_text(f"#ts-try-{i}") for i in range(3)]
    assert tuple(tried) == FIRST.things
    if (width < 600) == (scheme == "dark"):
        photograph(at, f"first-{width}-{scheme}")
    assert at.page.evaluate("document.documentElement.scrollWidth") <= width
    assert at.page.evaluate("[...document.images].every((one) => one.hasAttribute('alt'))")
    assert found in at.page.get_attribute("#ts-stage img", "alt")
    if width == 1920:
        used = at.page.evaluate(_SPAN, ["#ts-past", "#ts-left", "#ts-panel"])
        assert used[0] < 60 and used[1] > 1860
    dark = at.page.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark")
    at.is_clean()


_SPAN = """(parts) => {
  const boxes = parts.map((one) => document.querySelector(one).getBoundingClientRect());
  return [Math.min(...boxes.map((b) => b.left)), Math.max(...boxes.map((b) => b.right))];
}"""
_SMALL = """() => [...document.querySelectorAll(
  "button, input, textarea, [role=tab], label:has(> input[type=radio])")]
  .filter((one) => one.checkVisibility() && !one.matches("[type=radio], [type=file], :disabled"))
  .map((one) => [one.id || one.className, one.getBoundingClientRect()])
  .filter(([, box]) => box.width > 0 && (box.width < 44 || box.height < 44))
  .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)"""
_IN_SIGHT = """(part) => {
  const { top } = document.querySelector(part).getBoundingClientRect();
  return top > -5 && top < 100;
}"""
_COVERED = """() => {
  const over = document.querySelector("svg.ts-over"), box = over.getBoundingClientRect();
  const at = [0.02, 0.25, 0.5, 0.75, 0.98];
  return at.flatMap((x) => at.map((y) => [box.left + x * box.width, box.top + y * box.height]))
    .filter(([x, y]) => !over.contains(document.elementFromPoint(x, y)));
}"""


def test_on_a_phone_targets_are_large_and_the_picture_is_never_covered(visit: Any) -> None:
    at = visit(390, 844)
    for tab in ("1 Find", "2 Edit", "3 Save"):
        at.turn(tab)
        closed = at.page.locator("button.label-wrap:not(.open):visible")
        while closed.count():
            closed.first.tap()
        assert at.page.evaluate(_SMALL) == []
    at.turn("1 Find")
    at.page.tap("#ts-sample-park")
    at.says("park.jpg is open")
    at.page.locator("#ts-canvas").evaluate("(canvas) => canvas.scrollIntoView()")
    at.page.touchscreen.tap(*at.at(0.5, 0.5))
    at.says("Query must be asked first")
    at.page.wait_for_selector(".toast-wrap >> text=Query must be asked first")
    assert at.page.evaluate(_COVERED) == []
    at.page.tap("#ts-try-1")
    at.says(f"“{at.page.inner_text('#ts-try-1')}”")
    at.takes("minus")
    at.page.touchscreen.tap(*at.at(0.1, 0.1))
    at.says("Took away a place")
    at.page.locator("#ts-remove").tap()
    at.says("tried to remove")
    at.page.wait_for_function(_IN_SIGHT, arg="#ts-left")
    at.is_clean()


def test_from_an_upload_to_a_downloaded_edit(
    visit: Any, photograph: Any, tmp_path: Path, mini: textseg.Segmenter, rows: int
) -> None:
    picture = tmp_path / "my table.png"
    Image.open(FOLDER / "table.jpg").save(picture)
    thing = findable(mini, picture, ("the cup", "the banana", "the apple"))
    at = visit()
    page = at.page

    page.set_input_files("#ts-bar input[type=file]", picture)
    at.says("my table.png is open, 480 × 360 pixels.")
    at.type("#ts-query", thing)
    page.keyboard.press("Enter")
    at.says(f"“{thing}”:")
    at.says(f"{2 * rows} predictions of the model")
    at.turn("3 Save")
    mask = at.download("mask", tmp_path)
    assert mask.name == f"my table.{thing.replace(' ', '-')}.mask.png"
    assert np.array_equal(mask_in(mask), textseg.segment(picture, thing).mask)

    at.turn("1 Find")
    at.set("#ts-level", "0.6")
    at.says("no model ran")
    at.turn("3 Save")
    page.wait_for_selector("#ts-python >> text=level=")
    moved = mask_in(at.download("mask", tmp_path))
    assert np.array_equal(moved, textseg.segment(picture, thing, level=0.6).mask)

    at.takes("brush")
    at.drags((0.3, 0.1), (0.45, 0.12))
    at.says("Painted in")
    painted = mask_in(at.download("mask", tmp_path))
    assert (painted & ~moved).sum() > 500
    assert not (moved & ~painted).any()
    at.takes("eraser")
    at.drags((0.3, 0.1), (0.36, 0.11))
    at.says("Erased")
    erased = mask_in(at.download("mask", tmp_path))
    assert (painted & ~erased).sum() > 200
    assert not (erased & ~painted).any()
    page.click("#ts-undo")
    at.says("Back at: Painted in")

    at.turn("1 Find")
    page.click("#ts-approve")
    at.says("is approved")
    at.type("#ts-prompt", "a strawberry")
    page.click("#ts-edit-more button")
    page.fill("#ts-edit-steps input[type=number]", "200")
    page.click("#ts-edit")
    page.click("#ts-cancel")
    at.says("Cancelled. Nothing was changed.")
    page.wait_for_timeout(1000)  # A button takes no click until its job has ended.
    page.fill("#ts-edit-steps input[type=number]", "20")
    page.click("#ts-edit")
    at.says("tried to turn")
    line = page.inner_text("#ts-status p")
    page.wait_for_selector("#ts-after img")
    photograph(at, "edit-1280-light")
    at.turn("3 Save")
    photograph(at, "save-1280-light")
    edited = at.download("edit", tmp_path)
    said = read_provenance(edited)
    assert said is not None and said["prompt"] == "a strawberry" and said["options"]["steps"] == 20
    assert said["outcome"]["words"] == line and "became" not in line
    assert read_label(edited).made_by_model
    before, after = (np.asarray(Image.open(path).convert("RGB")) for path in (picture, edited))
    far = np.asarray(distance_transform_edt(~painted)) > said["options"]["grow"] * 480 + 1
    assert np.array_equal(before[far], after[far])
    assert (before[painted] != after[painted]).any()
    at.is_clean()


def test_clicks_on_the_picture_correct_the_mask(
    visit: Any, photograph: Any, tmp_path: Path, mini: textseg.Segmenter
) -> None:
    picture = FOLDER / "park.jpg"
    thing = findable(mini, picture, ("the dog", "the tree"))
    with Image.open(picture) as opened:
        width, height = opened.size
    places = {(190, 215): 1, (300, 60): 0, (100, 340): 0, (380, 290): 1}
    at = visit()
    page = at.page
    page.click("#ts-sample-park")
    at.says("park.jpg is open")
    at.type("#ts-query", thing)
    page.keyboard.press("Enter")
    at.says(f"“{thing}”:")
    ways: list[dict[str, Any]] = [{}, {"button": "right"}, {"modifiers": True}, {}]
    for ((x, y), label), how in zip(places.items(), ways, strict=True):
        marks = page.locator(f"svg.ts-over g.ts-{'plus' if label else 'minus'}").count()
        if how.pop("modifiers", False):
            page.keyboard.down("Shift")
        at.clicks((x + 0.5) / width, (y + 0.5) / height, **how)
        page.keyboard.up("Shift")
        page.wait_for_function(
            "([kind, n]) => document.querySelectorAll(`svg.ts-over g.ts-${kind}`).length === n",
            arg=["plus" if label else "minus", marks + 1],
        )
    photograph(at, "clicks-1280-light")
    at.turn("3 Save")
    mini.set_image(picture)
    points = [(x, y, label) for (x, y), label in places.items()]
    clicked = mask_in(at.download("mask", tmp_path))
    assert np.array_equal(clicked, mini.query(thing, points=points).mask)

    at.drags((100.5 / width, 100.5 / height), (399.5 / width, 339.5 / height))
    at.says("Drew a box")
    boxed = mask_in(at.download("mask", tmp_path))
    whole = mini.query(thing, points=points, boxes=[(100, 100, 400, 340)])
    assert np.array_equal(boxed, whole.mask)
    page.keyboard.press("Control+z")
    at.says("Back at: Added a place")
    assert np.array_equal(mask_in(at.download("mask", tmp_path)), clicked)

    page.focus("svg.ts-over")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+Enter")
    at.says("Took away a place")
    # It goes on from there, though the picture was drawn anew.
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    at.says("Added a place")
    keyed = mask_in(at.download("mask", tmp_path))[height // 2]
    assert not keyed[round(0.49 * width)] and keyed[round(0.5 * width)]
    at.is_clean()


def test_the_same_file_is_opened_again(visit: Any) -> None:
    at = visit()
    for times in (1, 2):
        with at.page.expect_file_chooser() as choosing:
            at.page.click("#ts-upload")
        # A browser tells only of another choice.
        assert at.page.input_value("#ts-bar input[type=file]") == ""
        choosing.value.set_files(FOLDER / "park.jpg")
        at.page.wait_for_function(
            "([label, n]) => [...document.querySelectorAll('#ts-history button')]"
            ".filter((one) => one.textContent.includes(label)).length === n",
            arg=["Opened park.jpg", times],
        )
    at.is_clean()


def test_what_is_saved_and_the_code_that_gives_it(
    visit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mini: textseg.Segmenter
) -> None:
    thing = findable(mini, FOLDER / "park.jpg", ("the dog", "the tree"))
    at = visit()
    page = at.page
    page.click("#ts-sample-park")
    at.says("park.jpg is open")
    for query in (thing, "the ball"):
        at.type("#ts-query", query)
        page.click("#ts-find")
        at.says(f"“{query}”")
    at.says("“the ball”")
    assert page.locator("#ts-found label").count() == 2
    page.click(f"#ts-found label >> text={thing}")
    page.wait_for_selector(f"#ts-found label.selected >> text={thing}")
    at.settles()
    at.turn("3 Save")
    mask = mask_in(at.download("mask", tmp_path))
    cutout = np.asarray(Image.open(at.download("cutout", tmp_path)))
    assert np.array_equal(cutout[..., 3] > 127, mask)
    coco = json.loads(at.download("coco", tmp_path).read_text("utf-8"))
    drawn = [decode_rle(one["segmentation"]) for one in coco["annotations"]]
    assert any(np.array_equal(one, mask) for one in drawn)
    original = at.download("image", tmp_path)
    assert original.read_bytes() == (FOLDER / "park.jpg").read_bytes()
    with zipfile.ZipFile(at.download("all", tmp_path)) as packed:
        name = f"park.{thing.replace(' ', '-')}.mask.png"
        assert np.array_equal(mask_in(io.BytesIO(packed.read(name))), mask)  # pyright: ignore

    code = "\n".join(page.locator("#ts-python .cm-line").all_inner_texts())
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).unlink()
    exec(code, {})
    assert np.array_equal(mask_in(tmp_path / name), mask)
    at.is_clean()


_PUT_ON_CLIPBOARD = """async (data) => {
  const answer = await fetch("data:image/png;base64," + data);
  const item = new ClipboardItem({ "image/png": await answer.blob() });
  await navigator.clipboard.write([item]);
}"""
_DROP = """async (data) => {
  const answer = await fetch("data:image/png;base64," + data);
  const carrier = new DataTransfer();
  carrier.items.add(new File([await answer.blob()], "dropped.png", { type: "image/png" }));
  const event = { dataTransfer: carrier, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("drop", event));
}"""


def test_pictures_from_the_clipboard_a_drop_and_words(visit: Any, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pixels = np.asarray(Image.open(FOLDER / "beach.jpg").resize((160, 120)))
    Image.fromarray(pixels).save(buffer, "PNG")
    data = b64encode(buffer.getvalue()).decode()
    at = visit()
    page = at.page
    page.evaluate(_PUT_ON_CLIPBOARD, data)
    page.keyboard.press("Control+V")
    at.says("is open, 160 × 120 pixels.")
    at.turn("3 Save")
    pasted = np.asarray(Image.open(at.download("image", tmp_path)).convert("RGB"))
    assert np.array_equal(pasted, pixels)

    page.evaluate(_DROP, data)
    at.says("dropped.png is open, 160 × 120 pixels.")

    page.click("text=Make a picture from words")
    at.type("#ts-make-prompt", "a photo of a horse")
    page.click("#ts-make")
    at.says("a-photo-of-a-horse.png is open")
    at.turn("3 Save")
    assert read_label(at.download("image", tmp_path)).made_by_model

    page.click("#ts-history button >> text=dropped.png")
    at.says("Back at: Opened dropped.png.")
    at.is_clean()


def test_nouns_are_offered_and_what_is_not_found_is_grey(visit: Any, mini: Any) -> None:
    at = visit()
    at.page.focus("#ts-query input")
    offered = at.page.locator("#ts-nouns option")
    assert at.page.get_attribute("#ts-query input", "list") == "ts-nouns"
    nouns = [f"the {noun}" for noun in mini.model.nouns]
    assert offered.evaluate_all("(all) => all.map((one) => one.value)") == nouns
    at.type("#ts-query", "the zorb")
    at.page.keyboard.press("Enter")
    at.says("“the zorb” was not found")
    chip = at.page.locator("#ts-found label.selected")
    assert chip.inner_text() == "the zorb (not found)"
    dot = "(one) => getComputedStyle(one, '::before').backgroundColor"
    assert chip.evaluate(dot) == "rgb(156, 163, 175)"
    assert at.page.locator("#ts-found label").first.evaluate(dot) == "rgb(230, 57, 70)"
    at.is_clean()


def test_remove_recolour_and_extend(visit: Any, tmp_path: Path) -> None:
    at = visit()
    page = at.page
    found = page.inner_text("#ts-found label.selected")
    page.click("#ts-remove")
    at.says(f"tried to remove {found}; mini sees")
    page.wait_for_selector("#ts-after img[alt='Before the edit']")
    page.wait_for_selector("#ts-after img[alt='After the edit']")
    at.turn("3 Save")
    removed = read_provenance(at.download("edit", tmp_path))
    assert removed is not None and removed["method"] == "fill"
    at.turn("2 Edit")
    page.set_input_files("#ts-edit-row input[type=file]", FOLDER / "beach.jpg")
    at.says("another picture's colours")
    page.click("#ts-extend-more button")
    page.fill("#ts-extend-left input", "25")
    page.fill("#ts-extend-top input", "10")
    page.click("#ts-extend")
    at.says("tried to extend the picture")
    at.turn("3 Save")
    extended = at.download("edit", tmp_path)
    with Image.open(extended) as opened:
        assert opened.size == (480 + 120, 360 + 36)
    assert page.locator("#ts-history button").count() == 6
    assert page.get_attribute("#ts-history li:last-child button", "aria-current") == "step"
    page.click("#ts-history button >> text=Approved")
    at.says("Back at: Approved")
    at.is_clean()


def test_a_phone_and_the_keyboard_are_enough(visit: Any) -> None:
    at = visit(390, 844, "dark")
    page = at.page
    page.focus("#ts-try-1")
    page.keyboard.press("Enter")
    at.says(f"“{FIRST.things[1]}”")
    page.wait_for_selector(f"#ts-found label.selected >> text={FIRST.things[1]}")
    at.settles()
    page.focus("#ts-level input[type=range]")
    page.keyboard.press("ArrowLeft")
    at.says("no model ran")
    for view in ("Mask", "Contrast", "Soft map"):
        at.looks_at(view)
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
    at.type("#ts-query", " ")
    at.page.click("#ts-find")
    at.says("Query must say what to find, got nothing.")
    at.is_clean()


def test_two_visitors_do_not_see_each_others_work(visit: Any) -> None:
    first, second = visit(), visit()
    first.page.click("#ts-invert")
    first.says("Inverted")
    second.page.click("#ts-grow")
    second.says("Grown by 2 pixels.")
    assert "Inverted" not in second.page.inner_text("#ts-python, body")
    second.is_clean()


def test_the_server_has_the_studio_and_the_same_masks(
    visit: Any, server: tuple[str, str], tmp_path: Path, mini: textseg.Segmenter
) -> None:
    picture = FOLDER / "table.jpg"
    thing = findable(mini, picture, ("the banana", "the cup", "the apple"))
    at = visit(at=server)
    at.page.set_input_files("#ts-bar input[type=file]", picture)
    at.says("table.jpg is open, 480 × 360 pixels.")
    at.type("#ts-query", thing)
    at.page.click("#ts-find")
    at.says(f"“{thing}”:")
    at.turn("3 Save")
    mask = mask_in(at.download("mask", tmp_path))
    client = textseg.Client(server[0].rstrip("/"), token=server[1])
    assert np.array_equal(mask, client.segment(picture, thing).mask)
    at.is_clean()


def test_ending_it_while_a_page_is_open_is_quick_and_quiet(visit: Any, start: Any) -> None:
    program = start("studio", "--sample", "park")
    visit(at=(program.address, ""))
    begun = time.monotonic()
    said = program.stop()
    assert time.monotonic() - begun < 30
    assert "ERROR" not in said and "Traceback" not in said
