"""What a model with a closed vocabulary says of words it does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backbone.base import Backbone

NEAREST = 3
_START = "no word of "


def unknown_note(model: Backbone, query: str, noun: str) -> str:
    """The note on a query of which a model knows no word, with the nearest nouns; else "".

    Args:
        query: as it was asked.
        noun: the bare noun of it that is looked for.
    """
    words = set(re.findall(r"[^\W_]+", noun.lower()))
    if not words <= set(model.unknown_words(noun)) or not (words or model.nouns):
        return ""
    near = nearest_nouns(noun, model.nouns, model.synonyms)
    hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
    if model.nouns and not near:
        hint = "; `textseg models nouns` lists what is"
    return f"{_START}{query!r} is known to the model{hint}"


def find_unknown_note(notes: Iterable[str]) -> str:
    """The `unknown_note` among a result's notes, or ""."""
    return next((note for note in notes if note.startswith(_START)), "")


def nearest_nouns(noun: str, nouns: Sequence[str], synonyms: Mapping[str, str]) -> list[str]:
    """At most `NEAREST` nouns that are spelt like one, or that have a synonym which is.

    Where none is like the whole noun, its last word is compared.

    >>> nearest_nouns("pupy", ["dog", "car"], {"puppy": "dog"})
    ['dog']
    >>> nearest_nouns("shiny bycicle", ["bicycle", "bird"], {})
    ['bicycle']
    """
    leads = {**synonyms, **{one: one for one in nouns}}
    for wanted in (noun.lower(), *noun.lower().split()[-1:]):
        if near := get_close_matches(wanted, leads, n=3 * NEAREST):
            return list(dict.fromkeys(leads[word] for word in near))[:NEAREST]
    return []


def synonyms_by_noun(
    nouns: Sequence[str], synonyms: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Every noun, in the model's order, with the words that are asked as it.

    >>> synonyms_by_noun(["dog", "car"], {"puppy": "dog", "hound": "dog"})
    {'dog': ('hound', 'puppy'), 'car': ()}
    """
    return {
        noun: tuple(sorted(word for word, known in synonyms.items() if known == noun))
        for noun in nouns
    }
