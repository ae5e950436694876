"""Queries as people write and paste them: the same mask where they mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from hypothesis import example, given, settings
from hypothesis import strategies as st

import textseg
from textseg.cli import main
from textseg.errors import InputError
from textseg.prompts import MAX_QUERY, build_pair, clean_query

NOUNS = ["dog", "ball", "cat", "boat", "dining table"]
SAME = [
    "The Dog", "THE DOG", "the  dog", "\tthe\ndog ", "the\u00a0dog", "the\u2003dog", "the\u3000dog",
    "the\u202fdog", "the d\u200bog", "\ufeffthe dog", "the do\u00adg", "\u202ethe dog\u202c",
    "the d\u2060og", "the dog\ufe0f", "the\u0000 dog", "the dog\u034f", "\u2800the dog",
    "“the dog”", "„the dog“", "«the dog»", "'the dog'", '"the dog"', "‘the dog’", 'the "dog"',
    "the ‘dog’", "`the dog`", "the dog.", "the dog!", "the dog?", "the dog,", "the dog...",
    "the dog…", "; the dog:", "¿the dog?", "ｔｈｅ　ｄｏｇ", "ＴＨＥ ＤＯＧ", "the 𝐝𝐨𝐠",
    "the dog's", "the dog’s", "the DOG'S", "the dogʼs",
]  # fmt: skip
MARKED = [
    "[the dog]", "(the dog)", "((the dog))", "the (dog)", "(the dog:1.3)", "the (dog:1.3)",
    "(the dog : 1.3)", "((the dog:1.2):1.1)", "[the dog:-0.5]", "（the dog：1.3）",
    "“(the dog:1.3)”.",
]  # fmt: skip


@pytest.fixture(scope="module")
def segmenter() -> textseg.Segmenter:
    prompts = {"template": "a photo of {a}", "absent": "a photo without {a}"}
    calibration = {"nouns": NOUNS, "prompts": prompts, "synonyms": {"puppy": "dog"}}
    model = FakeBackbone(
        {"dog": (0.25, 0.1, 0.75, 0.4), "ball": (0.5, 0.6, 1.0, 0.9)}, calibration=calibration
    )
    image = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)
    return textseg.Segmenter(model).set_image(image)


@pytest.mark.parametrize("reference", ["null", "absent", "swap"])
def test_what_means_the_same_gives_the_same_mask(
    segmenter: textseg.Segmenter, reference: str
) -> None:
    plain = segmenter.query("the dog", reference=reference)
    assert plain.mask.any()
    for text in [*SAME, *MARKED]:
        found = segmenter.query(text, reference=reference)
        assert np.array_equal(found.mask, plain.mask), text
        assert np.array_equal(found.score, plain.score), text
        assert (found.presence, found.query) == (plain.presence, text)


def test_what_is_dropped_and_could_have_meant_something_is_said(
    segmenter: textseg.Segmenter,
) -> None:
    assert segmenter.query("the dog").notes[1:] == ()
    for text in SAME:
        assert segmenter.query(text).notes[1:] == (), text
    for text in MARKED:
        (note,) = segmenter.query(text).notes[1:]
        assert note.startswith("brackets and weights mean nothing in a query"), text


@pytest.mark.parametrize(
    "query",
    ["dog, ball", "dog . ball .", "dog. ball", "dog; ball", "dog and ball", "the Dog And the Ball",
     "dog/ball", "dog | ball", "dog & ball", "a dog + a ball", "dogs or balls", "puppies, ball",
     "(dog), (ball)", "dining tables, dog and something else"],
)  # fmt: skip
def test_a_query_for_several_things_is_refused(segmenter: textseg.Segmenter, query: str) -> None:
    with pytest.raises(InputError, match=r"query must name one thing, got .*give each its own"):
        segmenter.query(query)


def test_the_refusal_names_the_queries_to_ask(segmenter: textseg.Segmenter) -> None:
    with pytest.raises(InputError) as error:
        segmenter.query("the dog, a ball and grass")
    assert str(error.value) == (
        "query must name one thing, got 'the dog, a ball and grass'; give each its own query: "
        "'the dog', 'a ball'"
    )
    assert [len(segmenter.query(["the dog", "a ball"]))] == [2]


@pytest.mark.parametrize(
    "query", ["a red, shiny dog", "the dog with a ball", "a black and white cat", "dog/wolf"]
)
def test_one_thing_with_commas_is_one_thing(segmenter: textseg.Segmenter, query: str) -> None:
    assert segmenter.query(query).query == query


def test_open_models_take_any_text() -> None:
    assert build_pair("a red, shiny car").query == "a red, shiny car"
    assert build_pair("dog, tree and the McDonald's").query == "dog, tree and the McDonald's"


@pytest.mark.parametrize("query", ["🐶", "🐶🎾", "كلب", "собака", "кот\u0301", "?!x"])
def test_what_the_model_cannot_know_is_an_empty_mask_with_a_note(
    segmenter: textseg.Segmenter, query: str
) -> None:
    found = segmenter.query(query)
    assert not found.mask.any()
    assert any("is known to the model" in note for note in found.notes)


@pytest.mark.parametrize(
    "query",
    ["", " \u2003\n", "\u200b\ufeff", "\ufe0f", "...", "()", "(:1.3)", '""', "a" * 10_000,
     "\ufdfa" * 900, "\udc80", "the dog\udcff", "\ud83d", None, 7, b"dog", ["dog"]],
)  # fmt: skip
def test_what_is_no_query_is_refused_in_one_line(query: Any) -> None:
    with pytest.raises(InputError, match=r"^query must") as error:
        clean_query(query)
    assert "\n" not in str(error.value)
    assert len(str(error.value).encode()) < 300


@pytest.mark.parametrize("argument", ["caption", "reference"])
def test_lone_surrogates_in_other_texts(argument: str) -> None:
    given: dict[str, Any] = {"reference": "erase", "caption": "a dog"} | {argument: "grass \udc80"}
    with pytest.raises(InputError, match=f"{argument} must be valid Unicode"):
        build_pair("the dog", **given)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda image: textseg.edit(image, "dog", "a \udc80"), "prompt"),
        (lambda image: textseg.generate("a \udc80"), "prompt"),
        (lambda image: textseg.caption(image, prefix="a \udc80"), "prefix"),
    ],
)
def test_lone_surrogates_in_prompts(call: Any, argument: str, tiny_image: np.ndarray) -> None:
    with pytest.raises(InputError, match=f"{argument} must be valid Unicode"):
        call(tiny_image)


def test_a_query_on_the_command_line_that_is_not_utf_8(
    tmp_path: Path, tiny_image: np.ndarray, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from PIL import Image

    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: FakeBackbone({}))
    Image.fromarray(tiny_image).save(tmp_path / "a.png")
    photo = str(tmp_path / "a.png")
    for words in (["segment", photo, "-o", str(tmp_path / "out")],
                  ["batch", photo, "-o", str(tmp_path / "run")],
                  ["edit", photo, "-p", "", "-o", str(tmp_path / "e.png")]):  # fmt: skip
        assert main([*words, "-q", "chien \udce9"]) == 2
        said = capsys.readouterr().err
        assert "query must be valid Unicode" in said
        assert said.count("\n") == 1


@settings(max_examples=400, deadline=None)
@given(st.text(st.characters(), max_size=40))
@example("a\u034f\u0301")
@example("a()\u0301")
@example('"\u0301')
@example("\u3164")
@example("(dog:1.3")
@example("((a:1):2)")
def test_cleaning_is_idempotent(text: str) -> None:
    try:
        cleaned, _ = clean_query(text)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert clean_query(cleaned) == (cleaned, [])
    assert 0 < len(cleaned) <= MAX_QUERY
    assert cleaned == " ".join(cleaned.split())
    cleaned.encode()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["dog", "ball", " ", ",", "(", ")", ":1.3", "'s", '"', "\u200b",
                                 "é", "\udc80", "🐶", "the "])).map("".join))  # fmt: skip
def test_any_text_is_answered_or_refused(segmenter: textseg.Segmenter, text: str) -> None:
    try:
        found = segmenter.query(text)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert found.mask.shape == (48, 80)
