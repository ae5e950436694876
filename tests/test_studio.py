"""The studio without a browser: its work, history, snippets and downloads; then the page itself."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import shlex
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from PIL import Image
from scipy.ndimage import distance_transform_edt

import textseg
from textseg.cli import main
from textseg.errors import CancelledError, InputError, MissingDependencyError
from textseg.options import ContrastOptions, RefineOptions
from textseg.provenance import TRAINED, read_label
from textseg.rle import decode_rle
from textseg.saving import read_provenance
from textseg.segmenter import Segmenter
from textseg.studio import (
    StudioSettings,
    actions,
    exports,
    gestures,
    jobs,
    markers,
    pictures,
    snippets,
    strip,
    views,
)
from textseg.studio.actions import cutting
from textseg.studio.history import MOST_STEPS
from textseg.studio.pictures import Picture
from textseg.studio.session import Session
from textseg.studio.work import Correction

DOG, BALL = (0.25, 0.1, 0.75, 0.4), (0.5, 0.6, 1.0, 0.9)
HEIGHT, WIDTH = 96, 160
CRF = RefineOptions(min_presence=0.1)
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="needs the extra textseg[studio]"
)


def box(fractions: tuple[float, float, float, float]) -> np.ndarray:
    top, left, bottom, right = fractions
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[
        round(top * HEIGHT) : round(bottom * HEIGHT), round(left * WIDTH) : round(right * WIDTH)
    ] = 1
    return mask  # fmt: skip


@pytest.fixture
def pixels() -> np.ndarray:
    rng = np.random.default_rng(3)
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = (40, 160, 60)
    image[box(DOG)] = (120, 80, 40)
    image[box(BALL)] = (220, 30, 30)
    return np.clip(image + rng.integers(-6, 7, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def picture(pixels: np.ndarray, tmp_path: Path) -> Picture:
    path = tmp_path / "my park.png"
    Image.fromarray(pixels).save(path)
    return pictures.open_file(path, max_pixels=10**6)


@pytest.fixture
def model() -> FakeBackbone:
    return FakeBackbone({"dog": DOG, "ball": BALL}, refine=CRF)


@pytest.fixture
def session(model: FakeBackbone, picture: Picture) -> Session:
    session = Session(model)
    actions.open_picture(session, picture)
    return session


def mask_of(session: Session) -> np.ndarray:
    layer = session.work.layer
    assert layer is not None
    return layer.mask


# -- finding and thresholds ------------------------------------------------------------------


def test_the_settled_mask_is_the_librarys(session: Session, pixels: np.ndarray) -> None:
    actions.ask(session, "the dog")
    assert not session.work.layers[0].settled
    assert actions.settle(session)
    assert not actions.settle(session)
    apart = textseg.segment(pixels, "the dog", model=session.segmenter.model)
    assert np.array_equal(mask_of(session), apart.mask)
    assert session.work.layers[0].result.refine_options == CRF


def test_moving_the_threshold_runs_no_model(
    session: Session, model: FakeBackbone, pixels: np.ndarray
) -> None:
    actions.ask(session, "the dog")
    calls = len(model.calls)
    for level in (0.2, 0.9, 0.35):
        assert actions.retune(session, level=level).rows == 0
    actions.settle(session)
    assert len(model.calls) == calls
    apart = textseg.segment(pixels, "the dog", model=model, level=0.35)
    assert np.array_equal(mask_of(session), apart.mask)


def test_each_step_costs_the_rows_it_must(session: Session) -> None:
    n = session.segmenter.contrast.samples
    assert actions.ask(session, "the dog").rows == 2 * n
    # The reference "" was predicted already.
    assert actions.ask(session, "the ball").rows == n
    assert actions.ask(session, "the dog").rows == 0
    # The query was, too.
    assert actions.requery(session, reference="absent").rows == n
    assert actions.requery(session, reference="null").rows == 0


def test_a_query_is_asked_as_it_is_typed(session: Session, pixels: np.ndarray) -> None:
    query = " the dog,  large; brown "
    actions.ask(session, query)
    actions.settle(session)
    (layer,) = session.work.layers
    apart = textseg.segment(pixels, query, model=session.segmenter.model)
    assert layer.query == "the dog, large; brown"
    assert np.array_equal(layer.mask, apart.mask)


def test_what_settles_meanwhile_loses_no_move_of_the_slider(
    session: Session, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions.ask(session, "the dog")
    settling = threading.Thread(target=actions.settle, args=[session])

    def cut_while_it_settles(*given: Any, **changes: Any) -> Any:
        settling.start()
        settling.join(1)
        return cutting.cut_again(*given, **changes)

    monkeypatch.setattr("textseg.studio.actions.tuning.cut_again", cut_while_it_settles)
    actions.retune(session, level=0.2)
    settling.join(10)
    actions.settle(session)
    apart = textseg.segment(pixels, "the dog", model=session.segmenter.model, level=0.2)
    assert np.array_equal(mask_of(session), apart.mask)


def test_masks_that_settle_while_a_query_is_asked_again_do_not_stop_it(session: Session) -> None:
    actions.ask(session, "the dog")

    def settle(done: int, total: int, stage: str) -> bool:
        actions.settle(session)
        actions.correct(session, Correction("grow", 2))
        return True

    actions.requery(session, settle, samples=2)
    layer = session.work.layers[0]
    assert layer.measured.contrast_options.samples == 2
    assert layer.corrections


def test_another_query_selected_meanwhile_is_left_alone(session: Session) -> None:
    actions.ask(session, "the dog")
    actions.ask(session, "the ball")

    def turn_away(done: int, total: int, stage: str) -> bool:
        actions.select(session, 0)
        return True

    with pytest.raises(InputError, match="must stay selected"):
        actions.requery(session, turn_away, samples=2)


def test_a_large_picture_is_cut_small_first_and_then_at_its_size(
    model: FakeBackbone, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "VIEW_SIDE", 80)
    session = Session(model)
    pixels.flags.writeable = False
    actions.open_picture(session, Picture(pixels, "a.png", b"", "upload"))
    actions.ask(session, "the dog")
    layer = session.work.layers[0]
    assert session.work.picture.view.shape == (48, 80, 3)
    assert layer.mask.shape == (HEIGHT, WIDTH)
    assert views.overlay(session.work).shape == (48, 80, 3)
    assert (layer.mask & box(DOG)).sum() > 0.8 * box(DOG).sum()
    actions.settle(session)
    apart = textseg.segment(pixels, "the dog", model=model)
    assert np.array_equal(mask_of(session), apart.mask)


def test_what_is_absent_says_so_and_can_be_shown_anyway(pixels: np.ndarray) -> None:
    model = FakeBackbone({"dog": DOG}, refine=RefineOptions.off(min_presence=0.9))
    session = Session(model)
    actions.open_picture(session, Picture(pixels, "a.png", b"", "upload"))
    said = actions.ask(session, "the cat").said
    assert "“the cat” was not found: its presence is 0" in said and "0.90 is needed" in said
    assert not mask_of(session).any()
    assert actions.retune(session, min_presence=0.0).said != said


def test_a_word_the_model_does_not_know_is_named_as_such(pixels: np.ndarray) -> None:
    nouns = ["dog", "cat"]
    session = Session(FakeBackbone({"dog": DOG}, refine=CRF, calibration={"nouns": nouns}))
    opened = actions.open_picture(session, Picture(pixels, "a.png", b"", "upload")).said
    assert opened == f"a.png is open, {WIDTH} × {HEIGHT} pixels. Now say what to find."
    said = actions.ask(session, "the zorb").said
    assert said == (
        "“the zorb” was not found: no word of 'the zorb' is known to the model; "
        "`textseg models nouns` lists what is."
    )
    said = actions.ask(session, "the catt").said
    assert said == (
        "“the catt” was not found: no word of 'the catt' is known to the model; did you mean 'cat'?"
    )
    actions.settle(session)
    assert actions.sum_up(session, actions.Done("", about=("the catt",))) == said
    assert actions.sum_up(session, actions.Done("Grown.")) == ""
    assert "of the picture" in actions.ask(session, "the dog").said


def test_refinement_choices_say_what_they_set(session: Session) -> None:
    assert actions.refinement_name(session, session.work.refine) == "model"
    for choice in ("none", "guided"):
        actions.retune(session, **actions.refinement_of(session, choice))
        assert actions.refinement_name(session, session.work.refine) == choice


def test_options_wait_for_the_first_query(session: Session) -> None:
    actions.requery(session, reference="absent", samples=2)
    actions.retune(session, threshold=0.3)
    actions.ask(session, "the dog")
    found = session.work.layers[0]
    assert found.found.contrast_options == ContrastOptions("absent", samples=2, batch_size=2)
    assert found.refine.level == 0.3


def test_ten_queries_are_enough(session: Session) -> None:
    for number in range(10):
        actions.ask(session, f"thing {number}")
    with pytest.raises(InputError, match="at most 10"):
        actions.ask(session, "one more")
    assert len(session.work.layers) == 10


# -- corrections -----------------------------------------------------------------------------


def test_corrections_follow_each_other_and_survive_the_threshold(session: Session) -> None:
    actions.ask(session, "the dog")
    actions.settle(session)
    found = mask_of(session)
    stroke = np.zeros((HEIGHT, WIDTH), bool)
    stroke[3:9, 100:140] = True
    actions.paint(session, "add", stroke)
    assert np.array_equal(mask_of(session), found | stroke)
    actions.correct(session, Correction("grow", 3))
    grown = np.asarray(distance_transform_edt(~(found | stroke))) <= 3
    assert np.array_equal(mask_of(session), grown)
    actions.paint(session, "erase", stroke)
    assert np.array_equal(mask_of(session), grown & ~stroke)
    actions.correct(session, Correction("invert"))
    assert np.array_equal(mask_of(session), ~(grown & ~stroke))
    actions.retune(session, level=0.4)
    actions.settle(session)
    assert [c.kind for c in session.work.layers[0].corrections] == [
        "add",
        "grow",
        "erase",
        "invert",
    ]
    assert "corrected by hand: painted in 240 pixels" in session.work.layers[0].result.notes[-1]
    actions.undo_corrections(session)
    assert session.work.layers[0].corrections == ()


def test_clicks_and_boxes_correct_as_the_library_does(session: Session, pixels: np.ndarray) -> None:
    actions.ask(session, "the dog")
    said = gestures.answer(session, {"kind": "point", "at": [0.75, 0.75], "label": 1}).said
    assert said.startswith("Added a place. “the dog”:")
    gestures.answer(session, {"kind": "point", "at": [0.2, 0.5], "label": 0})
    gestures.answer(session, {"kind": "box", "from": [0.95, 0.9], "to": [0.15, 0.3]})
    actions.settle(session)
    after = actions.sum_up(session, actions.Done("", about=("the dog",), title="Drew a box."))
    assert after.startswith("Drew a box. “the dog”:")
    points = [(120, 72, 1), (32, 48, 0)]
    box = (24, 28, 153, 87)
    segmenter = Segmenter(session.segmenter.model).set_image(pixels)
    apart = segmenter.query("the dog", points=points, boxes=[box])
    assert np.array_equal(mask_of(session), apart.mask)
    assert mask_of(session)[72, 120] and not mask_of(session)[48, 32]
    assert session.work.layers[0].result.notes == apart.notes
    labels = [step.label for step in session.history.steps[2:]]
    assert labels == ["Added a place", "Took away a place", "Drew a box"]
    session.history.go(2)
    assert session.work.layers[0].hints.points == ((120.0, 72.0, 1),)
    actions.undo_corrections(session)
    actions.settle(session)
    assert np.array_equal(mask_of(session), segmenter.query("the dog").mask)


def test_a_box_replaces_those_it_crosses(session: Session) -> None:
    actions.ask(session, "the dog")
    for box in ((0, 0, 20, 20), (50, 50, 90, 90), (10, 10, 30, 30)):
        actions.draw_box(session, box)
    assert session.work.layers[0].hints.boxes == ((50, 50, 90, 90), (10, 10, 30, 30))


def test_a_click_overrules_what_was_done_by_hand_there(session: Session) -> None:
    actions.ask(session, "the dog")
    y, x = np.argwhere(mask_of(session))[100]
    actions.paint(session, "erase", np.ones((HEIGHT, WIDTH), bool))
    actions.point(session, x, y, 1)
    assert mask_of(session)[y, x]
    assert session.work.layers[0].corrections == ()
    actions.correct(session, Correction("invert"))
    actions.point(session, x, y, 1)
    assert mask_of(session)[y, x] and session.work.layers[0].hints.points[-1][2] == 0
    actions.draw_box(session, (0, 0, 10, 10))
    assert not mask_of(session)[10:].any() and mask_of(session)[:10, :10].any()
    actions.undo_corrections(session)
    actions.correct(session, Correction("grow", 60))
    actions.point(session, 0, 0, 0)
    assert not mask_of(session)[0, 0] and mask_of(session)[4, 4]


def test_a_stroke_is_as_wide_as_it_was_drawn(session: Session) -> None:
    actions.ask(session, "the dog")
    before = mask_of(session)
    path = [[0.5, 0.1], [0.9, 0.1]]
    gestures.answer(session, {"kind": "add", "path": path, "width": 8 / WIDTH})
    rows, columns = np.nonzero(mask_of(session) & ~before)
    assert 8 <= np.ptp(rows) + 1 <= 10 and rows.mean() == pytest.approx(9, abs=0.6)
    assert columns.min() == pytest.approx(80 - 4, abs=1)
    assert columns.max() == pytest.approx(144 + 4, abs=1)
    gestures.answer(session, {"kind": "erase", "path": path[:1], "width": 8 / WIDTH})
    assert not mask_of(session)[9, 80] and mask_of(session)[9, 100]


@pytest.mark.parametrize(
    ("told", "rule"),
    [
        (None, "gesture must be"),
        ({"kind": "kiss"}, "gesture must be"),
        ({"kind": "point", "at": [0.5]}, "place must be"),
        ({"kind": "point", "at": [0.5, float("nan")]}, "place must be"),
        ({"kind": "point", "at": ["0", True]}, "place must be"),
        ({"kind": "box", "from": [0, 0]}, "place must be"),
        ({"kind": "add", "path": [], "width": 0.1}, "path must be"),
        ({"kind": "add", "path": [[0, 0]], "width": 0}, "width must be"),
        ({"kind": "erase", "path": [[0, 0]], "width": "wide"}, "width must be"),
    ],
)
def test_gestures_of_another_form_are_refused(session: Session, told: Any, rule: str) -> None:
    actions.ask(session, "the dog")
    with pytest.raises(InputError, match=rule):
        gestures.answer(session, told)


def test_the_marks_lie_where_it_was_clicked(session: Session) -> None:
    actions.ask(session, "the dog")
    actions.point(session, 40, 30, 1)
    actions.point(session, 150, 90, 0)
    actions.draw_box(session, (8, 9, 100, 90))
    drawn = ElementTree.fromstring(markers.over(session.work))
    assert drawn.get("viewBox") == f"0 0 {WIDTH} {HEIGHT}"
    marks = [(g.get("class"), (g.get("transform") or "").partition(" scale")[0]) for g in drawn]
    assert marks[1:3] == [("ts-plus", "translate(40.5 30.5)"),
                          ("ts-minus", "translate(150.5 90.5)")]  # fmt: skip
    assert drawn[0].attrib == {"x": "8", "y": "9", "width": "92", "height": "81"}
    assert "“the dog” is marked" in (drawn.get("aria-label") or "")


def test_strokes_of_another_size_are_brought_to_the_pictures(session: Session) -> None:
    actions.ask(session, "the dog")
    before = mask_of(session)
    small = np.zeros((HEIGHT // 2, WIDTH // 2), bool)
    small[2:4, 60:70] = True
    actions.paint(session, "add", small)
    assert np.array_equal(mask_of(session) & ~before, np.kron(small, np.ones((2, 2))) > 0)


@pytest.mark.parametrize(
    ("act", "rule"),
    [
        (lambda s: actions.ask(s, "  "), "query must say"),
        (lambda s: actions.paint(s, "add", np.zeros((4, 4), bool)), "strokes must be painted"),
        (lambda s: actions.paint(s, "blur", np.ones((4, 4), bool)), "kind must be"),
        (lambda s: actions.correct(s, Correction("grow", 1)), "query must be asked"),
        (lambda s: actions.point(s, 1, 1, 1), "query must be asked"),
        (lambda s: actions.approve(s), "query must be asked"),
        (lambda s: actions.forget(s), "query must be asked"),
        (lambda s: actions.select(s, 3), "query must be one of"),
        (lambda s: exports.export(s, "edit", Path()), "must be edited first"),
        (lambda s: exports.export(s, "mask", Path()), "query must be asked"),
        (lambda s: exports.export(s, "video", Path()), "kind must be one of"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(
    session: Session, act: Any, rule: str
) -> None:
    steps = len(session.history.steps)
    with pytest.raises(InputError, match=rule):
        act(session)
    assert len(session.history.steps) == steps


# -- approving, editing ----------------------------------------------------------------------


def test_only_an_approved_mask_is_edited(session: Session, pixels: np.ndarray) -> None:
    actions.ask(session, "the dog")
    with pytest.raises(InputError, match="must be approved"):
        actions.edit(session, "a cat", steps=4)
    actions.approve(session)
    actions.edit(session, "a cat", steps=4)
    edit = session.work.edit
    assert edit is not None
    # The library's own rule: what was found grows.
    reach = edit.options.grow * max(HEIGHT, WIDTH)
    far = np.asarray(distance_transform_edt(~mask_of(session))) > reach + 1
    assert not edit.mask[far].any() and (edit.mask & ~mask_of(session)).any()
    assert np.array_equal(edit.image[~edit.mask], pixels[~edit.mask])
    assert edit.options.steps == 4 and session.work.given == {"steps": 4}
    actions.correct(session, Correction("shrink", 1))
    assert not session.work.approved


def test_what_is_said_of_an_edit_is_the_assessment(session: Session) -> None:
    actions.ask(session, "the dog")
    actions.approve(session)
    said = actions.edit(session, "a cat", steps=4).said
    edit = session.work.edit
    assert edit is not None
    outcome = textseg.assess(edit, model=session.segmenter.model)
    assert said == str(outcome) and edit.outcome == outcome
    assert session.history.steps[-1].label == "Tried to turn the dog into 'a cat'"
    # Its own segmenter looked: the next query is about the picture still.
    actions.ask(session, "the ball")
    actions.settle(session)
    apart = textseg.segment(session.work.picture.pixels, "the ball", model=session.segmenter.model)
    assert np.array_equal(mask_of(session), apart.mask)


def test_an_object_is_removed_in_one_step(session: Session, pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="must be asked"):
        actions.remove_object(session)
    actions.ask(session, "the dog")
    said = actions.remove_object(session).said
    edit = session.work.edit
    assert edit is not None and said.startswith("tried to remove the dog; ")
    alone = textseg.edit(pixels, "the dog", model=session.segmenter.model)
    assert np.array_equal(edit.image, alone.image)


def test_a_region_takes_the_colours_of_a_picture(session: Session, pixels: np.ndarray) -> None:
    style = pictures.open_sample("beach")
    actions.ask(session, "the dog")
    with pytest.raises(InputError, match="must be approved"):
        actions.recolour(session, style)
    actions.approve(session)
    assert "to give the dog another picture's colours" in actions.recolour(session, style).said
    model = session.segmenter.model
    alone = textseg.edit(pixels, "the dog", style=style.pixels, model=model)
    assert session.work.edit is not None
    assert np.array_equal(session.work.edit.image, alone.image)


def test_a_picture_is_extended(session: Session, pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="must add a pixel or more"):
        actions.extend(session, "a park")
    actions.extend(session, "a park", left="25%", method="fill")
    edit = session.work.edit
    assert edit is not None and edit.image.shape == (HEIGHT, WIDTH + 40, 3)
    assert np.array_equal(edit.image[:, 40:], pixels)
    assert not session.work.approved


def test_an_empty_mask_is_not_approved(session: Session) -> None:
    actions.ask(session, "the dog")
    actions.paint(session, "erase", np.ones((HEIGHT, WIDTH), bool))
    with pytest.raises(InputError, match="must not be empty"):
        actions.approve(session)


def test_an_edit_is_labelled_and_can_be_gone_on_with(session: Session, tmp_path: Path) -> None:
    actions.ask(session, "the dog")
    actions.approve(session)
    actions.edit(session, "a cat", steps=4)
    path = exports.export(session, "edit", tmp_path)
    assert path.name == "my park.edited.png"
    label = read_label(path)
    assert label.made_by_model
    said = read_provenance(path)
    assert said is not None and said["prompt"] == "a cat" and said["query"] == "the dog"
    edit = session.work.edit
    assert edit is not None
    again = pictures.picture_of_edit(edit, session.work.picture.name)
    assert np.array_equal(again.pixels, edit.image)
    assert read_label(again.data).packet == again.xmp == label.packet


def test_a_made_picture_is_labelled(model: FakeBackbone) -> None:
    made = pictures.make_picture(model, "a photo of a dog", 1, None)
    assert made.name == "a-photo-of-a-dog.png"
    assert read_label(made.data).source_type == TRAINED
    with pytest.raises(InputError, match="prompt must say"):
        pictures.make_picture(model, " ", 0, None)


# -- history and sessions --------------------------------------------------------------------


def test_undo_and_redo_walk_through_the_steps(session: Session) -> None:
    actions.ask(session, "the dog")
    actions.settle(session)
    found = mask_of(session)
    actions.correct(session, Correction("grow", 4))
    grown = mask_of(session)
    history = session.history
    history.go(history.at - 1)
    assert np.array_equal(mask_of(session), found)
    history.go(history.at + 1)
    assert np.array_equal(mask_of(session), grown)
    history.go(0)
    assert session.work.layers == ()
    history.go(-5)
    assert history.at == 0
    history.go(1)
    actions.correct(session, Correction("invert"))
    assert [step.label for step in history.steps] == ["Opened my park.png", "Found the dog",
                                                      "Inverted"]  # fmt: skip


def test_a_dragged_threshold_is_one_step_and_the_history_is_bounded(session: Session) -> None:
    actions.ask(session, "the dog")
    for level in np.linspace(0.1, 0.9, 9):
        actions.retune(session, level=float(level))
    assert [step.label for step in session.history.steps[1:]] == ["Found the dog", "Threshold 0.90"]
    for _ in range(MOST_STEPS + 5):
        actions.correct(session, Correction("invert"))
    assert len(session.history.steps) == MOST_STEPS
    assert session.history.at == MOST_STEPS - 1


def test_going_back_to_another_picture_asks_about_that_one(
    session: Session, model: FakeBackbone, pixels: np.ndarray
) -> None:
    flipped = np.ascontiguousarray(pixels[:, ::-1])
    actions.open_picture(session, Picture(flipped, "b.png", b"", "upload"))
    actions.ask(session, "the ball")
    session.history.go(0)
    actions.ask(session, "the ball")
    actions.settle(session)
    assert np.array_equal(mask_of(session), textseg.segment(pixels, "the ball", model=model).mask)


def test_sessions_share_the_model_and_nothing_else(
    session: Session, model: FakeBackbone, picture: Picture
) -> None:
    other = Session(model)
    actions.open_picture(other, picture)
    actions.ask(session, "the dog")
    assert other.work.layers == ()
    assert other.segmenter is not session.segmenter
    assert other.segmenter.model is session.segmenter.model


def test_the_strip_shows_each_step_and_which_one_it_is_at(session: Session) -> None:
    actions.ask(session, "the <dog>")
    actions.correct(session, Correction("invert"))
    session.history.go(1)
    drawn = ElementTree.fromstring(strip.strip(session.history))
    buttons = [item[0] for item in drawn]
    assert [button[1].text for button in buttons] == [
        "Opened my park.png", "Found the <dog>", "Inverted"
    ]  # fmt: skip
    assert [button.get("aria-current") for button in buttons] == [None, "step", None]
    assert [item.get("class") for item in drawn] == [None, None, "ts-undone"]
    for number, button in enumerate(buttons):
        data = (button[0].get("src") or "").partition("base64,")[2]
        small = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        whole = Image.fromarray(views.overlay(session.history.steps[number].work))
        near = np.asarray(whole.resize(small.shape[1::-1], Image.Resampling.BOX)).astype(int)
        assert max(small.shape) == strip.SIDE and np.abs(small - near).mean() < 12


# -- jobs ------------------------------------------------------------------------------------


def test_a_job_tells_how_far_it_is_and_can_be_cancelled(session: Session) -> None:
    words = list(jobs.run(session, lambda p: actions.ask(session, "the dog", p)))
    assert isinstance(words[0], jobs.Underway)
    assert "Comparing" in words[0].said
    assert isinstance(words[-1], actions.Done)
    actions.approve(session)
    steps = len(session.history.steps)
    running = jobs.run(session, lambda p: actions.edit(session, "a cat", p, steps=200))
    next(running)
    assert jobs.cancel(session)
    with pytest.raises(CancelledError):
        list(running)
    assert len(session.history.steps) == steps
    assert session.work.edit is None
    assert not jobs.cancel(session)


def test_what_runs_unasked_gives_way(session: Session) -> None:
    began = threading.Event()

    def endless(progress: Any) -> actions.Done:
        while progress(0, 1, "naming"):
            began.set()
        raise CancelledError("stopped")

    unasked = jobs.run(session, endless, unasked=True)
    next(unasked)
    assert began.wait(10)
    words = list(jobs.run(session, lambda p: actions.ask(session, "the dog", p)))
    assert isinstance(words[-1], actions.Done)
    with pytest.raises(CancelledError):
        list(unasked)


def test_a_reader_who_leaves_ends_the_job(session: Session) -> None:
    def endless(progress: Any) -> actions.Done:
        while progress(0, 1, "naming"):
            pass
        raise CancelledError("stopped")

    running = jobs.run(session, endless)
    next(running)
    running.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert session.busy.acquire(timeout=10)


# -- captions --------------------------------------------------------------------------------


def test_a_caption_of_nouns_suggests_what_to_ask(picture: Picture) -> None:
    model = FakeBackbone({"dog": DOG}, calibration={"nouns": ["dog", "cat", "boat"]})
    session = Session(model)
    actions.open_picture(session, picture)
    said = actions.describe(session)
    assert said.rows == 2 * (1 + 3)
    assert session.work.caption.startswith("a photograph of")
    assert "the dog" in session.work.picture.things
    actions.recaption(session, " a dog  and a ball ")
    assert session.work.caption == "a dog and a ball"
    actions.ask(session, "the dog")
    actions.requery(session, reference="erase")
    assert session.work.layers[0].found.prompts[0] == "a dog and a ball"


def test_without_a_captioner_the_user_is_told(session: Session) -> None:
    with pytest.raises(InputError, match="must be typed in"):
        actions.describe(session)


# -- views -----------------------------------------------------------------------------------


def test_views_are_pictures_of_the_pictures_size(session: Session) -> None:
    for name in views.VIEWS:
        assert views.look(session.work, name).shape == (HEIGHT, WIDTH, 3)
    actions.ask(session, "the dog")
    actions.ask(session, "the ball")
    actions.select(session, 0)
    actions.settle(session)
    work = session.work
    for name in views.VIEWS:
        shown = views.look(work, name)
        assert shown.shape == (HEIGHT, WIDTH, 3)
        assert shown.dtype == np.uint8
    outside = ~(work.layers[0].mask | work.layers[1].mask)
    far = np.asarray(distance_transform_edt(outside)) > 4
    assert np.array_equal(views.overlay(work)[far], work.picture.pixels[far])
    inner = np.asarray(distance_transform_edt(work.layers[0].mask)) > 4
    assert (views.overlay(work)[inner] != work.picture.pixels[inner]).any(axis=-1).all()
    assert np.array_equal(views.mask(work)[..., 0] > 0, work.layers[0].mask)
    assert np.array_equal(views.cutout(work)[inner], work.picture.pixels[inner])
    assert [color for color, _ in views.legend(work)] == ["#e63946", "#1d7ed6"]


def test_the_contrast_view_has_one_square_per_cell(session: Session) -> None:
    actions.ask(session, "the dog")
    cells = session.work.layers[0].found.contrast
    assert cells is not None
    bright = views.contrast(session.work).astype(int).sum(axis=-1)
    assert bright[box(DOG)].mean() > bright[~box(DOG)].mean()


# -- taking home -----------------------------------------------------------------------------


def test_downloads_hold_the_masks(session: Session, tmp_path: Path) -> None:
    actions.ask(session, "the dog")
    actions.ask(session, "the ball")
    actions.select(session, 0)
    actions.correct(session, Correction("grow", 2))
    path = exports.export(session, "mask", tmp_path)
    assert path.name == "my park.the-dog.mask.png"
    assert np.array_equal(np.asarray(Image.open(path)) > 127, mask_of(session))
    assert session.work.layers[0].settled
    coco = json.loads(exports.export(session, "coco", tmp_path).read_text())
    assert [c["name"] for c in coco["categories"]] == ["the dog", "the ball"]
    assert np.array_equal(decode_rle(coco["annotations"][0]["segmentation"]), mask_of(session))
    cutout = np.asarray(Image.open(exports.export(session, "cutout", tmp_path)))
    assert np.array_equal(cutout[..., 3] > 0, mask_of(session))
    assert exports.export(session, "image", tmp_path).read_bytes() == session.work.picture.data


def test_everything_comes_in_one_archive(session: Session, tmp_path: Path) -> None:
    actions.ask(session, "the dog")
    actions.approve(session)
    actions.edit(session, "a cat", steps=4)
    with zipfile.ZipFile(exports.export(session, "all", tmp_path)) as archive:
        names = set(archive.namelist())
        assert archive.testzip() is None
    assert names == {"my park.png", "my park.coco.json", "my park.the-dog.mask.png",
                     "my park.the-dog.cutout.png", "my park.the-dog.npz", "my park.edited.png",
                     "my park.region.mask.png", "again.py", "again.sh"}  # fmt: skip


@pytest.fixture(scope="module")
def mini() -> Any:
    return Segmenter("mini").model


@pytest.mark.timeout(300)
def test_the_code_gives_the_same_masks_and_the_same_edit(
    mini: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textseg.backbone.load", lambda name, **given: mini)
    session = Session(mini)
    actions.open_picture(session, pictures.open_sample("table"))
    actions.retune(session, **actions.refinement_of(session, "none"))
    actions.ask(session, "the apple")
    actions.retune(session, level=0.4)
    actions.ask(session, "the banana")
    actions.correct(session, Correction("grow", 2))
    actions.select(session, 0)
    actions.approve(session)
    actions.edit(session, "a tomato", steps=6, encode_ratio=0.4)
    apple, banana = (layer.mask for layer in session.work.layers)
    edit = session.work.edit
    assert edit is not None
    exports.export(session, "image", tmp_path)
    (tmp_path / "first").mkdir()
    with zipfile.ZipFile(exports.export(session, "all", tmp_path)) as archive:
        archive.extractall(tmp_path / "first")
    monkeypatch.chdir(tmp_path / "first")
    edited = Image.open("table.edited.png").tobytes()
    Path("table.edited.png").unlink()
    Path("table.the-apple.mask.png").unlink()

    scope: dict[str, Any] = {}
    exec(compile(snippets.python_code(session), "again.py", "exec"), scope)
    assert np.array_equal(scope["the_apple"].mask, apple)
    assert np.array_equal(scope["the_banana"].mask, banana)
    assert np.array_equal(scope["edit"].image, edit.image)

    Path("table.edited.png").unlink()
    Path("table.the-apple.mask.png").unlink()
    _run_commands(session)
    assert np.array_equal(np.asarray(Image.open("table.the-apple.mask.png")) > 127, apple)
    assert Image.open("table.edited.png").tobytes() == edited


def _removed(session: Session) -> None:
    actions.remove_object(session)


def _clicked(session: Session) -> None:
    actions.point(session, 20, 30, 0)
    actions.draw_box(session, (30, 100, 400, 330))
    actions.remove_object(session)


def _painted(session: Session) -> None:
    actions.correct(session, Correction("grow", 6))
    actions.remove_object(session)


def _changed_since(session: Session) -> None:
    actions.approve(session)
    actions.edit(session, "", grow=0.03)
    actions.correct(session, Correction("invert"))


def _recoloured(session: Session) -> None:
    actions.correct(session, Correction("grow", 6))
    actions.approve(session)
    actions.recolour(session, pictures.open_sample("beach"))


def _extended(session: Session) -> None:
    actions.extend(session, "", left="20%", bottom="10%")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "act", [_removed, _clicked, _painted, _changed_since, _recoloured, _extended]
)
def test_the_code_edits_the_same_region_in_the_same_way(
    mini: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Any
) -> None:
    monkeypatch.setattr("textseg.backbone.load", lambda name, **given: mini)
    session = Session(mini)
    actions.open_picture(session, pictures.open_sample("table"))
    actions.retune(session, **actions.refinement_of(session, "none"))
    actions.ask(session, "the apple")
    act(session)
    edit = session.work.edit
    assert edit is not None and (edit.image != edit.source).any()
    with zipfile.ZipFile(exports.export(session, "all", tmp_path)) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    for made in (_run_python, _run_commands):
        Path("table.edited.png").unlink()
        made(session)
        assert np.array_equal(np.asarray(Image.open("table.edited.png")), edit.image)


def _run_python(session: Session) -> None:
    exec(compile(snippets.python_code(session), "again.py", "exec"), {})


def _run_commands(session: Session) -> None:
    for line in snippets.commands(session).splitlines():
        if not line.startswith("#"):
            words = shlex.split(line)
            assert words[0] == "textseg"
            assert main([*words[1:], "--quiet"]) == 0


# -- pictures --------------------------------------------------------------------------------


def test_the_samples_are_the_repositorys_and_small() -> None:
    folder = Path(__file__).parent.parent / "data" / "samples"
    total = 0
    for sample in pictures.SAMPLES:
        data = pictures.sample_file(sample.name).read_bytes()
        total += len(data)
        assert data == (folder / f"{sample.name}.jpg").read_bytes()
        assert len(pictures.open_sample(sample.name).things) == 3
    assert total < 200_000
    with pytest.raises(InputError, match="sample must be one of"):
        pictures.sample_file("../secret")


def test_bad_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    bad = tmp_path / "x.png"
    bad.write_bytes(b"not a picture")
    with pytest.raises(InputError, match="no known format"):
        pictures.open_file(bad, max_pixels=100)
    Image.new("RGB", (20, 30)).save(bad)
    with pytest.raises(InputError, match="at most 100 pixels"):
        pictures.open_file(bad, max_pixels=100)


# -- the page --------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"sample": "moon"}, {"max_pixels": 0}, {"color": "red"}])
def test_settings_are_checked(given: dict[str, Any]) -> None:
    from textseg.studio import build_app

    with pytest.raises(InputError, match="must be"):
        build_app(**given)


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from textseg.studio import build_app

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingDependencyError, match=r"textseg\[studio\]"):
        build_app()
    assert main(["studio"]) == 2


@needs_gradio
def test_the_page_is_built_and_keeps_to_itself(model: FakeBackbone) -> None:
    from textseg.studio import build_app
    from textseg.studio.theme import theme

    blocks = build_app(model)
    assert not blocks.analytics_enabled
    assert all(fn.api_visibility == "private" for fn in blocks.fns.values())
    assert theme()._stylesheets == []


@needs_gradio
def test_a_visitor_starts_from_the_sample_with_work_of_their_own(model: FakeBackbone) -> None:
    from textseg.studio.handlers import Handlers
    from textseg.studio.layout import build_page
    from textseg.studio.pictures import SAMPLES

    gradio = pytest.importorskip("gradio", reason="needs the extra textseg[studio]")
    with gradio.Blocks(analytics_enabled=False):
        page = build_page("fake", actions.edit_options(Session(model)))
        wiring = Handlers(page, model, StudioSettings(sample="park"))
    first, second = wiring.start()[page.state], wiring.start()[page.state]
    assert first is not second
    assert first.work.picture.name == "park.jpg"
    assert [layer.query for layer in first.work.layers] == [SAMPLES[1].things[0]]
    actions.correct(first, Correction("invert"))
    assert second.work.layers[0].corrections == ()


@needs_gradio
@pytest.mark.parametrize(
    ("known", "asked", "words"),
    [
        ({"dog": DOG, "ball": BALL}, "the dog", "“the dog” is found already"),
        ({"ball": BALL}, "the ball", "“the ball” is found already"),
        ({}, "the ball", "This is a sample. Try another name"),
    ],
)
def test_the_first_view_shows_what_the_model_finds(
    known: dict[str, Any], asked: str, words: str
) -> None:
    from textseg.studio.handlers import Handlers
    from textseg.studio.layout import build_page

    gradio = pytest.importorskip("gradio", reason="needs the extra textseg[studio]")
    model = FakeBackbone(known, refine=CRF)
    with gradio.Blocks(analytics_enabled=False):
        page = build_page("fake", actions.edit_options(Session(model)))
        updates = Handlers(page, model, StudioSettings(sample="park")).start()
    assert [layer.query for layer in updates[page.state].work.layers] == [asked]
    assert words in updates[page.status]


@needs_gradio
def test_handlers_answer_errors_in_a_sentence(
    session: Session, model: FakeBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradio = pytest.importorskip("gradio", reason="needs the extra textseg[studio]")
    from textseg.studio.handlers import Handlers
    from textseg.studio.layout import build_page

    with gradio.Blocks(analytics_enabled=False):
        page = build_page("fake", actions.edit_options(session))
        wiring = Handlers(page, model, StudioSettings())
    told: list[str] = []
    monkeypatch.setattr(gradio, "Warning", lambda text, **more: told.append(text))
    updates = wiring.step(actions.approve)(session)
    assert told == ["Query must be asked first, got none."]
    assert "Query must be asked first, got none." in updates[page.status]

    def broken(session: Session) -> actions.Done:
        raise RuntimeError("secret path /root")

    updates = wiring.step(broken)(session)
    assert "secret" not in updates[page.status] and "Something went wrong" in updates[page.status]
    assert "Reload the page" in wiring.step(actions.approve)(None)[page.status]
    last = list(wiring.job(lambda s, text, progress: actions.ask(s, text, progress),
                           clear=page.query)(session, "the dog"))[-1]  # fmt: skip
    assert "“the dog”" in last[page.status]
    # One that ends without a word would empty the whole page.
    refused = wiring.job(lambda s, progress: actions.describe(s, None, progress), unasked=True)
    assert list(refused(session)) == [gradio.skip()]
    live = wiring.live(session, 0.3)
    assert live[page.stage]["value"].size == (WIDTH, HEIGHT)
    assert "no model ran" in live[page.status]
    settled = wiring.settle_now(session)
    assert page.level not in settled and page.caption not in settled


@needs_gradio
def test_before_and_after_are_sent_once(session: Session, model: FakeBackbone) -> None:
    gradio = pytest.importorskip("gradio", reason="needs the extra textseg[studio]")
    from textseg.studio.display import Display
    from textseg.studio.layout import build_page

    with gradio.Blocks(analytics_enabled=False):
        page = build_page("fake", actions.edit_options(session))
    display = Display(page, model)
    actions.ask(session, "the dog")
    assert page.after not in display.show(session)
    actions.remove_object(session)
    edit = session.work.edit
    assert edit is not None
    before, after = display.show(session)[page.after]
    assert np.array_equal(np.asarray(before), session.work.picture.pixels)
    assert np.array_equal(np.asarray(after), edit.image)
    actions.correct(session, Correction("grow", 1))
    assert page.after not in display.show(session)
    session.history.go(0)
    assert display.show(session)[page.after] is None


@needs_gradio
def test_a_picture_shown_again_is_not_written_over_the_one_being_read(
    pixels: np.ndarray, tmp_path: Path
) -> None:
    processing = pytest.importorskip("gradio.processing_utils", reason="needs textseg[studio]")
    files = [
        processing.save_pil_to_cache(views.apart(pixels), str(tmp_path), format="png")
        for _ in range(2)
    ]
    assert files[0] != files[1]
    assert all(np.array_equal(np.asarray(Image.open(file)), pixels) for file in files)


@needs_gradio
@pytest.mark.parametrize(
    "words", [["studio", "--port", "0"], ["studio", "--sample", "moon"], ["studio", "more"]]
)
def test_the_command_refuses_bad_arguments(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_pictures_bytes_are_kept_as_they_came(pixels: np.ndarray, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=70)
    path = tmp_path / "up.JPG"
    path.write_bytes(buffer.getvalue())
    assert pictures.open_file(path, max_pixels=10**6).data == buffer.getvalue()
