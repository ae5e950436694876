"""What an action needs to be there, and to have stayed as it was while it worked."""

from __future__ import annotations

from ...errors import InputError
from ..state import Layer, Session, Work


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


def same_layer(now: Work, layer: Layer) -> None:
    """Raises InputError if another layer is selected now."""
    if now.layer is not layer:
        raise InputError("query must stay selected while it is worked on; another one is now")
