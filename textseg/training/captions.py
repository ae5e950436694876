"""Captions of scenes: what is in them, and what is not."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

import numpy as np

from ..english import with_article

PROMPTS = {"template": "a photo of {a}", "absent": "a photo without {a}"}
"""What a model is asked that learnt these captions: `prompts` of its `textseg.json`."""
ABSENT_TEMPLATES = (
    "without {a}", "without {n}", "a photo without {a}", "a picture without {n}",
    "a photo without {a}", "a scene without {the}",
)  # fmt: skip
PRESENT_TEMPLATES = ("{list}", "a photo of {list}", "a picture of {list}", "a scene with {list}")


def present_caption(rng: np.random.Generator, nouns: Sequence[str]) -> str:
    """A caption that names the given nouns in random order."""
    parts = []
    for noun in rng.permutation(np.array(nouns, dtype=object)):
        style = rng.random()
        parts.append(with_article(noun) if style < 0.7 else noun if style < 0.85 else f"the {noun}")
    joint = ", " if rng.random() < 0.3 else " and "
    template = PRESENT_TEMPLATES[rng.integers(len(PRESENT_TEMPLATES))]
    return template.format(list=joint.join(parts))


def absent_caption(rng: np.random.Generator, noun: str, others: Sequence[str] = ()) -> str:
    """A caption that says the noun is absent, and may name others that are present."""
    template = ABSENT_TEMPLATES[rng.integers(len(ABSENT_TEMPLATES))]
    absent = template.format(a=with_article(noun), n=noun, the=f"the {noun}")
    if len(others) and not absent.startswith(("a photo", "a picture", "a scene")):
        return f"{present_caption(rng, others)} {absent}"
    return absent


def unknown_word(rng: np.random.Generator) -> str:
    """A random word of 3 to 8 letters that means nothing."""
    return "".join(rng.choice(list(string.ascii_lowercase), int(rng.integers(3, 9))))


def caption_rows(
    rng: np.random.Generator,
    names: Sequence[str],
    absent: Callable[[], str] | None,
    share: float,
    unknown: float = 0.0,
) -> tuple[str, str, int]:
    """The two captions of a scene, and which of its nouns the second takes away.

    Args:
        names: the scene's nouns.
        absent: chooses a noun that is not in the image; None where there is none.
        share: how often the second caption names one of those; always where `names` is empty.
        unknown: how often the first caption, if it says something, ends in a word without meaning.

    Returns:
        An ordinary caption that names some of the nouns, all or none; a caption that says that a
        noun is absent; and the index of that noun, -1 for one that really is.
    """
    slot = int(rng.integers(len(names))) if names else -1
    if absent is not None and (slot < 0 or rng.random() < share):
        slot, noun = -1, absent()
    else:
        noun = names[slot]
    style = rng.random()
    if style < 0.4 or not names:
        ordinary = ""
    elif style < 0.6 and slot >= 0:
        ordinary = present_caption(rng, [noun])
    else:
        count = int(rng.integers(1, len(names) + 1))
        ordinary = present_caption(rng, [str(n) for n in rng.permutation(list(names))[:count]])
    if ordinary and unknown and rng.random() < unknown:
        ordinary = f"{ordinary} {rng.choice(['and', 'with', 'without'])} {unknown_word(rng)}"
    others = [n for n in names if n != noun]
    named = others if others and rng.random() < 0.2 else ()
    return ordinary, absent_caption(rng, noun, named), slot
