"""Silence from the libraries below."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from .lean import restore


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the loggers and progress bars of diffusers and its like: what matters of it is said
    elsewhere."""
    restore()
    # Imported by diffusers where it is installed, and speaks of what is not used here.
    third = logging.getLogger("bitsandbytes")
    third_level = third.level
    third.setLevel(logging.ERROR)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    logs = (diffusers_logging, transformers_logging)
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        third.setLevel(third_level)
        for log, level, bars in before:
            log.set_verbosity(level)
            if bars:
                log.enable_progress_bar()
