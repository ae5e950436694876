"""The `erase` pairing on captions and queries written by hand."""

from __future__ import annotations

import pytest

from textseg.errors import InputError
from textseg.prompts import build_pair

IN_THE_CAPTION = [
    # article
    ("a photograph of a dog", "the dog", "a photograph of [NONE]"),
    ("a photograph of the dog on grass", "a dog", "a photograph of [NONE] on grass"),
    ("a photograph of an apple", "apple", "a photograph of [NONE]"),
    ("a photograph of dog food", "food", "a photograph of dog [NONE]"),
    # capital
    ("A Dog sleeps.", "dog", "[NONE] sleeps."),
    ("a photograph of a dog", "THE DOG", "a photograph of [NONE]"),
    ("The dog and the Cat", "the cat", "The dog and [NONE]"),
    # plural
    ("a photograph of two dogs", "the dog", "a photograph of two [NONE]"),
    ("a photograph of a dog", "dogs", "a photograph of [NONE]"),
    ("three buses in a street", "a bus", "three [NONE] in a street"),
    ("people in a park", "the person", "[NONE] in a park"),
    ("a woman with knives", "a knife", "a woman with [NONE]"),
    ("ripe cherries in a bowl", "cherry", "ripe [NONE] in a bowl"),
    ("a flock of sheep", "sheep", "a flock of [NONE]"),
    ("a pair of scissors on a desk", "scissors", "a pair of [NONE] on a desk"),
    # more than one word
    ("a teddy bear on a bed", "the teddy bear", "[NONE] on a bed"),
    ("two teddy bears on a bed", "a teddy bear", "two [NONE] on a bed"),
    ("a fire hydrant by the road", "fire hydrant", "[NONE] by the road"),
    ("cars at a traffic light", "the traffic  light", "cars at [NONE]"),
    # more than once
    ("a dog next to a dog", "dog", "[NONE] next to [NONE]"),
    ("a dog, the dogs and a cat", "dog", "[NONE], [NONE] and a cat"),
    # beside punctuation
    ("a man (with a dog), walking", "the dog", "a man (with [NONE]), walking"),
    ("the dog's ball", "a ball", "the dog's [NONE]"),
]

NOT_IN_THE_CAPTION = [
    # part of a longer word
    ("a photograph of a catfish", "cat", "a photograph of a catfish and a cat"),
    ("a scarf on a chair", "car", "a scarf on a chair and a car"),
    ("a carpet and a pantry.", "the pan", "a carpet and a pantry and a pan"),
    ("a dog-eared book", "dog", "a dog-eared book and a dog"),
    # another thing of the same last word
    ("a hot dog with mustard", "the dog", "a hot dog with mustard and a dog"),
    # absent
    ("a photograph of a beach", "the umbrella", "a photograph of a beach and an umbrella"),
    ("a photograph of a kitchen", "scissors", "a photograph of a kitchen and scissors"),
]


def test_there_are_thirty() -> None:
    assert len(IN_THE_CAPTION) + len(NOT_IN_THE_CAPTION) == 30


@pytest.mark.parametrize(("caption", "query", "erased"), IN_THE_CAPTION)
def test_the_object_is_taken_out(caption: str, query: str, erased: str) -> None:
    pair = build_pair(query, "erase", caption=caption)
    assert (pair.query, pair.reference) == (caption, erased)
    assert pair.strategy == "erase"
    assert not any("was added" in note for note in pair.notes)


@pytest.mark.parametrize(("caption", "query", "inserted"), NOT_IN_THE_CAPTION)
def test_an_absent_object_is_put_in_and_said_so(caption: str, query: str, inserted: str) -> None:
    pair = build_pair(query, "erase", caption=caption)
    assert (pair.query, pair.reference) == (inserted, caption)
    assert any("is not in the caption and was added to it" in note for note in pair.notes)


def test_the_last_word_stands_in_for_a_longer_name() -> None:
    pair = build_pair("the brown dog", "erase", caption="a dog on grass")
    assert (pair.query, pair.reference) == ("a dog on grass", "[NONE] on grass")
    assert len(pair.notes) > 1


def test_without_a_caption_there_is_one_line() -> None:
    for nothing in (None, "", "  "):
        with pytest.raises(InputError, match="caption must be given for reference 'erase'"):
            build_pair("dog", "erase", caption=nothing)
