"""What a visitor sees first."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from . import actions, pictures
from .session import Session

if TYPE_CHECKING:
    from ..backbone.base import Backbone

_SMALL_MODEL = 256


class FirstView:
    """A session in which a thing of a sample is found already; worked out once.

    Args:
        model: shared by all sessions.
        sample: name of the picture.
    """

    def __init__(self, model: Backbone, sample: str) -> None:
        self._model, self._sample = model, sample
        self._session: Session | None = None
        self._lock = threading.Lock()

    def session(self) -> Session:
        """It, to be copied from."""
        with self._lock:
            if self._session is None:
                self._session = self._made()
            return self._session

    def _made(self) -> Session:
        picture = pictures.open_sample(self._sample)
        # On a processor a full-size model takes minutes for what nobody asked.
        slow = self._model.device.type == "cpu" and self._model.native_size > _SMALL_MODEL
        session = Session(self._model)
        actions.open_picture(session, picture)
        for thing in () if slow else picture.things:
            session = Session(self._model)
            actions.open_picture(session, picture)
            actions.ask(session, thing)
            actions.settle(session)
            if session.work.layer and session.work.layer.mask.any():
                break
        return session
