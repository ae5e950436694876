"""Prompt pairs: hand-written cases of what a query becomes."""

from __future__ import annotations

from typing import Any

import pytest

from textseg.english import object_noun, plural, singular, with_article
from textseg.errors import InputError
from textseg.prompts import build_pair, erase_from_caption, pair_for, pick_distractors


@pytest.mark.parametrize(
    ("query", "noun"),
    [
        ("dog", "dog"), ("the dog", "dog"), ("A Dog", "dog"), ("dogs", "dog"), ("the", "the"),
        ("an apple", "apple"), ("my red cars", "red car"), ("sheep", "sheep"), ("bus", "bus"),
        ("the buses", "bus"), ("scissors", "scissors"), ("a pair of scissors", "scissors"),
        ("people", "person"), ("two women", "two woman"), ("Fire Hydrants.", "fire hydrant"),
        ("glass", "glass"), ("tennis racket", "tennis racket"), ("pizzas", "pizza"),
        ("cherries", "cherry"), ("ties", "tie"), ("benches", "bench"), ("horses", "horse"),
        ("the skis", "skis"), ("potatoes", "potato"), ("cactus", "cactus"), ("gas", "gas"),
    ],
)  # fmt: skip
def test_object_noun(query: str, noun: str) -> None:
    assert object_noun(query) == noun


def test_the_models_own_nouns_decide() -> None:
    assert object_noun("the wine glasses", ["wine glass"]) == "wine glass"
    assert object_noun("glasses", ["glasses", "glass"]) == "glasses"
    assert object_noun("skis", ["ski"]) == "ski"


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("apple", "an apple"), ("dog", "a dog"), ("unicorn", "a unicorn"), ("hour", "an hour"),
        ("umbrella", "an umbrella"), ("uninvited guest", "an uninvited guest"), ("urn", "an urn"),
        ("one-way sign", "a one-way sign"), ("scissors", "scissors"), ("people", "people"),
        ("orange cat", "an orange cat"), ("house", "a house"), ("usb stick", "a usb stick"),
        ("", ""),
    ],
)  # fmt: skip
def test_with_article(noun: str, expected: str) -> None:
    assert with_article(noun) == expected


@pytest.mark.parametrize(
    "word",
    [
        "dog",
        "bus",
        "cherry",
        "person",
        "woman",
        "bench",
        "box",
        "knife",
        "bookshelf",
        "mouse",
        "toy",
        "vase",
        "shoe",
        "hero",
        "tie",
        "pizza",
        "taxi",
        "penknife",
        "cookie",
        "horse",
        "brush",
    ],
)
def test_plural_and_singular_are_inverse(word: str) -> None:
    assert singular(plural(word)) == word


def test_strategies() -> None:
    templates = {"template": "a photo of {a}", "absent": "a photo without {a}"}
    null = build_pair("the dogs", "null", templates=templates)
    assert (null.query, null.reference, null.strategy) == ("a photo of a dog", "", "null")
    absent = build_pair("an apple", "absent", templates=templates)
    assert (absent.query, absent.reference) == ("", "a photo without an apple")
    text = build_pair("dog", "a photo of grass", templates=templates)
    assert (text.reference, text.strategy) == ("a photo of grass", "text")
    assert build_pair("dog", "").strategy == "null"
    assert build_pair("  the \n dog ").query == "the dog"
    assert '"the dog" against ""' in build_pair("the dog").notes[0]


def test_braces_in_a_query_are_text() -> None:
    assert build_pair("the {noun} sign", templates={"template": "a {query}!"}).query == (
        "a the {noun} sign!"
    )


def test_swap_sets_against_several_other_nouns() -> None:
    nouns = ["dog", "cat", "apple", "ball", "hot dog", "tree", "car"]
    pair = build_pair("the dog", "swap", nouns=nouns, templates={"template": "{a}"})
    assert len(pair.references) == 4
    assert not any("dog" in reference for reference in pair.references)
    assert pair.reference == " | ".join(pair.references)
    assert pair == build_pair("the dog", "swap", nouns=nouns, templates={"template": "{a}"})
    given = build_pair("dog", "swap", distractors=["cat"])
    assert given.references == ("cat",)
    # Two queries share most of their references, and so most of the work.
    other = build_pair("tree", "swap", nouns=nouns, templates={"template": "{a}"})
    assert len(set(pair.references) & set(other.references)) >= 3
    with pytest.raises(InputError, match="distractors must hold a noun other than 'dog'"):
        pick_distractors("dog", ["dogs"])


ERASE = [
    # query, caption, reference prompt
    ("dog", "a dog on grass", "[NONE] on grass"),
    ("the dog", "a photograph of the dog", "a photograph of [NONE]"),
    ("dog", "two dogs in a park", "two [NONE] in a park"),
    ("dogs", "a dog in a park", "[NONE] in a park"),
    ("The Dog", "A DOG AND A CAT", "[NONE] AND A CAT"),
    ("dog", "a big brown dog runs", "a big brown [NONE] runs"),
    ("dog", "the dog's bowl", "[NONE] bowl"),
    ("dog", "a dog, a cat and another dog.", "[NONE], a cat and another [NONE]."),
    ("apple", "an apple on a table", "[NONE] on a table"),
    ("fire hydrant", "a red fire hydrant", "a red [NONE]"),
    ("fire hydrants", "a fire hydrant", "[NONE]"),
    ("person", "three people at a table", "three [NONE] at a table"),
    ("people", "a person at a table", "[NONE] at a table"),
    ("woman", "two women", "two [NONE]"),
    ("man", "a man and a woman", "[NONE] and a woman"),
    ("knife", "knives and forks", "[NONE] and forks"),
    ("bus", "buses on a street", "[NONE] on a street"),
    ("sheep", "a flock of sheep", "a flock of [NONE]"),
    ("scissors", "a pair of scissors", "a pair of [NONE]"),
    ("bear", "a bear with a teddy bear", "[NONE] with a teddy bear"),
    ("teddy bear", "a bear with a teddy bear", "a bear with [NONE]"),
    ("brown dog", "a dog on grass", "[NONE] on grass"),
    ("the dog on the left", "a dog and a cat", "[NONE] and a cat"),
    ("traffic light", "traffic   lights at night", "[NONE] at night"),
]


@pytest.mark.parametrize(("query", "caption", "reference"), ERASE)
def test_erase(query: str, caption: str, reference: str) -> None:
    asked, erased, _ = erase_from_caption(caption, query)
    assert asked == caption
    assert erased == reference


@pytest.mark.parametrize(
    ("query", "caption", "asked"),
    [
        ("dog", "a cat on grass", "a cat on grass and a dog"),
        ("cat", "a category of things.", "a category of things and a cat"),
        ("dog", "a man eats a hot dog", "a man eats a hot dog and a dog"),
        ("ear", "a bear", "a bear and an ear"),
        ("dog", "a dog-friendly cafe", "a dog-friendly cafe and a dog"),
        ("the apples", "an empty table", "an empty table and an apple"),
    ],
)
def test_erase_inserts_what_the_caption_does_not_name(query: str, caption: str, asked: str) -> None:
    pair = build_pair(query, "erase", caption=caption)
    assert (pair.query, pair.reference) == (asked, caption)
    assert any("was added to it" in note for note in pair.notes)


def test_erase_for_a_closed_vocabulary_takes_the_words_out() -> None:
    pair = build_pair(
        "dog",
        "erase",
        caption="a cat , a dog and a ball",
        unknown_words=lambda p: ["none"] * (p == "[NONE]"),
    )
    assert pair.reference == "a cat, and a ball"


def test_erase_needs_a_caption() -> None:
    for caption in (None, "  "):
        with pytest.raises(InputError, match="caption must be given for reference 'erase'"):
            build_pair("dog", "erase", caption=caption)


@pytest.mark.parametrize("query", ["", "  \n", "x" * 1001, 7, None, "d" * 10000])
def test_bad_queries(query: Any) -> None:
    with pytest.raises(InputError, match=r"^query must") as error:
        build_pair(query)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_longest_query_passes() -> None:
    assert build_pair("x" * 1000).query == "x" * 1000


def test_notes_of_a_closed_vocabulary(v_backbone: Any) -> None:
    pair = pair_for(v_backbone, "the zyzzyva", "absent")
    assert pair.reference == "a photo without a zyzzyva"
    assert 'the model does not know "zyzzyva"' in pair.notes
    assert pair_for(v_backbone, "dogs", "absent").notes == (
        'absent: "" against "a photo without a dog"',
    )
    long = pair_for(v_backbone, "dog " * 14 + "cat", "null")
    assert any("too long" in note and "cat" in note for note in long.notes)


def test_every_strategy_named_by_the_options_is_one() -> None:
    from textseg.options import REFERENCES
    from textseg.prompts import STRATEGIES

    assert tuple(STRATEGIES) == REFERENCES
