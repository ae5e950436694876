"""The file of per-image records: one JSON line each, appended, kept through any interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import InputError, OutputError

Record = dict[str, Any]


def check_same_run(before: Any, identity: Mapping[str, Any], place: str) -> None:
    """Refuse to mix the records of two different runs.

    Args:
        before: what the folder says of its run, as read from JSON.
        identity: what must be the same for a run to be taken up again.
        place: the folder, for people.

    Raises:
        InputError: something else was there before; it names what is different.
    """
    different = ["kind of content"]
    if isinstance(before, dict):
        different = [key for key in identity if before.get(key) != identity[key]]
    if different:
        raise InputError(
            f"output must be a new folder or one of the same run, got {place} "
            f"with another {', '.join(different)}"
        )


class RecordFile:
    """An append-only file of records with an `image_id` and a `part`, one per image.

    A line counts once it ends: what a kill left half-written is cut off when the file is opened
    again. Only the place of each record is kept in memory.

    Raises:
        OutputError: the file cannot be written, or another run is writing it.
        InputError: a line in the middle is damaged.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._places: dict[int | str, tuple[int, str]] = {}
        self._failed: set[int | str] = set()
        try:
            self._file = path.open("rb" if read_only else "a+b")
        except OSError as error:
            if read_only:
                raise InputError(f"run must hold {path.name}, got {path.parent}") from error
            raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error
        try:
            if not read_only:
                self._lock()
            end = self._scan()
            if not read_only:
                self._file.truncate(end)
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows keeps no lock here.
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"cannot write {str(self.path)!r}: another run is at it") from error

    def _scan(self) -> int:
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                self._note(json.loads(line), end)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"per-image records must be whole JSON lines, got a damaged one at byte {end} "
                    f"of {self.path}"
                ) from error
            end += len(line)
        return end

    def _note(self, record: Record, place: int) -> None:
        image_id = record["image_id"]
        self._places[image_id] = place, record["part"]
        (self._failed.add if "error" in record else self._failed.discard)(image_id)

    @property
    def failed(self) -> int:
        """How many of the records are of images that failed."""
        return len(self._failed)

    def forget_failed(self) -> None:
        """Let go of the records of failures, so that their images are done again."""
        for image_id in self._failed:
            del self._places[image_id]
        self._failed.clear()

    def __contains__(self, image_id: int | str) -> bool:
        return image_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def part(self, image_id: int | str) -> str:
        """The part a record belongs to."""
        return self._places[image_id][1]

    def append(self, record: Record) -> None:
        """Add a record; it is on the disk when this returns."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {str(self.path)!r}: {error.strerror}") from error
        self._note(record, place)

    def read(self, image_id: int | str) -> Record:
        """One record."""
        self._file.seek(self._places[image_id][0])
        return json.loads(self._file.readline())

    def records(self, part: str | None = None) -> Iterator[Record]:
        """The records of a part, or all, in the order of their ids: the same for any order of
        work."""
        for image_id in sorted(self._places, key=lambda i: (isinstance(i, str), i)):
            if part is None or self._places[image_id][1] == part:
                yield self.read(image_id)

    def close(self) -> None:
        """Let go of the file.

        Raises:
            OutputError: the end of a record that was being written does not fit on the disk.
        """
        try:
            self._file.close()
        except OSError as error:
            raise OutputError(f"cannot write {str(self.path)!r}: {error.strerror}") from error

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
