"""What to segment: folders, globs, manifests and COCO files become a plan in a stable order."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..coco import parse_names
from ..english import object_noun
from ..errors import InputError
from ..file_names import image_stems, query_slugs
from ..picture_files import described, find_files, split_pictures
from ..prompts import clean_query
from .storage import is_remote, is_web, local_path, one_reason, open_store, scheme_of

MANIFESTS = (".csv", ".jsonl", ".ndjson")
_IMAGE_KEYS = ("image", "path", "file", "file_name", "filename", "url")
_QUERY_KEYS = ("queries", "query")
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Item:
    """One image and what is asked of it.

    Attributes:
        source: where it lies: a path or a URL.
        name: its place in the source's tree, relative, with forward slashes.
        stem: where its results go in the output: `name` without the suffix, different for each
            image; "" until the plan is made.
        queries: what is asked, in order, each once.
        image_id: as in the COCO file where that is a number, else its number in the plan, from 1;
            -1 until the plan is made.
        categories: id of each query.
        caption: what the image shows, for the reference "erase", or None.
    """

    source: str
    name: str
    queries: tuple[str, ...] = ()
    image_id: int = -1
    stem: str = ""
    categories: tuple[int, ...] = ()
    caption: str | None = None

    @property
    def slugs(self) -> list[str]:
        """The part of a file's name that each query gives."""
        return query_slugs(self.queries)

    def key(self, *more: object) -> str:
        """16 hex digits that change when the work on this image would."""
        place = self.source if scheme_of(self.source) else os.path.abspath(self.source)
        content = [place, self.stem, self.queries, self.caption, *more]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """All images in order.

    Attributes:
        items: the images.
        categories: names by id, in the order of their first use or as in the COCO file.
        unasked: images that were left out since the COCO file names nothing in them.
        left_out: files of folders and globs that are no pictures by their suffix: how many of each
            suffix.
    """

    items: Sequence[Item]
    categories: Mapping[int, str]
    unasked: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)


def make_plan(
    sources: Sequence[str],
    queries: Sequence[str] = (),
    *,
    images: str | None = None,
    exclude: str | None = None,
) -> Plan:
    """Read what the sources name.

    Args:
        sources: each a folder (see `find_files`), an image, a glob ("**" goes through folders), a
            manifest (.csv, .jsonl) or a COCO file (.json); local, or a URL of a store.
        queries: asked of images that have none of their own; replaces the categories of COCO files.
        images: folder of a COCO file's or a manifest's pictures; by default where that file lies.
        exclude: a folder whose files are not taken: the output.

    Returns:
        Folders and globs sorted by name, manifests and COCO files in their own order.

    Raises:
        InputError: a source is missing or malformed, holds no image, or an image has no query.
    """
    queries = tuple(dict.fromkeys(queries))
    for text in queries:
        clean_query(text)
    found: list[Item] = []
    names: Mapping[int, str] = {}
    unasked = 0
    left_out: Counter[str] = Counter()
    for source in sources:
        if _suffix(source) == ".json":
            items, names, left = _read_coco(source, queries, images, names)
            unasked += left
        elif _suffix(source) in MANIFESTS:
            items = _read_manifest(source, queries, images)
        else:
            items = [Item(place, name, queries) for place, name in _list(source, exclude, left_out)]
            if not items:
                others = f" ({described(left_out)} left out)" if left_out else ""
                raise InputError(
                    f"source must hold at least one image, got none in {source!r}{others}"
                )
        found.extend(items)
    if not found:
        raise InputError(f"source must hold at least one image with a query, got none in "
                         f"{', '.join(map(repr, sources))}")  # fmt: skip
    for item in found:
        if not item.queries:
            raise InputError(
                f"queries must be given, with -q or in a manifest, got none for {item.source!r}"
            )
    return replace(_numbered(found, names), unasked=unasked, left_out=dict(left_out))


def _numbered(found: Sequence[Item], names: Mapping[int, str]) -> Plan:
    """Items with stems, image ids and category ids."""
    by_folder: dict[str, list[int]] = {}
    for i, item in enumerate(found):
        by_folder.setdefault(item.name.rpartition("/")[0].casefold(), []).append(i)
    stems = [""] * len(found)
    for places in by_folder.values():
        parts = [found[i].name.rpartition("/") for i in places]
        for i, (folder, slash, _), stem in zip(
            places, parts, image_stems([f"./{last}" for _, _, last in parts]), strict=True
        ):
            stems[i] = f"{folder}{slash}{stem}"
    categories = dict(names)
    ids = {name: number for number, name in categories.items()}
    nouns = {name.lower(): number for name, number in ids.items()}
    following = max(categories, default=0) + 1
    given = [item.image_id for item in found if item.image_id >= 0]
    taken = set(given)
    if len(taken) < len(given):
        raise InputError("images of the COCO files must have different ids, got one of them twice")
    number = 0
    items = []
    for item, stem in zip(found, stems, strict=True):
        for query in item.queries:
            if query not in ids:
                known = nouns.get(object_noun(query)) if names else None
                if known is None:
                    known, following = following, following + 1
                    categories[known] = query
                ids[query] = known
        image_id = item.image_id
        while image_id < 0:
            number += 1
            image_id = number if number not in taken else -1
        items.append(replace(item, stem=stem, image_id=image_id,
                             categories=tuple(ids[query] for query in item.queries)))  # fmt: skip
    return Plan(items, categories)


def _suffix(place: str) -> str:
    return os.path.splitext(place.partition("?")[0] if scheme_of(place) else place)[1].lower()


def _list(source: str, exclude: str | None, left_out: Counter[str]) -> list[tuple[str, str]]:
    """Places and names of the images of a folder, a glob or a file, sorted by name."""
    if is_web(source):
        return [(source, _name_of(source))]
    if is_remote(source):
        return _list_store(source, exclude, left_out)
    root = local_path(source)
    barred = None if exclude is None or is_remote(exclude) else local_path(exclude).resolve()
    if root.is_dir():
        paths: Iterable[Path] = find_files(root)
        base = root
    elif root.is_file():
        return [(str(root), root.name)]
    elif _WILDCARD.search(str(root)):
        fixed = []
        for part in root.parts:
            if _WILDCARD.search(part):
                break
            fixed.append(part)
        base = Path(*fixed)
        try:
            paths = base.glob(str(root.relative_to(base)))
        except (ValueError, NotImplementedError) as error:
            raise InputError(f"source must be a glob, got {source!r}: {error}") from None
        paths = (path for path in paths if path.is_file())
    else:
        raise InputError(f"source must exist, got {source!r}")
    if barred is not None:
        paths = (path for path in paths if barred not in path.resolve().parents)
    pictures, others = split_pictures(paths)
    left_out.update(others)
    found = [(str(path), path.relative_to(base).as_posix()) for path in pictures]
    return sorted(found, key=lambda pair: pair[1].split("/"))


def _list_store(source: str, exclude: str | None, left_out: Counter[str]) -> list[tuple[str, str]]:
    store, root = open_store(source)
    scheme, query = scheme_of(source), source.partition("?")[2]
    tail = f"?{query}" if query and not _WILDCARD.search(root) else ""
    try:
        if _WILDCARD.search(root):
            paths = [path for path in store.glob(root) if not store.isdir(path)]
            base = root[: _WILDCARD.search(root).start()].rpartition("/")[0]  # pyright: ignore
        elif store.isfile(root):
            paths, base = [root], root.rpartition("/")[0]
        else:
            paths, base = store.find(root), root
    except FileNotFoundError:
        raise InputError(f"source must exist, got {source!r}") from None
    except OSError as error:
        raise InputError(f"source cannot be listed: {one_reason(error)}: {source!r}") from error
    barred = None
    if exclude is not None and scheme_of(exclude) == scheme:
        barred = open_store(exclude)[1].rstrip("/") + "/"
    places: dict[PurePosixPath, str] = {}
    for path in paths:
        name = path[len(base) :].lstrip("/")
        hidden = any(part.startswith(".") for part in name.split("/"))
        if not hidden and not (barred and path.startswith(barred)):
            places[PurePosixPath(name)] = path
    pictures, others = split_pictures(places)
    left_out.update(others)
    found = [(f"{scheme}://{places[name]}{tail}", str(name)) for name in pictures]
    return sorted(found, key=lambda pair: pair[1].split("/"))


def _read_text(source: str) -> str:
    try:
        if is_remote(source):
            store, path = open_store(source)
            return store.cat_file(path).decode("utf-8-sig")
        return local_path(source).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"source must exist, got {source!r}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"source cannot be read: {one_reason(error)}: {source!r}") from error


def _read_manifest(source: str, queries: tuple[str, ...], images: str | None) -> list[Item]:
    """Rows of a manifest; those of the same image are put together."""
    merged: dict[str, Item] = {}
    for line, row in _rows(source):
        where = f"{source}, line {line}"
        place = _first(row, _IMAGE_KEYS)
        if not isinstance(place, str) or not place:
            raise InputError(f"manifest must name an image under {_IMAGE_KEYS[0]!r} in each row, "
                             f"got none in {where}")  # fmt: skip
        own = _texts(_first(row, _QUERY_KEYS), where)
        caption = row.get("caption") or None
        if caption is not None and not isinstance(caption, str):
            raise InputError(f"manifest's captions must be texts, got {caption!r} in {where}")
        before = merged.get(place)
        if before is not None:
            own = (*before.queries, *own)
            caption = caption or before.caption
        merged[place] = Item(
            _beside(source, images, place), _name_of(place), tuple(dict.fromkeys(own)),
            caption=caption,
        )  # fmt: skip
    return [replace(item, queries=item.queries or queries) for item in merged.values()]


def _rows(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _read_text(source)
    if _suffix(source) == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                yield reader.line_num, {str(k).strip().lower(): v for k, v in row.items()}
        except csv.Error as error:
            raise InputError(f"manifest must be CSV, got {source}: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"manifest must be JSON lines, got {source}, line {number}: {error}"
            ) from None
        if not isinstance(row, dict):
            raise InputError(f"manifest's lines must be objects, got {source}, line {number}")
        yield number, row


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if row.get(key)), None)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """Queries as a list, or as one text with | between."""
    if value is None:
        return ()
    texts = value.split("|") if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"manifest's queries must be texts, got {value!r} in {where}")
    return tuple(text.strip() for text in texts if text.strip())


def _beside(source: str, images: str | None, place: str) -> str:
    """Where an image named in a file lies: relative to `images`, or to the file's own folder."""
    if scheme_of(place) or os.path.isabs(place):
        return place
    folder = images if images is not None else (
        source.partition("?")[0].rpartition("/")[0] if is_remote(source)
        else str(local_path(source).parent)
    )  # fmt: skip
    if is_remote(folder):
        base, _, query = folder.partition("?")
        query = query or (source.partition("?")[2] if images is None else "")
        return f"{base.rstrip('/')}/{place}{'?' + query if query else ''}"
    return str(local_path(folder) / place)


def _name_of(place: str) -> str:
    """A relative name for any path or URL, which never leads out of a folder.

    >>> _name_of("../a/./b.jpg"), _name_of("s3://bucket/b.jpg?x=1"), _name_of("/data/b.jpg")
    ('a/b.jpg', 'bucket/b.jpg', 'data/b.jpg')
    """
    path = _SCHEME_PART.sub("", place)
    if path != place:
        path = re.sub(r"[?#].*", "", path)
    path = path.replace("\\", "/") if os.sep == "\\" else path
    parts = [part.replace(":", "_") for part in path.split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "image"


_SCHEME_PART = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


def _read_coco(
    source: str, queries: tuple[str, ...], images: str | None, names: Mapping[int, str]
) -> tuple[list[Item], Mapping[int, str], int]:
    """Images of a COCO file in the order of their ids; its categories; images left out."""
    coco = parse_names(_read_text(source), source)
    categories = coco.categories
    found = []
    for image in coco.by_id():
        shown = {annotation.category_id for annotation in image.annotations}
        own = dict.fromkeys(name for key, name in categories.items() if key in shown)
        found.append(
            Item(
                source=_beside(source, images, image.file_name),
                name=_name_of(image.file_name),
                queries=queries or tuple(own),
                image_id=image.id if isinstance(image.id, int) else -1,
            )
        )
    if names and categories != names:
        raise InputError(f"COCO files of one run must have the same categories, got {source!r}")
    asked = [item for item in found if item.queries]
    return asked, categories, len(found) - len(asked)
