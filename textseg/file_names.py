"""Names of output files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

_SLUG_BYTES = 80


def image_stems(sources: Sequence[str]) -> list[str]:
    """One name per image, each different even where letter case is ignored.

    >>> image_stems(["a/park.jpg", "b/park.png", "-"])
    ['park', 'park-2', 'stdin']
    """
    return _distinct([_stem(source) for source in sources])


def query_slugs(queries: Sequence[str]) -> list[str]:
    """One file-name part per query, each different.

    >>> query_slugs(["the dog", "The Dog!", "?"])
    ['the-dog', 'the-dog-2', 'query']
    """
    return _distinct([_slug(query) for query in queries])


def _stem(source: str) -> str:
    if source == "-":
        return "stdin"
    if re.match(r"https?://", source, re.IGNORECASE):
        path = re.sub(r"[?#].*", "", source).rstrip("/")
        return _slug(PurePath(path).stem)
    return PurePath(source).stem or "image"


def _slug(text: str) -> str:
    slug = re.sub(r"[\W_]+", "-", text.lower()).strip("-")
    return slug.encode()[:_SLUG_BYTES].decode(errors="ignore").strip("-") or "query"


def _distinct(names: Sequence[str]) -> list[str]:
    taken = {name.casefold() for name in names}
    used: set[str] = set()
    distinct = []
    for name in names:
        candidate, number = name, 1
        while candidate.casefold() in used or (number > 1 and candidate.casefold() in taken):
            number += 1
            candidate = f"{name}-{number}"
        used.add(candidate.casefold())
        distinct.append(candidate)
    return distinct
