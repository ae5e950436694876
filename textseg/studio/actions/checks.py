"""What an action needs to be there, and to have stayed as it was while it worked."""

from __future__ import annotations

from ...errors import InputError
from ..session import Session
from ..work import Layer, Work


def selected(session: Session) -> Layer:
    """The selected layer.

    Raises:
        InputError: there is none.
    """
    layer = session.work.layer
    if layer is None:
        raise InputError("query must be asked first, got none")
    return layer


def same_picture(now: Work, then: Work) -> None:
    """Raises InputError if another picture is open now."""
    if now.picture.pixels is not then.picture.pixels:
        raise InputError("picture must stay the same while it is worked on; it was changed")


def same_layer(now: Work, then: Work) -> Layer:
    """The layer as it is now; its mask may have changed since.

    Raises:
        InputError: another picture or another query is selected now.
    """
    same_picture(now, then)
    if now.layer is None or then.layer is None or now.layer.query != then.layer.query:
        raise InputError("query must stay selected while it is worked on; another one is now")
    return now.layer
