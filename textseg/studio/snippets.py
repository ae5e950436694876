"""The Python and the commands that give the same masks and the same edit."""

from __future__ import annotations

import keyword
import re
import shlex
from dataclasses import fields
from typing import Any

import numpy as np

from ..file_names import image_stems, query_slugs
from ..options import ContrastOptions, EditOptions, RefineOptions
from .actions import edit_options
from .session import Session
from .work import Layer


def python_code(session: Session) -> str:
    """A script that gives the session's masks and edit, run beside the picture's file."""
    work = session.work
    stem, slugs = _names(session)
    lines = ["import textseg"]
    lines += ["", f"segmenter = textseg.Segmenter({session.segmenter.model.name!r})",
              f"segmenter.set_image({work.picture.name!r})"]  # fmt: skip
    names = _variables(slugs)
    for layer, name, slug in zip(work.layers, names, slugs, strict=True):
        asked = "".join(f", {key}={value!r}" for key, value in _finding(session, layer).items())
        lines += ["", f"{name} = segmenter.query({layer.query!r}{asked})"]
        if layer.corrections:
            lines.append(f"# Corrected by hand: {_corrected(layer)}. The download holds the mask.")
            lines.append(f"{name} = textseg.Segmentation.load({f'{stem}.{slug}.mask.png'!r})")
        else:
            lines.append(f"{name}.save({f'{stem}.{slug}.mask.png'!r})")
    edit = work.edit
    if edit is not None:
        owner = _owner(session)
        changes = _changed(edit.options, edit_options(session))
        more = "".join(f", {key}={value!r}" for key, value in changes.items())
        if owner is None:
            lines += ["", f"region = textseg.Segmentation.load({f'{stem}.region.mask.png'!r})"]
        mask = "region" if owner is None else names[owner]
        lines += ["", "edit = textseg.edit(",
                  f"    {work.picture.name!r}, {edit.query!r}, {_prompt(session)!r},",
                  f"    model=segmenter, mask={mask}{more},", ")",
                  f"edit.save({f'{stem}.edited.png'!r})"]  # fmt: skip
    return "\n".join(lines) + "\n"


def commands(session: Session) -> str:
    """Shell commands that give the session's masks and edit, run beside the picture's file."""
    work = session.work
    stem, slugs = _names(session)
    model = session.segmenter.model.name
    chosen = [] if model == "mini" else ["--model", model]
    out: list[str] = []
    groups: dict[tuple[str, ...], list[str]] = {}
    for layer in work.layers:
        groups.setdefault(tuple(_flags(_finding(session, layer))), []).append(layer.query)
    for flags, queries in groups.items():
        asked = [word for query in queries for word in ("-q", query)]
        # Two commands would write the same COCO file.
        forms = "mask,cutout,coco" if len(groups) == 1 else "mask,cutout"
        out.append(_line("textseg", "segment", work.picture.name, *asked, *flags, *chosen,
                         "--format", forms))  # fmt: skip
    edit = work.edit
    if edit is not None:
        owner = _owner(session)
        if owner is None:
            out.append("# The mask was changed since; the download holds the region of the edit.")
            how = ["--mask", f"{stem}.region.mask.png"]
        elif work.layers[owner].corrections:
            out.append(f"# {edit.query}: corrected by hand; the download holds the mask.")
            how = ["--mask", f"{stem}.{slugs[owner]}.mask.png"]
        else:
            how = _flags(_finding(session, work.layers[owner]))
        changes = _flags(_changed(edit.options, edit_options(session)))
        out.append(_line("textseg", "edit", work.picture.name, "-q", edit.query, "-p",
                         _prompt(session), *how, *changes, *chosen,
                         "-o", f"{stem}.edited.png"))  # fmt: skip
    return "\n".join(out) + "\n" if out else ""


def file_names(session: Session) -> tuple[str, list[str]]:
    """The stem of the session's files, and one part of a name per query."""
    return _names(session)


def _names(session: Session) -> tuple[str, list[str]]:
    work = session.work
    return image_stems([work.picture.name])[0], query_slugs([one.query for one in work.layers])


def _finding(session: Session, layer: Layer) -> dict[str, Any]:
    """What a layer was found with, where it differs from the model's own options."""
    found = layer.found
    changed = _changed(found.contrast_options, session.segmenter.contrast)
    if found.contrast_options.reference == "erase" and session.work.caption:
        changed["caption"] = session.work.caption
    return changed | _changed(layer.refine, session.segmenter.refine)


def _changed(
    options: ContrastOptions | RefineOptions | EditOptions,
    base: ContrastOptions | RefineOptions | EditOptions,
) -> dict[str, Any]:
    names = [field.name for field in fields(options)]
    pairs = {name: (getattr(options, name), getattr(base, name)) for name in names}
    return {name: value for name, (value, before) in pairs.items() if value != before}


def _flags(options: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{flag}", shown]
    return words


def _prompt(session: Session) -> str:
    """The prompt as it was typed: "" where the region was removed."""
    from ..editing import removal_prompt

    edit = session.work.edit
    assert edit is not None
    removed = edit.prompt == removal_prompt(session.segmenter.model, edit.query)
    return "" if removed else edit.prompt


def _owner(session: Session) -> int | None:
    """Index of the layer whose mask the edit's region is, None if it was changed since."""
    work = session.work
    for index, layer in enumerate(work.layers):
        edit = work.edit
        if edit is not None and edit.segmentation is not None and edit.query == layer.query:
            same = np.array_equal(edit.segmentation.mask, layer.mask)
            return index if same else None
    return None


def _variables(slugs: list[str]) -> list[str]:
    names = []
    for number, slug in enumerate(slugs, 1):
        name = re.sub(r"\W", "_", slug)
        taken = name in (*names, "segmenter", "edit", "textseg") or keyword.iskeyword(name)
        names.append(name if name.isidentifier() and not taken else f"query_{number}")
    return names


def _corrected(layer: Layer) -> str:
    return ", ".join(correction.say() for correction in layer.corrections)


def _line(*words: str) -> str:
    return " ".join(shlex.quote(word) for word in words)
