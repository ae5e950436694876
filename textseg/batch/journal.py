"""What is done of a run, kept through any interruption."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._version import __version__
from ..records import RecordFile, check_same_run
from ..saving import utf8
from .stages import Record
from .storage import Folder

FORMAT = 1
IDENTITY, JOURNAL, SEGMENTS = "run.json", "journal.jsonl", "journal"


class Journal:
    """The records of an output folder.

    In a local folder they are lines of one file, each on the disk when `append` returns; a line
    that a kill left half-written is cut off. In a store, which cannot append, each call of `append`
    makes one object under `journal/`.

    Args:
        folder: the output.
        identity: what must be the same for a run to be taken up again, JSON-able.

    Raises:
        InputError: the folder holds a run with other settings.
        OutputError: it cannot be written, or another run is writing it.
    """

    def __init__(self, folder: Folder, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        self._spool = None if folder.local else tempfile.TemporaryDirectory()
        self._segments = 0
        path = Path(self._spool.name) if self._spool else folder.local
        assert path is not None
        self._records = RecordFile(path / JOURNAL)
        try:
            self._check({"format": FORMAT, "version": __version__, **identity})
            if self._spool:
                names = folder.names(SEGMENTS)
                self._segments = len(names)
                for name in names:
                    for line in (folder.read(name) or b"").splitlines():
                        self._records.append(json.loads(line))
            self._records.forget_failed()
        except BaseException:
            self.close()
            raise

    def _check(self, identity: dict[str, Any]) -> None:
        stored = self._folder.read(IDENTITY)
        if stored is None:
            text = json.dumps(identity, indent=1, ensure_ascii=False) + "\n"
            self._folder.write(IDENTITY, utf8(text))
            return
        try:
            before = json.loads(stored)
        except ValueError:
            before = None
        check_same_run(before, identity, repr(self._folder.place))

    def done(self, key: str) -> bool:
        """Whether an image is done; one that failed is not."""
        return key in self._records

    def get(self, key: str) -> Record | None:
        """An image's record, or None."""
        return self._records.read(key) if key in self._records else None

    def append(self, records: Sequence[Record]) -> None:
        """Add records; they are safe when this returns."""
        if self._spool and records:
            lines = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
            name = f"{SEGMENTS}/{self._segments:09d}-{secrets.token_hex(4)}.jsonl"
            self._folder.write(name, lines.encode())
            self._segments += 1
        for record in records:
            self._records.append(record)

    def close(self) -> None:
        self._records.close()
        if self._spool:
            self._spool.cleanup()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
