"""The steps of a session, done and undone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import InputError
from .work import Work

MOST_STEPS = 60


@dataclass(frozen=True, eq=False)
class Step:
    """An entry of the history: what was done and what came of it."""

    label: str
    work: Work
    merges: str = ""


class History:
    """Steps done and undone; the oldest are forgotten after `MOST_STEPS`."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.at = -1

    @property
    def work(self) -> Work:
        """The work as it is now.

        Raises:
            InputError: no picture was opened yet.
        """
        if self.at < 0:
            raise InputError("picture must be opened first, got none")
        return self.steps[self.at].work

    def push(self, label: str, work: Work, merges: str = "") -> None:
        """Take a step; steps undone before it are lost.

        Args:
            merges: a step with the same text here, taken just before, is replaced.
        """
        del self.steps[self.at + 1 :]
        if merges and self.steps and self.steps[-1].merges == merges and len(self.steps) > 1:
            self.steps.pop()
        self.steps.append(Step(label, work, merges))
        del self.steps[:-MOST_STEPS]
        self.at = len(self.steps) - 1

    def amend(self, work: Work) -> None:
        """Change what came of the present step without taking another."""
        self.steps[self.at] = replace(self.steps[self.at], work=work)

    def go(self, index: int) -> None:
        """Look at another step; indices out of range lead to the nearest one."""
        self.at = min(max(index, 0), len(self.steps) - 1)
