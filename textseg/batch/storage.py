"""Folders here or in an object store: local paths, and URLs as s3://, gs:// or memory://."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, InputError, MissingDependencyError, OutputError
from ..faults import LOG, append_entry
from ..image import load_image
from ..saving import replacing, write_atomic

if TYPE_CHECKING:
    import numpy as np

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_WEB = ("http", "https")
# Stores whose folders exist as soon as something lies in them.
_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "memory")
# Without fsspec's own package for them, these go through pyarrow.
_OWN_PACKAGE = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


def scheme_of(place: str) -> str:
    """The scheme of a URL in lower case; "" for a local path.

    >>> scheme_of("s3://bucket/a"), scheme_of("a/b.jpg"), scheme_of("C:/a")
    ('s3', '', '')
    """
    found = _SCHEME.match(place)
    return found[1].lower() if found else ""


def is_web(place: str) -> bool:
    """Whether a place is an http(s) URL."""
    return scheme_of(place) in _WEB


def is_remote(place: str) -> bool:
    """Whether a place is in a store that is reached through a file system library."""
    return scheme_of(place) not in ("", "file", *_WEB)


def local_path(place: str) -> Path:
    """A local path, given as such or as a file:// URL."""
    if scheme_of(place) == "file":
        from urllib.parse import unquote, urlsplit

        return Path(unquote(urlsplit(place).path))
    return Path(place)


def open_store(place: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the URL's path in it.

    A query such as `?endpoint_override=localhost:9000&scheme=http` sets up pyarrow's file system.

    Raises:
        MissingDependencyError: fsspec or the store's package is missing.
        InputError: no such scheme or malformed URL.
    """
    try:
        return _open_store(place)
    except ImportError as error:
        raise MissingDependencyError(
            f"{scheme_of(place)}:// needs a file system package ({error}); "
            "try: pip install 'textseg[ray]'"
        ) from error
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"URL must lead to a store, got {place!r}: {reason}") from error


def _open_store(place: str) -> tuple[Any, str]:
    base, _, query = place.partition("?")
    package = _OWN_PACKAGE.get(scheme_of(place))
    if package is not None and (query or not importlib.util.find_spec(package)):
        scheme, _, rest = base.partition("://")
        bucket, _, path = rest.partition("/")
        scheme = {"s3a": "s3", "gcs": "gs"}.get(scheme.lower(), scheme.lower())
        return _arrow_store(f"{scheme}://{bucket}", query), f"{bucket}/{path}".rstrip("/")
    import fsspec

    store, path = fsspec.core.url_to_fs(place)
    return store, path


@functools.lru_cache(maxsize=16)
def _arrow_store(bucket: str, query: str) -> Any:
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    return ArrowFSWrapper(fs.FileSystem.from_uri(f"{bucket}?{query}" if query else bucket)[0])


def read_image(source: str, *, allow_url: bool = False) -> np.ndarray:
    """An image's pixels (H, W, 3) uint8 from a local path, a store or, if allowed, the web.

    Raises:
        ImageError: it cannot be read.
    """
    if not is_remote(source):
        return load_image(source if is_web(source) else local_path(source), allow_url=allow_url)
    store, path = open_store(source)
    try:
        with store.open(path, "rb") as file:
            return load_image(file)
    except FileNotFoundError:
        raise ImageError(f"image must be an existing file, got {source!r}") from None
    except OSError as error:
        raise ImageError(f"image cannot be read: {one_reason(error)}: {source!r}") from error


def one_reason(error: BaseException) -> str:
    """What went wrong, on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


class Folder:
    """Where results go: a local folder, made if need be, or a prefix in a store.

    Attributes:
        place: as given.
        local: the folder's path, or None in a store.

    Raises:
        OutputError: the folder cannot be made.
        InputError, MissingDependencyError: the store cannot be reached.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.local: Path | None = None
        self._store: Any = None
        self._root = ""
        self._made: set[Path] = set()
        if is_web(place):
            raise InputError(f"output must be a folder or a store, got {place!r}")
        if is_remote(place):
            self._store, self._root = open_store(place)
        else:
            self.local = local_path(place)
            self._make(self.local)

    def write(self, name: str, data: bytes) -> None:
        """Write one file, whole or not at all; `name` is relative, with forward slashes.

        Raises:
            OutputError: it cannot be written.
        """
        with self._errors(name):
            if self.local is not None:
                write_atomic(self.local_file(name), data)
                return
            self._store.pipe_file(self._made_target(name), data)

    def log(self, entry: str, key: str) -> str:
        """Add an entry to the log of errors; in a store, which cannot append, it is an object of
        its own under errors/.

        Args:
            key: names the entry.

        Returns:
            the log's name.

        Raises:
            OutputError: it cannot be written.
        """
        if self.local is not None:
            append_entry(self.local / LOG, entry)
            return LOG
        self.write(f"errors/{key}.log", entry.encode("utf-8", "backslashreplace"))
        return "errors/"

    def local_file(self, name: str) -> Path:
        """The path of a file in a local folder, whose own folder is there."""
        assert self.local is not None
        path = self.local / name
        self._make(path.parent)
        return path

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None where there is none."""
        try:
            if self.local is not None:
                return (self.local / name).read_bytes()
            return self._store.cat_file(self._target(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"cannot read {name!r}: {one_reason(error)}") from error

    def names(self, folder: str) -> list[str]:
        """Names of the files in a store's sub-folder, sorted."""
        target = self._target(folder)
        try:
            return sorted(
                f"{folder}/{path.rpartition('/')[2]}" for path in self._store.find(target)
            )
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A local path to write one file to; on leaving it takes its place, whole."""
        if self.local is not None:
            with self._errors(name), replacing(self.local_file(name)) as temporary:
                yield temporary
            return
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / name.rpartition("/")[2]
            yield temporary
            with self._errors(name):
                self._store.put_file(str(temporary), self._made_target(name))

    def _target(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _made_target(self, name: str) -> str:
        """A file's path in the store, its folder made where the store needs that."""
        target = self._target(name)
        if scheme_of(self.place) not in _OBJECT_STORES:
            self._store.makedirs(target.rpartition("/")[0], exist_ok=True)
        return target

    def _make(self, folder: Path) -> None:
        if folder not in self._made:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"output folder cannot be made: {error.strerror}: {str(folder)!r}"
                ) from error
            self._made.add(folder)

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            place = f"{self.place.rstrip('/')}/{name}"
            raise OutputError(f"cannot write {place!r}: {one_reason(error)}") from error
