"""Editing a named region by prompt: find the region, change it by a method, paste it back.

Source: Couairon et al. 2022, arXiv 2210.11427, sections 3.2 to 3.3.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import check_is, check_text
from .edit_methods import EDIT_METHODS, LatentTask
from .errors import ImageError, InputError
from .filling import grow_region
from .image import fetch_image, image_identity, is_url, load_image, resize_image
from .option_table import documented
from .options import (
    ContrastOptions,
    EditOptions,
    GenerateOptions,
    RefineOptions,
    field_names,
)
from .progress import Progress, report
from .vocabulary import find_unknown_note

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from .arguments import EditArguments
    from .backbone.base import Backbone
    from .edits import Edit
    from .image import ImageLike
    from .masks import Segmentation
    from .segmenter import Segmenter

Part = tuple[slice, slice]

UNUSED_PROMPT = "the prompt was not used: the region is filled from its surroundings"
_METHODS_OF = {"style": "transport", "patch": "poisson"}


@dataclass
class Steps:
    """What happened on the way, filled by `edit(..., keep=Steps())` for a contact sheet.

    Attributes:
        encoded: the noisy latents x_r (or the noised ones) seen through the decoder,
            (H, W, 3) uint8 at the model's size; None for methods over pixels.
        decoded: the whole edited image before compositing, (H, W, 3) uint8 at the model's size.
        latent_mask: (h, w) float32 in [0, 1].
    """

    encoded: np.ndarray | None = None
    decoded: np.ndarray | None = None
    latent_mask: np.ndarray | None = None


# ---------------------------------------------------------------------------
# Masks at latent size, compositing at pixel size.


def latent_mask(mask: np.ndarray, size: tuple[int, int], feather: float = 0.0) -> np.ndarray:
    """A pixel mask brought to latent size by the area each cell covers.

    Args:
        mask: (H, W) bool.
        size: (h, w) of the latents.
        feather: 0 cuts at half a cell's area (at the largest share, if no cell reaches half of a
            region that is not empty); above 0, radius in cells of a Gaussian blur of the shares.

    Returns:
        (h, w) float32 in [0, 1]; 0 or 1 without feather.
    """
    import cv2

    share = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    if feather > 0:
        return cv2.GaussianBlur(share, (0, 0), feather, borderType=cv2.BORDER_REPLICATE).clip(0, 1)
    peak = float(share.max())
    return (share >= min(0.5, peak)).astype(np.float32) if peak > 0 else share


def crop_box(mask: np.ndarray, crop: float) -> Part:
    """The part of an image around a region.

    Args:
        mask: (H, W) bool, not empty.
        crop: what is seen around the region's box on every side, as a share of its longer side; 0
            is the whole image.

    Returns:
        rows and columns; as square as the image allows, the region in the middle as far as the
        image allows.
    """
    if crop <= 0:
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    ends = [(int(at[0]), int(at[-1]) + 1) for at in (np.flatnonzero(mask.any(i)) for i in (1, 0))]
    side = math.ceil((1 + 2 * crop) * max(end - start for start, end in ends))
    slices = []
    for (start, end), length in zip(ends, mask.shape, strict=True):
        size = min(side, length)
        first = min(max((start + end - size) // 2, 0), length - size)
        slices.append(slice(first, first + size))
    return slices[0], slices[1]


def composite(image: np.ndarray, edited: np.ndarray, mask: np.ndarray, seam: int = 3) -> np.ndarray:
    """Paste the edit into the image; pixels outside the mask stay the image's, bit for bit.

    Args:
        image, edited: (H, W, 3) uint8.
        mask: (H, W) bool.
        seam: width in pixels of a linear blend just inside the mask's edge; 0 pastes hard. The
            image's own border is no edge.

    Returns:
        (H, W, 3) uint8.
    """
    import cv2

    inside = mask.astype(np.uint8)
    if seam == 0 or mask.all():
        return np.where(mask[..., None], edited, image)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    weight = (depth / (seam + 1)).clip(0, 1)[..., None]
    blend = np.rint(image + weight * (edited.astype(np.float32) - image)).clip(0, 255)
    return np.where(mask[..., None], blend.astype(np.uint8), image)


# ---------------------------------------------------------------------------
# The front door.


def edit_defaults(backbone: Backbone | None) -> EditOptions:
    """The options a model folder carries under "edit", else the paper's."""
    return EditOptions(**(backbone.calibration.get("edit", {}) if backbone is not None else {}))


def removal_prompt(backbone: Backbone, query: str | None) -> str:
    """What to decode under when the region is to go: the model's way of saying "without the
    object" if it was trained on one, else the empty prompt."""
    if not query or not backbone.calibration.get("prompts", {}).get("absent"):
        return ""
    from .prompts import pair_for

    return pair_for(backbone, query, "absent").reference


@documented(EditOptions, ContrastOptions, RefineOptions)
def edit(
    image: ImageLike,
    query: str | None = None,
    prompt: str = "",
    *,
    model: Backbone | Segmenter | str = "mini",
    mask: Segmentation | np.ndarray | None = None,
    method: str | None = None,
    style: ImageLike | None = None,
    options: EditOptions | None = None,
    patch: ImageLike | None = None,
    allow_url: bool = False,
    progress: Progress | None = None,
    keep: Steps | None = None,
    **overrides: Unpack[EditArguments],
) -> Edit:
    """Edit the region a query names, or a given mask, by prompt.

    The image is edited at the model's own size and the edit is brought back to the input's size;
    pixels outside the region are the input's, bit for bit, unless `composite=False`.

    Args:
        image: anything `load_image` takes.
        query: what to edit, e.g. "the dog"; without it and `mask`, a prompt or `style` changes the
            whole picture.
        prompt: what it is to become, e.g. "a cat"; "" removes it.
        model: a name, a loaded model, or a `Segmenter` (its options find the region); one that does
            not paint leaves that to the one it names.
        mask: (H, W) bool of the image's size, which grows only if `grow` is given by name, or a
            `Segmentation`; found from the query if None.
        method: one of `EDIT_METHODS`; "inpaint" needs an inpainting checkpoint as `model`. None is
            "transport" with `style`; "poisson" with `patch`; "fill" for a removal by a model that
            does not paint; else "diffedit".
        style: a picture whose colours the region, or the whole, is given: "transport" or
            "reinhard".
        options: `EditOptions`; the model's or the paper's defaults if None.
        patch: the image that method "poisson" blends in.
        allow_url: whether `image`, `patch` and `style` may be URLs to fetch.
        progress: called as progress(done, total, stage); returning False stops the edit.
        keep: a `Steps` to fill.
        overrides: single fields of `EditOptions`, and of the options `Segmenter.query` takes.

    Returns:
        the edit. With an empty region it is the input itself, and its notes say so, and why where
        the model knows no word of the query.

    Raises:
        InputError: a bad argument; CancelledError: `progress` returned False.
    """
    from .backbone.shared import painter_of
    from .edits import Edit
    from .masks import Segmentation

    own = field_names(EditOptions)
    if isinstance(prompt, str):
        prompt = prompt.strip()
    if options is not None:
        check_is("options", options, EditOptions)
    finding: dict[str, Any] = {k: v for k, v in overrides.items() if k not in own or k == "seed"}
    whole = mask is None and not query and bool(prompt or style is not None)
    _check(query, prompt, mask is None and not whole, method, finding)
    method = _method_of(method, prompt, style, patch)
    patch = patch if style is None else style
    if is_url(image):
        image = fetch_image(image, allow_url=allow_url)
    xmp = input_xmp(image)
    pixels = load_image(image)
    if whole:
        mask = np.ones(pixels.shape[:2], bool)
    over = EDIT_METHODS[method].over if method else "latents"
    segmenter = _segmenter(model, needed=mask is None or over == "latents")
    method = method or _default_method(segmenter, prompt)
    way = EDIT_METHODS[method]
    backbone = None if segmenter is None else segmenter.model
    if backbone is not None and way.over == "latents":
        backbone = painter_of(backbone)
    chosen = options or edit_defaults(backbone)
    chosen = replace(chosen, **{k: v for k, v in overrides.items() if k in own})
    found = mask if isinstance(mask, Segmentation) else None
    if mask is None and segmenter is not None and query is not None:
        found = segmenter.set_image(pixels).query(query, progress=progress, **finding)
    if found is not None:
        mask, query = found.mask, query or found.query
    # A mask drawn elsewhere is the region itself, unless it is asked to grow.
    grows = not way.recolours and (found is not None or "grow" in overrides)
    named = method if way.over == "pixels" else str(getattr(model, "name", model))
    unknown = find_unknown_note(found.notes) if found is not None else None
    unchanged = Edit(
        image=pixels, query=query or "", mask=_region(np.asarray(mask), pixels, chosen, grows),
        prompt=prompt, options=chosen, segmentation=found, method=method,
        model=named if backbone is None else backbone.name, source=pixels,
        notes=(unknown,) if unknown else (), input_xmp=xmp, trained=way.over != "pixels",
    )  # fmt: skip
    if not unchanged.mask.any():
        return _noting(unchanged, "the region is empty: the image is unchanged")
    if way.fills:
        if unchanged.mask.all():
            raise InputError(
                f"region must leave a part of the picture for method {method!r} to fill it from, "
                "got the whole picture"
            )
        if prompt:
            unchanged = replace(_noting(unchanged, UNUSED_PROMPT), prompt="")
    part = crop_box(unchanged.mask, chosen.crop)
    if segmenter is not None and backbone is not None and way.over == "latents":
        edited = _edit_latents(segmenter, backbone, unchanged, part, progress, keep)
    elif way.over == "pixels":
        given = None if patch is None else load_image(patch, allow_url=allow_url)
        edited = replace(unchanged, image=way.run(pixels, unchanged.mask, given))
        report(progress, 1, 1, method)
    else:
        repainted = way.run(model, pixels[part], unchanged.mask[part], prompt, chosen, progress)
        edited = replace(unchanged, image=_with_part(pixels, part, repainted))
    if not chosen.composite:
        return edited
    return replace(edited, image=composite(pixels, edited.image, edited.mask, chosen.seam))


def _check(
    query: str | None, prompt: str, to_find: bool, method: str | None, finding: dict[str, Any]
) -> None:
    """What `edit` refuses before it reads an image.

    Args:
        to_find: whether no mask is given.
        finding: the options that find a region.
    """
    if method is not None and method not in EDIT_METHODS:
        raise InputError(f"method must be one of {', '.join(EDIT_METHODS)}, got {method!r}")
    check_text("prompt", prompt)
    if query is not None:
        check_text("query", query)
    if to_find and not query:
        raise InputError("query must name what to edit when no mask is given, got none")
    if to_find and method and EDIT_METHODS[method].over == "checkpoint":
        raise InputError(f"mask must be given for method {method!r}: its model finds no regions")
    if not to_find and (foreign := set(finding) - {"seed"}):
        raise InputError(
            f"option must be a field of EditOptions when a mask is given, got {min(foreign)!r}"
        )


def _method_of(method: str | None, prompt: str, style: object, patch: object) -> str | None:
    """The method where a second picture is given; else as it is."""
    if style is not None and (prompt or patch is not None):
        raise InputError("style must be given without a prompt and a patch, got both")
    for name, picture in (("style", style), ("patch", patch)):
        if picture is None:
            continue
        able = [known for known, way in EDIT_METHODS.items() if name in way.takes]
        if method is not None and method not in able:
            raise InputError(
                f"method must be one of {', '.join(able)} with a {name}, got {method!r}"
            )
        return method or _METHODS_OF[name]
    return method


def _default_method(segmenter: Segmenter | None, prompt: str) -> str:
    """The method where none is named."""
    fills = not prompt and segmenter is not None and not segmenter.model.paints
    return "fill" if fills else "diffedit"


def prompt_notes(backbone: Backbone, *prompts: str, stacklevel: int = 3) -> list[str]:
    """One line for every prompt the model cuts or has unknown words in; the cuts also warn, at the
    caller `stacklevel` calls up."""
    notes = []
    for prompt in prompts:
        cut = backbone.truncated_words(prompt)
        if cut:
            notes.append(f"the prompt exceeds the model's token limit; left out: {cut!r}")
            warnings.warn(notes[-1], stacklevel=stacklevel)
        unknown = backbone.unknown_words(prompt)
        if unknown:
            notes.append(f"words the model does not know: {', '.join(unknown)}")
    return notes


def guidance_notes(backbone: Backbone, options: EditOptions | GenerateOptions) -> list[str]:
    """Which prompt has no part in the guidance asked for, a line for each; see `guided_noise`."""
    if backbone.distilled_guidance is not None:
        said = "the model has guidance distilled into it: no negative prompt is used"
        return [said] if options.negative_prompt else []
    if options.guidance_scale == 0:
        return ["guidance_scale 0 leaves the prompt out; no guidance, diffusers' 0, is 1 here"]
    if options.guidance_scale == 1 and options.negative_prompt:
        return ["guidance_scale 1 is no guidance: no negative prompt is used"]
    return []


def input_xmp(image: Any) -> str:
    """The XMP packet of the input, "" where it has none or is no longer a file."""
    import os

    from PIL import Image

    from .provenance import read_label

    readable = hasattr(image, "read") and image.seekable()
    if not (readable or isinstance(image, (str, os.PathLike, bytes, Image.Image))):
        return ""
    try:
        return read_label(image).packet
    except ImageError:
        # `load_image` says what is wrong with it.
        return ""


def _region(mask: np.ndarray, image: np.ndarray, options: EditOptions, grows: bool) -> np.ndarray:
    """The region to edit, (H, W) bool, grown or inverted as the options say."""
    if mask.shape != image.shape[:2]:
        height, width = image.shape[:2]
        raise InputError(f"mask must have the image's size {(height, width)}, got {mask.shape}")
    if mask.dtype != bool:
        values = np.unique(mask)
        if mask.dtype.kind == "f" and not np.isin(values, (0, 1)).all():
            raise InputError(f"mask must be bool, or 0 and 1, got {values[0]:g} to {values[-1]:g}")
        if len(values) > 2 or (len(values) == 2 and values[0] != 0):
            raise InputError(
                f"mask must be bool, or 0 and one other value, got {len(values)} values"
            )
        mask = mask != 0
    if options.invert_mask:
        return ~mask
    return grow_region(mask, options.grow) if grows else mask


def _segmenter(model: Any, needed: bool) -> Segmenter | None:
    """The segmenter to find the region and hold the model; None where neither is needed."""
    from .segmenter import Segmenter

    if not needed:
        return None
    return model if isinstance(model, Segmenter) else Segmenter(model)


def _noting(edit: Edit, *notes: str) -> Edit:
    return replace(edit, notes=(*edit.notes, *notes))


def _with_part(image: np.ndarray, part: Part, edited: np.ndarray) -> np.ndarray:
    """The image with one part of it replaced."""
    whole = image.copy()
    whole[part] = edited
    return whole


def _edit_latents(
    segmenter: Segmenter,
    backbone: Backbone,
    unchanged: Edit,
    part: Part,
    progress: Progress | None,
    keep: Steps | None,
) -> Edit:
    """Run a method over the latents of a part of the image, under the prompt or the one that
    removes.

    Args:
        segmenter: may have the latents already, if `backbone` is its model.
    """
    import torch

    from .backbone.shared import lock_of
    from .predictions import draw_noise

    image, options = unchanged.image[part], unchanged.options
    prompt = unchanged.prompt or removal_prompt(backbone, unchanged.query)
    notes = prompt_notes(backbone, prompt, options.negative_prompt, stacklevel=4)
    notes += guidance_notes(backbone, options)
    with lock_of(backbone):
        if backbone is segmenter.model:
            latents = segmenter.encode(image)
        else:
            latents = backbone.encode(resize_image(image, backbone.fit_size(*image.shape[:2])))
        size = (latents.shape[-2], latents.shape[-1])
        cells = latent_mask(unchanged.mask[part], size, options.feather)
        noise = draw_noise(tuple(latents.shape), options.seed, image_identity(image), -1, 0)
        task = LatentTask(
            backbone=backbone,
            latents=latents,
            mask=torch.from_numpy(cells)[None].to(latents),
            noise=noise.to(latents),
            prompt=prompt,
            options=options,
            progress=progress,
            started=None if keep is None else lambda x: _keep_encoded(keep, backbone, x),
        )
        decoded = backbone.decode(EDIT_METHODS[unchanged.method].run(task))
    if keep is not None:
        keep.decoded, keep.latent_mask = decoded, cells
    edited = resize_image(decoded, (image.shape[0], image.shape[1]))
    whole = _with_part(unchanged.image, part, edited)
    return _noting(replace(unchanged, image=whole, prompt=prompt), *notes)


def _keep_encoded(keep: Steps, backbone: Backbone, latents: torch.Tensor) -> None:
    keep.encoded = backbone.decode(latents)
