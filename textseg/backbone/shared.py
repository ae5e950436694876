"""Loaded models: one by each name, used by one thread at a time."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from weakref import WeakKeyDictionary

from ..errors import InputError
from .base import Backbone

_locks: WeakKeyDictionary[Backbone, threading.RLock] = WeakKeyDictionary()
_painters: WeakKeyDictionary[Backbone, Backbone] = WeakKeyDictionary()
_locks_guard = threading.Lock()


def shared(model: Backbone | str | os.PathLike[str]) -> Backbone:
    """A loaded model: the one given, or the one of a name or folder.

    The model last loaded by name is kept until its files change.

    Raises:
        InputError: neither; ModelError, ModelNotFoundError: it cannot be loaded.
    """
    if isinstance(model, Backbone):
        return model
    if not isinstance(model, (str, os.PathLike)):
        raise InputError(
            f"model must be a name, a folder or a Backbone, got a {type(model).__name__}"
        )
    from .registry import find_source

    folder = find_source(model)
    files = [folder] if folder.is_file() else [f for f in folder.rglob("*") if f.is_file()]
    stamp = max((f.stat().st_mtime_ns for f in files), default=0)
    return load_once(os.fspath(model), str(folder), stamp)


@lru_cache(maxsize=1)
def load_once(name: str, folder: str, stamp: int) -> Backbone:
    """The model of a name; loaded again where its folder or the time of its files changed."""
    from . import load

    return load(name)


def painter_of(model: Backbone) -> Backbone:
    """The model that makes pictures where `model` finds things: itself, or the one its folder names
    because it does not paint, loaded once, on its device and in its precision.

    Raises:
        ModelError, ModelNotFoundError: the named one cannot be loaded.
    """
    if model.painter is None:
        return model
    with lock_of(model):
        if model not in _painters:
            from . import load

            _painters[model] = load(model.painter, device=model.device, dtype=model.dtype)
        return _painters[model]


def lock_of(model: Backbone) -> threading.RLock:
    """The lock that everything which runs a model holds, so that threads take turns."""
    with _locks_guard:
        return _locks.setdefault(model, threading.RLock())
