"""Outpainting: a wider canvas, its new part painted to go on from the picture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .checks import check_is, check_text
from .edit_methods import EDIT_METHODS
from .editing import UNUSED_PROMPT, edit, edit_defaults, input_xmp
from .errors import InputError
from .filling import extend
from .image import MAX_PIXELS, fetch_image, is_url, load_image
from .option_table import documented
from .options import EditOptions, field_names, unknown_option
from .progress import report

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .arguments import OutpaintArguments
    from .backbone.base import Backbone
    from .edits import Edit
    from .image import ImageLike
    from .progress import Progress
    from .segmenter import Segmenter

RATIO = 0.8
"""Default `encode_ratio`: of what a new part begins as, only the colours are to be kept."""
SEAM = 0.02
"""Default `seam`, of the canvas's longer side: what it blends in continues the picture."""
REACH, LEAST = 0.5, 64
"""Most that one round adds: this share of the border it lies along, or so many pixels."""
MAX_ROUNDS = 32
OUTPAINT_METHODS = (*(name for name, way in EDIT_METHODS.items() if way.over != "pixels"), "fill")
"""The methods that can make a new part."""
NO_PART = frozenset(("grow", "crop", "invert_mask", "composite"))
"""Fields of `EditOptions` that have no part in it."""


class Pads(NamedTuple):
    """New pixels on each side."""

    left: int
    top: int
    right: int
    bottom: int


@documented(EditOptions)
def outpaint(
    image: ImageLike,
    prompt: str = "",
    *,
    left: int | str = 0,
    right: int | str = 0,
    top: int | str = 0,
    bottom: int | str = 0,
    model: Backbone | Segmenter | str = "mini",
    method: str | None = None,
    options: EditOptions | None = None,
    allow_url: bool = False,
    progress: Progress | None = None,
    **overrides: Unpack[OutpaintArguments],
) -> Edit:
    """Extend a picture beyond its borders. Its own pixels stay, bit for bit.

    The new part begins as what `filling.extend` makes of the border, and is edited by prompt as a
    given mask is by `edit`. Wide extensions are painted in rounds, left and right before top and
    bottom, each by at most half the length of the border it lies along (or 64 pixels): the model
    always sees more of the picture than it adds.

    Args:
        image: anything `load_image` takes.
        prompt: what the whole picture shows, e.g. "a beach at sunset"; "" leaves it to the model.
        left, right, top, bottom: how much to add, in pixels, or as "25%" of the picture's width
            (left, right) or height (top, bottom).
        model: a name, a loaded model, or a `Segmenter`.
        method: one of `OUTPAINT_METHODS`; "inpaint" needs an inpainting checkpoint as `model`,
            "fill" leaves the new part as it begins. None is "fill" for a model that does not paint,
            else "diffedit".
        options: `EditOptions`; if None the model's or the paper's defaults, but an `encode_ratio`
            of 0.8 and a `seam` of 2 % of the longer side.
        allow_url: whether `image` may be a URL to fetch.
        progress: called as progress(done, total, stage); returning False stops.
        overrides: single fields of `EditOptions`.

    Returns:
        the edit, of the canvas's size: its mask is the new part, its source the picture on white,
        and `extended` says by how much.

    Raises:
        InputError: a bad argument; CancelledError: `progress` returned False.
    """
    from .edits import Edit
    from .segmenter import Segmenter

    check_text("prompt", prompt)
    if unknown := sorted(overrides.keys() - (field_names(EditOptions) - NO_PART)):
        raise unknown_option(unknown[0], EditOptions, without=NO_PART)
    if options is not None:
        check_is("options", options, EditOptions)
    if method is not None and method not in OUTPAINT_METHODS:
        raise InputError(f"method must be one of {', '.join(OUTPAINT_METHODS)}, got {method!r}")
    if is_url(image):
        image = fetch_image(image, allow_url=allow_url)
    xmp, pixels = input_xmp(image), load_image(image)
    pads = count_pads(pixels.shape[:2], left=left, top=top, right=right, bottom=bottom)
    backbone = None
    if method is None or EDIT_METHODS[method].over == "latents":
        model = model if isinstance(model, Segmenter) else Segmenter(model)
        backbone = model.model
    method = method or ("diffedit" if backbone is None or backbone.paints else "fill")
    canvas, new = on_white(pixels, pads)
    chosen = options
    if chosen is None:
        seam = min(1000, round(SEAM * max(new.shape)))
        chosen = replace(edit_defaults(backbone), encode_ratio=RATIO, seam=seam)
    chosen = replace(chosen, **overrides, crop=0.0, invert_mask=False, composite=True)
    extended = Edit(
        image=canvas, mask=new, query="", prompt=prompt, options=chosen, method=method,
        model=method, source=canvas, input_xmp=xmp, trained=method != "fill", extended=pads,
    )  # fmt: skip
    if method == "fill":
        report(progress, 1, 1, method)
        notes = (UNUSED_PROMPT,) if prompt else ()
        return replace(extended, image=extend(pixels, *pads), prompt="", notes=notes)
    rounds = _rounds(pixels.shape[:2], pads)
    for number, pad in enumerate(rounds, 1):
        stage = f"round {number} of {len(rounds)}: " if len(rounds) > 1 else ""
        near = _near(pixels, pad)
        done = edit(
            extend(near, *pad), None, prompt, model=model, mask=on_white(near, pad)[1],
            method=method, options=chosen, progress=_staged(progress, stage),
        )  # fmt: skip
        pixels = _joined(pixels, done.image, pad)
        extended = replace(extended, model=done.model, notes=done.notes)
    return replace(extended, image=pixels)


def count_pads(size: tuple[int, ...], *, max_pixels: int = MAX_PIXELS, **given: int | str) -> Pads:
    """What is to be added to a picture of a size (H, W), in pixels.

    Raises:
        InputError: an amount is none, nothing is to be added, or the canvas has too many pixels.
    """
    height, width = size
    sides = {"left": width, "right": width, "top": height, "bottom": height}
    pads = Pads(**{name: _pixels(name, value, sides[name]) for name, value in given.items()})
    if not any(pads):
        said = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise InputError(f"left, right, top or bottom must add a pixel or more, got {said}")
    area = (width + pads.left + pads.right) * (height + pads.top + pads.bottom)
    if area > max_pixels:
        raise InputError(f"extended picture must have at most {max_pixels} pixels, got {area}")
    return pads


def _pixels(name: str, amount: Any, side: int) -> int:
    """A number of pixels, or a percentage of a side of so many."""
    pixels: Any = amount
    if isinstance(amount, str):
        number = amount.strip().removesuffix("%")
        try:
            pixels = int(number) if number == amount.strip() else round(float(number) / 100 * side)
        except (ValueError, OverflowError):
            pixels = None
    if not isinstance(pixels, (int, np.integer)) or isinstance(pixels, bool) or pixels < 0:
        raise InputError(
            f'{name} must be a whole number of pixels of at least 0, or as "25%", '
            f"got {repr(amount)[:40]}"
        )
    return int(pixels)


def on_white(pixels: np.ndarray, pads: Pads) -> tuple[np.ndarray, np.ndarray]:
    """The picture on a white canvas, (H', W', 3) uint8, and what of it is new, (H', W') bool."""
    around = ((pads.top, pads.bottom), (pads.left, pads.right))
    new = np.pad(np.zeros(pixels.shape[:2], bool), around, constant_values=True)
    return np.pad(pixels, (*around, (0, 0)), constant_values=255), new


def _rounds(size: tuple[int, ...], pads: Pads) -> list[Pads]:
    """What each round adds, on one side only."""
    height, width = size
    rounds = []
    for name in ("left", "right", "top", "bottom"):
        border = height if name in ("left", "right") else width + pads.left + pads.right
        amount = getattr(pads, name)
        count = -(-amount // max(LEAST, int(REACH * border)))
        parts = np.diff(np.linspace(0, amount, count + 1).astype(int)) if count else []
        rounds += [Pads(0, 0, 0, 0)._replace(**{name: int(part)}) for part in parts]
    if len(rounds) > MAX_ROUNDS:
        raise InputError(
            f"extension must take at most {MAX_ROUNDS} rounds, got {len(rounds)} for {tuple(pads)}"
        )
    return rounds


def _near(pixels: np.ndarray, pad: Pads) -> np.ndarray:
    """The picture beside a round's strip, as deep as the border is long where there is so much."""
    height, width = pixels.shape[:2]
    if pad.left or pad.right:
        return pixels[:, :height] if pad.left else pixels[:, max(0, width - height) :]
    return pixels[:width] if pad.top else pixels[max(0, height - width) :]


def _joined(pixels: np.ndarray, painted: np.ndarray, pad: Pads) -> np.ndarray:
    """The picture with the strip that a round painted beside it."""
    if pad.left or pad.right:
        strip = painted[:, : pad.left] if pad.left else painted[:, -pad.right :]
        return np.concatenate([strip, pixels] if pad.left else [pixels, strip], axis=1)
    strip = painted[: pad.top] if pad.top else painted[-pad.bottom :]
    return np.concatenate([strip, pixels] if pad.top else [pixels, strip], axis=0)


def _staged(progress: Progress | None, stage: str) -> Progress | None:
    """Progress whose stages carry the round's name."""
    if progress is None or not stage:
        return progress
    return lambda done, total, name: progress(done, total, stage + name)
