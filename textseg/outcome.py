"""Whether an edit took, in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

CAVEAT = "the model's own view, which can be wrong; look for yourself"
_TAKEN = {True: "seems to have taken", False: "seems not to have taken"}


@dataclass(frozen=True)
class Sight:
    """How surely a model sees a thing before an edit and after it.

    Attributes:
        query: what is looked for.
        before, after: presence in the whole picture, 0 to 1.
        there_before, there_after: whether its mask lies in the edited region.
    """

    query: str
    before: float
    after: float
    there_before: bool
    there_after: bool


@dataclass(frozen=True)
class Outcome:
    """What an edit tried, and what a model sees of it; `str` is one line for people.

    Attributes:
        tried: in words, as "to remove the dog".
        model: whose view it is.
        source: the sight of what was edited, where that was named by words the model knows.
        target: the sight of what it was to become, likewise.
        took: whether the edit seems to have taken: the target is found in the region, or, without
            one, the source is not found there any more. None where the model cannot tell.
    """

    tried: str
    model: str
    source: Sight | None = None
    target: Sight | None = None
    took: bool | None = None

    def __str__(self) -> str:
        sights = [sight for sight in (self.target, self.source) if sight is not None]
        if not sights:
            return f"tried {self.tried}; {self.model} cannot tell whether it took"
        seen = ", ".join(
            f"{sight.query} at {sight.before:.2f} before and {sight.after:.2f} after"
            for sight in sights
        )
        taken = "" if self.took is None else f", so it {_TAKEN[self.took]}"
        return f"tried {self.tried}; {self.model} sees {seen}{taken} ({CAVEAT})"

    def describe(self) -> dict[str, Any]:
        """All of it, JSON-able; with the line under "words"."""
        return asdict(self) | {"words": str(self)}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Outcome:
        """Reads back what `describe` gave."""
        sights = {name: record[name] and Sight(**record[name]) for name in ("source", "target")}
        return cls(record["tried"], record["model"], **sights, took=record["took"])
