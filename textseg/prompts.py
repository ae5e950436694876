"""A query becomes a pair of prompts: one that speaks of the object, one that does not."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .checks import check_text
from .english import (
    PREPOSITIONS,
    known_query,
    noun_pattern,
    object_noun,
    replace_noun,
    with_article,
)
from .errors import InputError
from .vocabulary import unknown_note

if TYPE_CHECKING:
    from .backbone.base import Backbone

MAX_QUERY = 1000
DISTRACTORS: tuple[str, ...] = ("person", "car", "chair", "tree", "book")
SWAPS = 4
DEFAULT_TEMPLATES: dict[str, str] = {
    "template": "{query}",
    "absent": "a photo without {a}",
    "none": "[NONE]",
}
# fmt: off
_QUOTES = str.maketrans({
    **dict.fromkeys("“”„‟«»‹›「」『』〝〞〟", '"'), **dict.fromkeys("’‘‚‛`´ʼʹ′", "'"),
})
_EDGES = " .,!?;:'/|¿¡。、"
_QUOTE = re.compile(r"\"|(?<!\w)'|'(?!\w)")
_WEIGHT = re.compile(r"\s*:\s*[-+]?\d*\.?\d+\s*(?=[)\]])")
_BRACKETS = re.compile(r"[()\[\]]+")
_BETWEEN = re.compile(r"\s*(?:[.,;/|&+]+|\b(?:and|or|plus)\b)\s*", re.IGNORECASE)
# What is drawn as nothing, though Unicode counts it among letters, marks and symbols.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# fmt: on


@dataclass(frozen=True)
class PromptPair:
    """What the model is asked, and against what.

    Attributes:
        query: prompt of the query side.
        reference: prompt of the reference side; several are joined by " | ".
        strategy: "null", "absent", "swap", "erase" or "text".
        notes: one line each on the pairing, and on words the model does not know or cannot take.
        references: the prompts of the reference side; their predictions are averaged.
        noun: the bare noun that is looked for.
        unknown: a note, where the model knows no word of it; else "".
    """

    query: str
    reference: str
    strategy: str
    notes: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    noun: str = ""
    unknown: str = ""

    def __post_init__(self) -> None:
        if not self.references:
            object.__setattr__(self, "references", (self.reference,))


def build_pair(
    query: str,
    reference: str = "null",
    *,
    templates: Mapping[str, str] | None = None,
    caption: str | None = None,
    distractors: Sequence[str] = (),
    nouns: Sequence[str] = (),
    synonyms: Mapping[str, str] | None = None,
    unknown_words: Callable[[str], list[str]] | None = None,
    truncated_words: Callable[[str], str] | None = None,
) -> PromptPair:
    """The prompts that contrast a query with its reference.

    Strategies: "null" sets the query against the empty text. "absent" sets the empty text against
    "a photo without a dog" (for models trained on absence). "swap" sets the query against other
    nouns. "erase" sets a caption of the image against the same caption without the object. Any
    other text is the reference prompt itself.

    Args:
        query: what to find, 1 to 1000 characters: "dog", "the dog", "dogs"; read as `clean_query`
            says. One query names one thing.
        reference: a strategy or a reference text.
        templates: overrides of `DEFAULT_TEMPLATES`: "template" of the query prompt, "absent",
            and "none", what stands for an erased object. {query} is the query as given, {noun} the
            bare noun, {a} the noun with its article.
        caption: of the image, for "erase".
        distractors: nouns for "swap"; by default the first of `nouns`, or common ones.
        nouns: the model's vocabulary of nouns, if it has one; decides between "skis" and "ski".
        synonyms: words outside that vocabulary, and the noun of it each is asked as.
        unknown_words, truncated_words: a backbone's methods; what they find becomes notes.

    Raises:
        InputError: an empty or too long query, one that names several of `nouns` or their synonyms
            ("dog, tree"; "dog and tree"), or "erase" without a caption.

    >>> build_pair("the dog", "absent").reference
    'a photo without a dog'
    >>> build_pair("dog", "erase", caption="a man walks two dogs").reference
    'a man walks two [NONE]'
    """
    query, notes = clean_query(query)
    if nouns:
        query = re.sub(r"(?<=\w)'s$", "", query, flags=re.IGNORECASE)
        _check_one_thing(query, nouns, synonyms or {})
    query, word, known = known_query(query, nouns, synonyms or {})
    words = {**DEFAULT_TEMPLATES, **(templates or {})}
    if unknown_words is not None and unknown_words(words["none"]):
        words["none"] = ""
    asked = _Asked(
        query, object_noun(query, nouns), words, caption, distractors or nouns or DISTRACTORS,
        (word, known), reference,
    )  # fmt: skip
    strategy = reference if reference in STRATEGIES else "text" if reference.strip() else "null"
    prompt, references, how = STRATEGIES.get(strategy, _text)(asked)
    against = " | ".join(references)
    notes = [f"{strategy}: {_quoted(prompt)} against {_quoted(against)}", *notes, *how]
    if known:
        notes.append(f"the model does not know {_quoted(word)} and is asked for {_quoted(known)}")
    for one in (prompt, *references):
        if unknown_words is not None and (unknown := unknown_words(one)):
            notes.append(f"the model does not know {', '.join(map(_quoted, unknown))}")
        if truncated_words is not None and (cut := truncated_words(one)):
            notes.append(f"the prompt is too long for the model, which does not see {_quoted(cut)}")
    return PromptPair(
        prompt, against, strategy, tuple(dict.fromkeys(notes)), tuple(references), asked.noun
    )


@dataclass(frozen=True)
class _Asked:
    """What a strategy makes its prompts of."""

    query: str
    noun: str
    templates: Mapping[str, str]
    caption: str | None
    others: Sequence[str]
    replaced: tuple[str, str]
    reference: str

    def fill(self, template: str, noun: str = "", query: str = "") -> str:
        noun, query = noun or self.noun, query or self.query
        values = {"query": query, "noun": noun, "a": with_article(noun)}
        return re.sub(r"\{(query|noun|a)\}", lambda m: values[m[1]], self.templates[template])


_Prompts = tuple[str, list[str], list[str]]
"""The prompt of the query side, those of the reference side, and notes."""


def _null(asked: _Asked) -> _Prompts:
    return asked.fill("template"), [""], []


def _absent(asked: _Asked) -> _Prompts:
    return "", [asked.fill("absent")], []


def _swap(asked: _Asked) -> _Prompts:
    others = pick_distractors(asked.noun, asked.others)
    return asked.fill("template"), [asked.fill("template", one, one) for one in others], []


def _erase(asked: _Asked) -> _Prompts:
    if asked.caption is None or not asked.caption.strip():
        raise InputError("caption must be given for reference 'erase', got none")
    caption, (word, known) = _clean("caption", asked.caption), asked.replaced
    if known:
        caption = replace_noun(caption, word, known)
    whole, erased, how = erase_from_caption(
        caption, asked.query, asked.noun, asked.templates["none"]
    )
    return whole, [erased], how


def _text(asked: _Asked) -> _Prompts:
    return asked.fill("template"), [_clean("reference", asked.reference)], []


STRATEGIES: dict[str, Callable[[_Asked], _Prompts]] = {
    "null": _null, "absent": _absent, "swap": _swap, "erase": _erase,
}  # fmt: skip
"""How a reference of that name makes prompts; any other reference is a text."""


def pair_for(
    backbone: Backbone, query: str, reference: str, *, caption: str | None = None
) -> PromptPair:
    """`build_pair` with the templates, nouns and vocabulary of a backbone."""
    pair = build_pair(
        query,
        reference,
        templates=backbone.calibration.get("prompts"),
        caption=caption,
        nouns=backbone.nouns,
        synonyms=backbone.synonyms,
        unknown_words=backbone.unknown_words,
        truncated_words=backbone.truncated_words,
    )
    return replace(pair, unknown=unknown_note(backbone, query, pair.noun))


def clean_query(query: object) -> tuple[str, list[str]]:
    """A query without what only dresses it.

    Full-width and other compatibility forms become plain ones (NFKC). Invisible characters, quotes
    and punctuation at the ends go; white space becomes single spaces. Brackets go as well, and
    with them weights as in "(dog:1.3)", which nothing here heeds: a note says so.

    Returns:
        (the query, notes).

    Raises:
        InputError: no text, a lone surrogate in it, nothing that names something, or more than
            1000 characters.

    >>> clean_query(" “The\u00a0\u200bdog”. ")
    ('The dog', [])
    >>> clean_query("(dog:1.3)")
    ('dog', ['brackets and weights mean nothing in a query; "(dog:1.3)" is read as "dog"'])
    """
    given = _clean("query", query)
    plain = _BRACKETS.sub(" ", _WEIGHT.sub("", given))
    text = " ".join(_QUOTE.sub(" ", plain.translate(_QUOTES)).split()).strip(_EDGES)
    if not text:
        raise InputError(f"query must name something, got {given[:40]!r}")
    if plain == given:
        return text, []
    return text, [
        f"brackets and weights mean nothing in a query; {_quoted(given)} is read as {_quoted(text)}"
    ]


def _check_one_thing(query: str, nouns: Sequence[str], synonyms: Mapping[str, str]) -> None:
    """Raise InputError where a query lists things of the vocabulary."""

    def is_known(text: str) -> bool:
        return object_noun(text, nouns) in nouns or not synonyms.keys().isdisjoint(
            (object_noun(text), text.lower())
        )

    parts = [part for part in _BETWEEN.split(query) if is_known(part)]
    if len(parts) > 1 and not is_known(query):
        each = ", ".join(map(repr, dict.fromkeys(parts)))
        raise InputError(f"query must name one thing, got {query[:80]!r}; give each its own "
                         f"query: {each}")  # fmt: skip


def pick_distractors(noun: str, candidates: Sequence[str], count: int = SWAPS) -> list[str]:
    """The first `count` of a fixed shuffle of the candidates that share no word with the noun.

    The shuffle does not depend on the noun, so several queries share their reference predictions.
    """
    own = set(noun.split())
    order = sorted(dict.fromkeys(candidates), key=lambda c: hashlib.sha256(c.encode()).digest())
    others = [c for c in order if not own & set(object_noun(c).split())][:count]
    if not others:
        raise InputError(f"distractors must hold a noun other than {noun!r}, got none")
    return others


def erase_from_caption(
    caption: str, query: str, noun: str | None = None, none: str = "[NONE]"
) -> tuple[str, str, list[str]]:
    """The caption with the object and the caption without it.

    Whole words only, singular or plural, with the article before them, in any case; a compound
    that is another thing ("hot dog" for "dog") does not count. If the whole query is not there,
    its first noun phrase and that phrase's last word are tried. If none is, the object is added to
    the caption for the query side and the caption as it is serves as the reference.

    Args:
        none: stands for the object in the erased caption; "" just takes it out.

    Returns:
        (query prompt, reference prompt, notes).

    >>> erase_from_caption("A dog catches a ball.", "the dog")[:2]
    ('A dog catches a ball.', '[NONE] catches a ball.')
    """
    noun = object_noun(query) if noun is None else noun
    words = noun.split()
    ends = [i for i, word in enumerate(words) if word in PREPOSITIONS and i > 0]
    phrase = words[: ends[0]] if ends else words
    for wanted in dict.fromkeys((noun, " ".join(phrase), phrase[-1])):
        erased, found = noun_pattern(wanted).subn(none, caption)
        if found:
            notes = []
            if wanted != noun:
                notes.append(f"the caption was searched for {_quoted(wanted)} only")
            return caption, _tidy(erased), notes
    inserted = f"{caption.rstrip(' .')} and {with_article(noun)}"
    return inserted, caption, [f"{_quoted(noun)} is not in the caption and was added to it"]


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"\s+([.,;:!?])", r"\1", text).strip(" ,;")


def _clean(name: str, text: object) -> str:
    """A text in NFKC, without invisible characters and with single spaces."""
    text = check_text(name, text)
    visible = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))
    cleaned = " ".join(unicodedata.normalize("NFKC", _BLANK.sub("", visible)).split())
    if not cleaned:
        raise InputError(f"{name} must not be empty, got {text[:20]!r}")
    if len(cleaned) > MAX_QUERY:
        raise InputError(f"{name} must have at most {MAX_QUERY} characters, got {len(cleaned)}")
    return cleaned


def _quoted(text: str) -> str:
    return f'"{text}"'
