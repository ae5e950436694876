"""Words a closed vocabulary lacks: the table, and queries, captions and results that use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone

import textseg
from textseg.backbone.folders import read_calibration
from textseg.backbone.registry import EMBEDDED
from textseg.english import known_query, replace_noun
from textseg.errors import ModelError
from textseg.prompts import build_pair, pair_for
from textseg.training.mini.nouns import NOUNS
from textseg.training.mini.synonyms import TABLE, table_for, write_synonyms

TABLE_HERE = {
    "puppy": "dog", "automobile": "car", "sofa": "couch", "plane": "airplane", "woman": "person",
    "love seat": "couch", "grape": "grapes", "ball": "sports ball", "dog": "wolf",
}  # fmt: skip
KNOWN = ("dog", "car", "couch", "airplane", "person", "grapes", "sports ball", "hot dog", "skis")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("the puppy", "the dog"), ("puppies", "dogs"), ("The Puppies.", "The dogs."),
        ("a small brown puppy", "a small brown dog"), ("an automobile", "a car"),
        ("An automobile", "A car"), ("a plane", "an airplane"), ("an old plane", "an old airplane"),
        ("two women", "two people"), ("the woman in red", "the person in red"),
        ("puppy on the sofa", "dog on the sofa"), ("love seats", "couches"), ("sofas", "couches"),
        ("the grape", "the grapes"), ("my ball", "my sports ball"),
    ],
)  # fmt: skip
def test_the_last_words_of_the_noun_phrase_are_replaced(query: str, expected: str) -> None:
    found, word, noun = known_query(query, KNOWN, TABLE_HERE)
    assert found == expected
    assert TABLE_HERE[word] == noun


@pytest.mark.parametrize(
    "query",
    ["the dog", "hot dogs", "two dogs", "skis", "puppyish thing", "the puppylike", "a sofa's leg",
     "a sofa bed", "zorp", "sports ball", "the car with a puppy", ""],
)  # fmt: skip
def test_other_queries_stay_as_they_are(query: str) -> None:
    """Known nouns, parts of words, and synonyms that only describe another noun."""
    assert known_query(query, KNOWN, TABLE_HERE) == (query, "", "")


def test_without_a_table_nothing_changes() -> None:
    assert known_query("the puppy", KNOWN, {}) == ("the puppy", "", "")
    assert build_pair("the puppy", nouns=KNOWN) == build_pair("the puppy", nouns=KNOWN, synonyms={})


def test_a_caption_says_the_known_noun_before_it_is_erased() -> None:
    text = "An automobile and a puppy's bowl; two puppies, a hot dog. THE PUPPY"
    assert replace_noun(text, "puppy", "dog") == (
        "An automobile and a dog's bowl; two dogs, a hot dog. THE dog"
    )
    assert replace_noun("An automobile", "automobile", "car") == "A car"
    assert replace_noun("near a plane", "plane", "airplane") == "near an airplane"
    pair = build_pair("the puppy", "erase", caption="A puppy catches a ball.", synonyms=TABLE_HERE)
    assert pair.query == "A dog catches a ball."
    assert pair.reference == "[NONE] catches a ball."


def test_the_note_says_what_is_asked_instead() -> None:
    pair = build_pair(
        "the red automobile", "absent", nouns=KNOWN, synonyms=TABLE_HERE,
        unknown_words=lambda text: [w for w in text.split() if w in ("red", "automobile")],
    )  # fmt: skip
    assert pair.reference == "a photo without a red car"
    assert pair.notes[1:] == (
        'the model does not know "automobile" and is asked for "car"',
        'the model does not know "red"',
    )


def test_a_result_is_that_of_the_known_noun_and_says_so() -> None:
    image = np.full((48, 80, 3), 90, np.uint8)
    backbone = FakeBackbone(
        {"dog": (0.25, 0.2, 0.75, 0.5)},
        calibration={"nouns": ["dog", "ball"], "synonyms": {"puppy": "dog"}},
    )
    known, asked = textseg.segment(image, ["the dog", "the puppy"], model=backbone)
    assert known.mask.any()
    np.testing.assert_array_equal(asked.mask, known.mask)
    assert asked.query == "the puppy" and asked.prompts == known.prompts
    assert any('"puppy"' in note and '"dog"' in note for note in asked.notes[1:])
    assert not known.notes[1:]
    nothing = textseg.segment(image, "the kitten", model=backbone)
    assert not nothing.mask.any()
    assert any("no word of 'the kitten' is known" in note for note in nothing.notes)


def test_an_edit_finds_its_region_by_the_known_noun() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3)).astype(np.uint8)
    backbone = FakeBackbone(
        {"dog": (0.25, 0.2, 0.75, 0.5)},
        calibration={"nouns": ["dog", "ball"], "synonyms": {"puppy": "dog"}},
    )
    made = [textseg.edit(image, q, "a cat", model=backbone, steps=4) for q in ("dog", "puppy")]
    assert made[0].mask.any()
    np.testing.assert_array_equal(made[0].mask, made[1].mask)


def test_the_table_is_read_from_the_model_folder(tmp_path: Path) -> None:
    (tmp_path / "textseg.json").write_text('{"nouns": ["dog"]}')
    assert read_calibration(tmp_path) == {"nouns": ["dog"]}
    (tmp_path / "synonyms.json").write_text('{"Puppy": "dog"}')
    assert read_calibration(tmp_path)["synonyms"] == {"puppy": "dog"}
    (tmp_path / "synonyms.json").write_text('{"puppy": 3}')
    with pytest.raises(ModelError, match=r"synonyms.json must lead from words to nouns"):
        read_calibration(tmp_path)


def test_the_shipped_table_leads_from_unknown_words_to_nouns(tmp_path: Path) -> None:
    table: dict[str, str] = json.loads(TABLE.read_text())
    assert TABLE.stat().st_size < 60_000 and list(table) == sorted(table)
    for word, noun in table_for(NOUNS).items():
        assert noun in NOUNS and word not in NOUNS
        assert known_query(f"the {word}", NOUNS, table) == (f"the {noun}", word, noun)
    for word, noun in {
        "puppy": "dog", "kitten": "cat", "automobile": "car", "bike": "bicycle", "sofa": "couch",
        "plane": "airplane", "television": "tv", "woman": "person", "mug": "cup",
    }.items():  # fmt: skip
        assert table[word] == noun
    # Parts, places and materials are no kinds of a thing, however near their names.
    assert not {"wheel", "leaf", "beak", "kitchen", "airport", "thing", "bullet"} & set(table)
    assert table_for(["dog", "puppy"]).get("puppy") is None
    assert set(table_for(["dog"]).values()) == {"dog"}
    write_synonyms(tmp_path, ["dog"])
    assert json.loads((tmp_path / "synonyms.json").read_text()) == table_for(["dog"])


def test_mini_brings_its_table() -> None:
    folder = EMBEDDED / "mini"
    if not (folder / "textseg.json").is_file():
        pytest.skip("mini is not part of this checkout")
    calibration: dict[str, Any] = read_calibration(folder)
    assert calibration["synonyms"] == table_for(calibration["nouns"])
    backbone = FakeBackbone({}, calibration=calibration)
    pair = pair_for(backbone, "two big puppies", "absent")
    assert pair.reference == "a photo without a two big dog"
