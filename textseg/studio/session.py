"""What one visitor has: the history of their work, and a segmenter with its caches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .history import History
from .work import Layer, Work

if TYPE_CHECKING:
    from ..backbone.base import Backbone
    from ..edits import Edit

SESSION_CACHE_BYTES = 2**26


class Session:
    """What belongs to one visitor and is never shared with another.

    Attributes:
        segmenter: over the model that all sessions share, with caches of its own.
        history: the steps so far.
        lock: held while the history changes.
        stop: set to end the job that runs.
        stop_caption: set to end the captioning that runs unasked.
        busy: held by the job that runs.
        cutting: held while masks are settled.
        changes: how many steps were ever taken; tells whether something happened since.
        view: how the picture is looked at.
        compared: the edit that the page shows before and after.
        told: the last `Done` and the seconds it took, said again when masks settle.
    """

    def __init__(self, model: Backbone) -> None:
        from ..segmenter import Segmenter

        self.segmenter = Segmenter(model, cache_bytes=SESSION_CACHE_BYTES)
        self.history = History()
        self.lock = threading.RLock()
        self.stop = threading.Event()
        self.stop_caption = threading.Event()
        self.busy = threading.Lock()
        self.cutting = threading.Lock()
        self.changes = 0
        self.view = "Overlay"
        self.compared: Edit | None = None
        self.told: tuple[Any, float] = (None, 0.0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return self

    @property
    def work(self) -> Work:
        return self.history.work

    def change(self, label: str, alter: Callable[[Work], Work], merges: str = "") -> Work:
        """Take a step from the present work to what `alter` makes of it."""
        with self.lock:
            self.changes += 1
            self.history.push(label, alter(self.work), merges)
            return self.work

    def change_layer(self, label: str, layer: Layer, merges: str = "") -> Work:
        """Take a step to another mask of the selected query, which is to be approved anew."""
        return self.change(label, lambda now: now.with_layer(layer, approved=False), merges)

    def encode(self) -> None:
        """Bring the segmenter to the present picture; free if it is there already."""
        self.segmenter.set_image(self.work.picture.pixels)
