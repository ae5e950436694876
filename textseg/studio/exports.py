"""What can be taken home: files of the masks, the cutouts, the annotations and the edit."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..formats import SUFFIXES, coco_data, write_json, write_result
from ..saving import utf8
from .actions import settle
from .session import Session
from .snippets import commands, file_names, python_code, style_name

KINDS = ("mask", "cutout", "coco", "edit", "image", "all")


def export(session: Session, kind: str, folder: Path) -> Path:
    """Write one file to a folder.

    Args:
        kind: "mask" or "cutout" of the selected query, "coco" of all, the "edit", the "image" as
            it was opened, or "all" of it with the code in a zip.

    Raises:
        InputError: there is no such thing yet.
        OutputError: the file cannot be written.
    """
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    settle(session)
    work = session.work
    stem, slugs = file_names(session)
    if kind == "image":
        path = folder / Path(work.picture.name).name
        path.write_bytes(work.picture.data)
        return path
    if kind == "edit":
        if work.edit is None:
            raise InputError("picture must be edited first, got no edit")
        path = folder / f"{stem}.edited.png"
        work.edit.save(path)
        return path
    if kind == "all":
        return _everything(session, folder)
    if work.layer is None:
        raise InputError("query must be asked first, got none")
    if kind == "coco":
        path = folder / f"{stem}.{SUFFIXES[kind]}"
        write_json(path, coco_data([one.result for one in work.layers], work.picture.name, 1))
        return path
    path = folder / f"{stem}.{slugs[work.selected]}.{SUFFIXES[kind]}"
    write_result(work.layer.result, path, kind)
    return path


def _everything(session: Session, folder: Path) -> Path:
    work = session.work
    stem, slugs = file_names(session)
    files = [export(session, "image", folder)]
    if work.layers:
        files.append(export(session, "coco", folder))
    for layer, slug in zip(work.layers, slugs, strict=True):
        for kind in ("mask", "cutout", "npz"):
            files.append(folder / f"{stem}.{slug}.{SUFFIXES[kind]}")
            write_result(layer.result, files[-1], kind)
    if work.edit is not None:
        files.append(export(session, "edit", folder))
        if work.edit.segmentation is not None:
            files.append(folder / f"{stem}.region.mask.png")
            write_result(replace(work.edit.segmentation, mask=work.edit.mask), files[-1], "mask")
        if work.style is not None:
            files.append(folder / style_name(work))
            files[-1].write_bytes(work.style.data)
    for name, text in (("again.py", python_code(session)), ("again.sh", commands(session))):
        files.append(folder / name)
        files[-1].write_bytes(utf8(text))
    path = folder / f"{stem}.textseg.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    return path
