"""Whether an edit took: the model's own presence, on pictures made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_backbone import FakeBackbone

from textseg import Edit, Outcome, Segmenter, assess, edit
from textseg.errors import CancelledError, InputError
from textseg.filling import grow_region, push_pull
from textseg.image import load_image
from textseg.outcome import CAVEAT, Sight

PARK, BEACH = "data/samples/park.jpg", "data/samples/beach.jpg"


@pytest.fixture(scope="module")
def mini() -> Segmenter:
    return Segmenter("mini")


@pytest.fixture(scope="module")
def swapped(mini: Segmenter) -> Edit:
    """The park with the beach's crab pasted where the dog was."""
    park, beach = load_image(PARK), load_image(BEACH)
    crab = mini.set_image(beach).query("the crab").mask
    dog = mini.set_image(park).query("the dog").mask
    picture = push_pull(park, grow_region(dog, 0.02))
    rows, columns = np.nonzero(crab)
    picture[rows - 42, columns + 27] = beach[rows, columns]
    return Edit(picture, dog, "the dog", "a crab", source=park)


def test_a_swap_made_by_hand_took_and_one_that_did_nothing_did_not(
    mini: Segmenter, swapped: Edit
) -> None:
    outcome = assess(swapped, model=mini)
    assert outcome.took is True
    for sight, query in ((outcome.source, "the dog"), (outcome.target, "a crab")):
        assert sight is not None
        assert sight.query == query
        assert sight.before == mini.set_image(load_image(PARK)).query(query).presence
        assert sight.after == mini.set_image(swapped.image).query(query).presence
    assert swapped.source is not None
    untouched = assess(replace(swapped, image=swapped.source), model=mini)
    assert untouched.took is False
    assert untouched.target is not None
    assert untouched.target.before == untouched.target.after


def test_a_removal_took_where_the_thing_is_not_found_there_any_more(mini: Segmenter) -> None:
    removed = edit(PARK, "the dog", model=mini)
    outcome = assess(removed, model=mini)
    assert outcome.took is True
    assert outcome.target is None
    assert outcome.tried == "to remove the dog"
    assert removed.source is not None
    assert assess(replace(removed, image=removed.source), model=mini).took is False


def test_it_is_not_said_what_the_model_cannot_tell(mini: Segmenter, swapped: Edit) -> None:
    unheard = assess(replace(swapped, prompt="a zzyzx"), model=mini)
    assert unheard.target is None
    assert unheard.took is None
    assert unheard.source is not None
    before = assess(replace(swapped, prompt="a tree", mask=~swapped.mask), model=mini)
    assert before.target is not None
    assert before.target.there_before
    assert before.took is None
    recoloured = assess(edit(PARK, "the dog", style=BEACH, model=mini), model=mini)
    assert (recoloured.source, recoloured.target, recoloured.took) == (None, None, None)
    assert "the colours" not in str(recoloured)
    assert str(recoloured).endswith("mini cannot tell whether it took")
    with pytest.raises(InputError, match="edit must be of class Edit, got NoneType"):
        assess(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="edit must hold its source"):
        assess(replace(swapped, source=None), model=mini)


def test_it_can_be_watched_and_stopped(swapped: Edit) -> None:
    fake = FakeBackbone({"dog": (0.2, 0.2, 0.6, 0.8)})
    seen: list[str] = []
    assess(swapped, model=fake, progress=lambda done, total, stage: seen.append(stage))
    assert set(seen) == {"contrast", "refine"}
    with pytest.raises(CancelledError):
        assess(swapped, model=fake, progress=lambda *_: False)


def test_a_presence_without_a_threshold_gives_numbers_and_no_verdict(swapped: Edit) -> None:
    fake = FakeBackbone({"dog": (0.2, 0.2, 0.6, 0.8)})
    outcome = assess(replace(swapped, prompt=""), model=fake)
    assert outcome.source is not None
    assert outcome.took is None
    assert "so it seems" not in str(outcome)


def test_the_line_has_the_attempt_the_numbers_and_the_caveat() -> None:
    target = Sight("a horse", 0.04, 0.05, False, False)
    source = Sight("the dog", 0.97, 0.951, True, True)
    outcome = Outcome("to turn the dog into 'a horse'", "mini", source, target, False)
    assert str(outcome) == (
        "tried to turn the dog into 'a horse'; mini sees a horse at 0.04 before and 0.05 after, "
        f"the dog at 0.97 before and 0.95 after, so it seems not to have taken ({CAVEAT})"
    )
    assert Outcome.read(outcome.describe()) == outcome
    assert outcome.describe()["words"] == str(outcome)


def test_an_outcome_is_kept_with_the_edit(swapped: Edit) -> None:
    outcome = Outcome("to turn", "mini", None, Sight("a crab", 0.1, 0.9, False, True), True)
    kept = Edit.from_bytes(replace(swapped, outcome=outcome).to_bytes(".npz"))
    assert kept.outcome == outcome
    assert Edit.from_bytes(swapped.to_bytes(".npz")).outcome is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ""}, "to remove the dog"),
        ({"query": ""}, "to turn the region into 'a crab'"),
        ({"query": "", "whole": True}, "to turn the picture into 'a crab'"),
        ({"invert": True}, "to turn all but the dog into 'a crab'"),
        ({"method": "poisson"}, "to blend another picture into the dog"),
        ({"method": "reinhard"}, "to give the dog another picture's colours"),
        ({"extended": (1, 0, 0, 0)}, "to extend the picture as 'a crab'"),
        ({"extended": (1, 0, 0, 0), "prompt": ""}, "to extend the picture"),
    ],
)
def test_what_was_tried_in_words(swapped: Edit, changes: dict[str, object], words: str) -> None:
    given = dict(changes)
    if given.pop("whole", False):
        given["mask"] = np.ones_like(swapped.mask)
    if given.pop("invert", False):
        given["options"] = replace(swapped.options, invert_mask=True)
    fake = FakeBackbone({})
    assert assess(replace(swapped, **given), model=fake).tried == words
