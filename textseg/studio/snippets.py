"""The Python and the commands that give the same masks and the same edit."""

from __future__ import annotations

import keyword
import re
import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..file_names import image_stems, query_slugs
from ..options import ContrastOptions, RefineOptions
from .session import Session
from .work import Layer, Work

if TYPE_CHECKING:
    from ..edits import Edit


def python_code(session: Session) -> str:
    """A script that gives the session's masks and edit, run beside the picture's file."""
    work = session.work
    stem, slugs = file_names(session)
    lines = ["import textseg"]
    lines += ["", f"segmenter = textseg.Segmenter({session.segmenter.model.name!r})",
              f"segmenter.set_image({work.picture.name!r})"]  # fmt: skip
    names = _variables(slugs)
    for layer, name, slug in zip(work.layers, names, slugs, strict=True):
        asked = _arguments(_finding(session, layer) | _pointing(layer))
        lines += ["", f"{name} = segmenter.query({layer.query!r}{asked})"]
        if layer.corrections:
            lines.append(f"# Corrected by hand: {_corrected(layer)}. The download holds the mask.")
            lines.append(f"{name} = textseg.Segmentation.load({f'{stem}.{slug}.mask.png'!r})")
        else:
            lines.append(f"{name}.save({f'{stem}.{slug}.mask.png'!r})")
    if work.edit is not None:
        lines += ["", *_edit_code(session, work.edit, names)]
    return "\n".join(lines) + "\n"


def _edit_code(session: Session, edit: Edit, names: list[str]) -> list[str]:
    work = session.work
    stem, _ = file_names(session)
    save = f"edit.save({f'{stem}.edited.png'!r})"
    more = _arguments(work.given)
    if edit.extended is not None:
        return ["edit = textseg.outpaint(",
                f"    {work.picture.name!r}, {edit.prompt!r}, model=segmenter{more},",
                ")", save]  # fmt: skip
    owner = _owner(session, edit)
    lines = []
    if owner is None:
        # As an array it is the region itself, and does not grow once more.
        lines += [f"region = textseg.Segmentation.load({f'{stem}.region.mask.png'!r}).mask"]
        more = _arguments({name: work.given[name] for name in work.given if name != "grow"})
    mask = "region" if owner is None else names[owner]
    what = repr(_prompt(session, edit))
    if work.style is not None:
        what = f"style={style_name(work)!r}"
    return [*lines, "edit = textseg.edit(",
            f"    {work.picture.name!r}, {edit.query!r}, {what},",
            f"    model=segmenter, mask={mask}{more},", ")", save]  # fmt: skip


def commands(session: Session) -> str:
    """Shell commands that give the session's masks and edit, run beside the picture's file."""
    work = session.work
    out: list[str] = []
    groups: dict[tuple[str, ...], list[str]] = {}
    for layer in work.layers:
        if layer.corrections:
            out.append(f"# {layer.query}: corrected by hand; the download holds the mask.")
            continue
        flags = (*_flags(_finding(session, layer)), *_places(layer))
        groups.setdefault(flags, []).append(layer.query)
    for flags, queries in groups.items():
        asked = [word for query in queries for word in ("-q", query)]
        # Two commands would write the same COCO file.
        forms = "mask,cutout,coco" if len(groups) == 1 else "mask,cutout"
        out.append(_line("textseg", "segment", work.picture.name, *asked, *flags,
                         *_model(session), "--format", forms))  # fmt: skip
    if work.edit is not None:
        out += _edit_commands(session, work.edit)
    return "\n".join(out) + "\n" if out else ""


def _edit_commands(session: Session, edit: Edit) -> list[str]:
    work = session.work
    stem, slugs = file_names(session)
    end = [*_model(session), "-o", f"{stem}.edited.png"]
    if edit.extended is not None:
        return [_line("textseg", "outpaint", work.picture.name, "-p", edit.prompt,
                      *_flags(work.given), *end)]  # fmt: skip
    owner = _owner(session, edit)
    given = dict(work.given)
    lines = []
    if owner is None:
        lines += ["# The mask was changed since; the download holds the region of the edit."]
        how = ["--mask", f"{stem}.region.mask.png"]
        given.pop("grow", None)
    elif work.layers[owner].by_hand:
        how = ["--mask", f"{stem}.{slugs[owner]}.mask.png"]
        if work.style is None:
            # A mask from a file grows only if it is asked to.
            given["grow"] = edit.options.grow
    else:
        how = _flags(_finding(session, work.layers[owner]))
    what = ["-p", _prompt(session, edit)]
    if work.style is not None:
        what = ["--style", style_name(work)]
    return [*lines, _line("textseg", "edit", work.picture.name, "-q", edit.query, *what, *how,
                          *_flags(given), *end)]  # fmt: skip


def style_name(work: Work) -> str:
    """What the file of the picture is called whose colours an edit took."""
    name = "" if work.style is None else work.style.name
    return f"style-{name}" if name == work.picture.name else name


def file_names(session: Session) -> tuple[str, list[str]]:
    """The stem of the session's files, and one part of a name per query."""
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
    options: ContrastOptions | RefineOptions, base: ContrastOptions | RefineOptions
) -> dict[str, Any]:
    names = [field.name for field in fields(options)]
    pairs = {name: (getattr(options, name), getattr(base, name)) for name in names}
    return {name: value for name, (value, before) in pairs.items() if value != before}


def _pointing(layer: Layer) -> dict[str, Any]:
    """The clicks and boxes, as arguments."""
    hints = vars(layer.hints)
    return {
        name: [tuple(map(_plain, place)) for place in hints[name]] for name in hints if hints[name]
    }


def _places(layer: Layer) -> list[str]:
    """The clicks and boxes, as flags."""
    words = []
    for x, y, label in layer.hints.points:
        words += ["--point", f"{x:g},{y:g}" + ("" if label else ",-")]
    for box in layer.hints.boxes:
        words += ["--box", ",".join(f"{value:g}" for value in box)]
    return words


def _plain(number: float) -> int | float:
    return int(number) if number == int(number) else number


def _arguments(given: Mapping[str, Any]) -> str:
    return "".join(f", {name}={value!r}" for name, value in given.items())


def _model(session: Session) -> list[str]:
    name = session.segmenter.model.name
    return [] if name == "mini" else ["--model", name]


def _flags(options: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{flag}", shown]
    return words


def _prompt(session: Session, edit: Edit) -> str:
    """The prompt as it was typed: "" where the region was removed."""
    from ..editing import removal_prompt

    removed = edit.prompt == removal_prompt(session.segmenter.model, edit.query)
    return "" if removed else edit.prompt


def _owner(session: Session, edit: Edit) -> int | None:
    """Index of the layer whose mask the edit's region is, None if it was changed since."""
    for index, layer in enumerate(session.work.layers):
        if edit.segmentation is not None and edit.query == layer.query:
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
