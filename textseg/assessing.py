"""Whether an edit took, by what a model sees before and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .checks import check_is
from .edit_methods import EDIT_METHODS
from .editing import removal_prompt
from .errors import InputError
from .outcome import Outcome, Sight
from .vocabulary import find_unknown_note

if TYPE_CHECKING:
    import os

    import numpy as np

    from .backbone.base import Backbone
    from .edits import Edit
    from .masks import Segmentation
    from .progress import Progress
    from .segmenter import Segmenter

THERE = 0.1
"""Least overlap of a thing's mask and the region, as a share of the smaller, for it to be there."""


def assess(
    edit: Edit,
    *,
    model: Backbone | Segmenter | str | os.PathLike[str] = "mini",
    progress: Progress | None = None,
) -> Outcome:
    """Ask a model for what was edited, and for what it was to become, before and after the edit.

    The view is the model's own: one that finds nothing in photographs finds it gone from all of
    them. Take the numbers as a hint.

    Args:
        edit: a result of `edit` or `outpaint` that holds its source.
        model: who looks: a name, a loaded model, or a `Segmenter`, whose image becomes the source.
        progress: called as progress(done, total, stage) in each of at most four queries; returning
            False stops.

    Returns:
        the outcome. `took` is None where the model knows no word of what is looked for, where the
        edit only recolours, where what it was to become was there before, and where the model's
        presence has no threshold (`min_presence` 0).

    Raises:
        InputError: it is no edit, or holds no source; ModelError: the model cannot be loaded;
        CancelledError: `progress` returned False.
    """
    from .edits import Edit
    from .segmenter import Segmenter

    check_is("edit", edit, Edit)
    if edit.source is None:
        raise InputError("edit must hold its source to be assessed, got one without")
    segmenter = model if isinstance(model, Segmenter) else Segmenter(model)
    backbone = segmenter.model
    removes = edit.prompt in ("", removal_prompt(backbone, edit.query))
    tried = _attempt(edit, removes)
    if EDIT_METHODS[edit.method].recolours or not edit.mask.any():
        return Outcome(tried, backbone.name)
    segmenter.set_image(edit.source)
    after = Segmenter(backbone, segmenter.contrast, segmenter.refine).set_image(edit.image)
    source = target = None
    if edit.query and not edit.options.invert_mask:
        source = _sight(edit.query, edit.mask, (segmenter, after), progress)
    if not removes:
        target = _sight(edit.prompt, edit.mask, (segmenter, after), progress)
    took = _took(source, target, removes) if segmenter.refine.min_presence > 0 else None
    return Outcome(tried, backbone.name, source, target, took)


def _took(source: Sight | None, target: Sight | None, removes: bool) -> bool | None:
    if removes:
        return None if source is None or not source.there_before else not source.there_after
    return None if target is None or target.there_before else target.there_after


def _sight(
    query: str,
    region: np.ndarray,
    pictures: tuple[Segmenter, Segmenter],
    progress: Progress | None,
) -> Sight | None:
    """None where the query cannot be asked, or the model knows no word of it."""
    try:
        first, second = (picture.query(query, progress=progress) for picture in pictures)
    except InputError:
        return None
    if find_unknown_note(first.notes):
        return None
    there = _there(first, region), _there(second, region)
    return Sight(query, first.presence, second.presence, *there)


def _there(found: Segmentation, region: np.ndarray) -> bool:
    smaller = min(int(found.mask.sum()), int(region.sum()))
    return smaller > 0 and int((found.mask & region).sum()) >= THERE * smaller


def _attempt(edit: Edit, removes: bool) -> str:
    """What the edit was to do, in words."""
    if edit.extended is not None:
        return (
            f"to extend the picture as {edit.prompt!r}" if edit.prompt else "to extend the picture"
        )
    what = edit.query or ("the picture" if edit.mask.all() else "the region")
    if edit.options.invert_mask:
        what = f"all but {edit.query or 'the region'}"
    if EDIT_METHODS[edit.method].recolours:
        return f"to give {what} another picture's colours"
    if edit.method == "poisson":
        return f"to blend another picture into {what}"
    return f"to remove {what}" if removes else f"to turn {what} into {edit.prompt!r}"
