"""Words a model with a closed vocabulary does not know, wherever they are asked."""

from __future__ import annotations

import json
import re
import sys
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from PIL import Image

import textseg
from textseg.cli import main
from textseg.vocabulary import find_unknown_note, nearest_nouns, unknown_note

DOG = (0.25, 0.2, 0.75, 0.5)
NOUNS = ["dog", "cat", "boat"]
SYNONYMS = {"puppy": "dog", "kitten": "cat", "kitty": "cat"}
KITEN = "no word of 'the kiten' is known to the model; did you mean 'cat'?"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeBackbone:
    fake = FakeBackbone({"dog": DOG}, calibration={"nouns": NOUNS, "synonyms": SYNONYMS})
    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: fake)
    return fake


@pytest.fixture
def park(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "park.png")
    return tmp_path / "park.png"


def test_a_model_says_what_it_knows(model: FakeBackbone) -> None:
    assert model.nouns == ("dog", "cat", "boat") and model.synonyms == SYNONYMS
    assert FakeBackbone({}).nouns == () and FakeBackbone({}).synonyms == {}


def test_mini_lists_its_nouns_and_finds_them_known(capsys: pytest.CaptureFixture[str]) -> None:
    mini = textseg.load("mini")
    assert main(["models", "nouns"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed == list(mini.nouns) and len(set(listed)) == 188
    assert not any(unknown_note(mini, noun, noun) for noun in listed)
    assert main(["models", "nouns", "mini", "--synonyms"]) == 0
    rows = capsys.readouterr().out.splitlines()
    split = [re.split(" {2,}", row) for row in rows]
    assert [noun for noun, *_ in split] == listed
    told = {word: noun for noun, *words in split for word in ", ".join(words).split(", ") if word}
    assert told == mini.synonyms
    second = {
        row.index(words[0], len(noun))
        for row, (noun, *words) in zip(rows, split, strict=True)
        if words
    }
    assert len(second) == 1, "one column"
    assert main(["models", "nouns", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["noun"] for record in records] == listed
    table = {word: record["noun"] for record in records for word in record["synonyms"]}
    assert table == mini.synonyms


def test_listing_nouns_loads_no_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["models", "nouns", "mini"]) == 0


def test_models_that_take_any_words_list_none(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "nouns", str(tiny_folder)]) == 2
    said = capsys.readouterr()
    rule = "NAME must have a closed vocabulary"
    assert not said.out
    assert said.err == f"textseg: error: {rule}; {str(tiny_folder)!r} takes any words\n"


@pytest.mark.parametrize(
    ("noun", "near"),
    [("dgo", ["dog"]), ("pupy", ["dog"]), ("kity", ["cat"]), ("fluffy kiten", ["cat"]),
     ("Boats", ["boat"]), ("xylophone", []), ("", [])],
)  # fmt: skip
def test_the_nearest_nouns(noun: str, near: list[str]) -> None:
    assert nearest_nouns(noun, NOUNS, SYNONYMS) == near


def test_the_nearest_nouns_of_mini_are_the_likest_by_spelling() -> None:
    mini = textseg.load("mini")
    words = [*mini.nouns, *mini.synonyms]
    for noun in ("elefant", "bycicle", "buterfly", "girafe", "unbrella"):
        best = max(words, key=lambda word: SequenceMatcher(None, word, noun).ratio())
        near = nearest_nouns(noun, mini.nouns, mini.synonyms)
        assert near[0] == mini.synonyms.get(best, best) and len(near) <= 3


def test_what_is_near_to_nothing_is_pointed_to_the_list(model: FakeBackbone) -> None:
    assert unknown_note(model, "the xylophone", "xylophone") == (
        "no word of 'the xylophone' is known to the model; `textseg models nouns` lists what is"
    )
    assert unknown_note(model, "the red dog", "red dog") == ""
    # A closed vocabulary of which no nouns are listed.
    assert unknown_note(FakeBackbone({}), "the zorb", "zorb") == (
        "no word of 'the zorb' is known to the model"
    )


def test_a_result_names_the_nearest_nouns(model: FakeBackbone, park: Path) -> None:
    kiten, dog = textseg.segment(park, ["the kiten", "the dog"], model=model)
    assert find_unknown_note(kiten.notes) == KITEN and not kiten.mask.any()
    assert find_unknown_note(dog.notes) == "" and dog.mask.any()


def test_segment_says_one_line_writes_and_exits_1(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", str(park), "-q", "the kiten", "-q", "the dog", "-o", str(tmp_path)]
    for more in ([], ["--quiet"]):
        assert main([*words, *more]) == 1
        said = capsys.readouterr()
        assert said.err == f"textseg: error: {park}: {KITEN}\n"
        assert len(said.out.splitlines()) == (0 if more else 2)
    kiten, dog = (np.asarray(Image.open(tmp_path / f"park.the-{q}.mask.png"))
                  for q in ("kiten", "dog"))  # fmt: skip
    assert kiten.shape == (48, 80) and not kiten.any() and dog.any()
    assert main(["segment", str(park), "-q", "the puppy", "-o", str(tmp_path)]) == 0
    assert main([*words, "--json"]) == 1
    first = json.loads(capsys.readouterr().out.splitlines()[-2])
    assert KITEN in first["notes"]


def test_edit_says_the_same_line_and_exits_1(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    words = ["edit", str(park), "-q", "the kiten", "-p", "a dog", "-o", str(out)]
    assert main(words) == 1
    assert capsys.readouterr().err == f"textseg: error: {KITEN}\n"
    assert not out.exists()
    made = textseg.edit(park, "the kiten", "a dog", model=model)
    assert made.notes == (KITEN, "the region is empty: the image is unchanged")


def test_batch_notes_it_in_the_index(model: FakeBackbone, park: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["batch", str(park), "-q", "the kiten", "-q", "the dog", "-o", str(out)]
    assert main([*words, "--workers", "0", "--quiet"]) == 0
    rows = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert [find_unknown_note(row["notes"]) for row in rows] == [KITEN, ""]


def test_the_server_answers_with_it(park: Path) -> None:
    from server_tools import HeldBackbone, live

    held: Any = HeldBackbone(calibration={"nouns": NOUNS, "synonyms": SYNONYMS})
    with live(held) as server:
        client = textseg.Client(server.url)
        assert find_unknown_note(client.segment(park, "the kiten").notes) == KITEN
        assert client.edit(park, "the kiten", "a dog").notes[0] == KITEN
