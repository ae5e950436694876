"""Editing a named region by prompt: DiffEdit and the methods it is compared with.

The methods over latents (`LATENT_METHODS`) and over pixels (`PIXEL_METHODS`) each share one
signature; `edit` finds the region, runs one of them and pastes the untouched pixels back.

Source: Couairon et al. 2022, arXiv 2210.11427, sections 3.2 to 3.3 and 4.3.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import check_text
from .errors import ImageError, InputError, ModelError
from .image import fetch_image, image_identity, is_url, load_image, resize_image
from .inversion import Trajectory, ddim_decode, ddim_encode, edit_levels
from .options import EDIT_METHODS, EditOptions
from .progress import Progress, report
from .vocabulary import find_unknown_note

if TYPE_CHECKING:
    import torch

    from .backbone.base import Backbone
    from .image import ImageLike
    from .masks import Edit, Segmentation
    from .segmenter import Segmenter


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
# Methods over latents: (C, h, w) clean latents in, (C, h, w) clean edited latents out.


@dataclass(frozen=True)
class LatentTask:
    """What every method over latents is given.

    Attributes:
        backbone: the model.
        latents: clean latents x_0, (C, h, w).
        mask: region to edit, (1, h, w) float32 in [0, 1].
        noise: one draw from a standard normal, (C, h, w), for the methods that use it.
        prompt: what the region becomes.
        options: ratio, steps, guidance, negative prompt, fixed point.
        progress: see `inversion.Progress`.
        started: told the noisy latents the decoding starts from.
        encoded: the image's trajectory, if it was encoded before, to this ratio or a higher one
            of the same number of steps.
    """

    backbone: Backbone
    latents: torch.Tensor
    mask: torch.Tensor
    noise: torch.Tensor
    prompt: str
    options: EditOptions
    progress: Progress | None = None
    started: Callable[[torch.Tensor], None] | None = None
    encoded: Trajectory | None = None

    @property
    def levels(self) -> list[int]:
        """Timesteps from the clean end to the ratio r."""
        return edit_levels(self.backbone, self.options.steps, self.options.encode_ratio)

    def encode(self) -> Trajectory:
        """The image's DDIM trajectory, unconditional; its levels begin with those of the task."""
        if self.encoded is not None:
            return self.encoded
        return ddim_encode(
            self.backbone,
            self.latents,
            self.levels,
            progress=self.progress,
            fixed_point=self.options.fixed_point,
        )

    def noised(self, index: int) -> torch.Tensor:
        """x_0 with the task's noise at `levels[index]`, (C, h, w)."""
        t = self.levels[index]
        if t < 0:
            return self.latents
        return self.backbone.add_noise(self.latents, self.noise[None], t)[0]

    def decode(
        self,
        latents: torch.Tensor,
        after_step: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Decode from the last level under the prompt."""
        if self.started is not None:
            self.started(latents)
        return ddim_decode(
            self.backbone,
            latents,
            self.levels,
            prompt=self.prompt,
            negative_prompt=self.options.negative_prompt,
            progress=self.progress,
            guidance_scale=self.options.guidance_scale,
            after_step=after_step,
        )


def sdedit(task: LatentTask) -> torch.Tensor:
    """Noise the image to r, decode under the prompt: neither mask nor encoding.

    Source: Meng et al. 2022, arXiv 2108.01073; first row of DiffEdit's ablation.
    """
    return task.decode(task.noised(-1))


def encode_decode(task: LatentTask) -> torch.Tensor:
    """Encode the image to r with DDIM, decode under the prompt: no mask."""
    return task.decode(task.encode()[len(task.levels) - 1])


def diffedit_no_encoding(task: LatentTask) -> torch.Tensor:
    """Noise the image to r, decode under the prompt, keep the noised image outside the mask.

    The same noise is used at every level, so that the background follows a straight path back to
    the image.
    """
    return task.decode(
        task.noised(-1), lambda y, i: task.mask * y + (1 - task.mask) * task.noised(i)
    )


def diffedit(task: LatentTask) -> torch.Tensor:
    """Encode, then decode under the prompt with the mask: DiffEdit steps 2 and 3.

    y_t = M y_t + (1 - M) x_t after every step, both at the same t, down to x_0 itself.
    """
    encoded = task.encode()
    start = encoded[len(task.levels) - 1]
    return task.decode(start, lambda y, i: task.mask * y + (1 - task.mask) * encoded[i])


LATENT_METHODS: dict[str, Callable[[LatentTask], torch.Tensor]] = {
    "sdedit": sdedit,
    "encode-decode": encode_decode,
    "diffedit-no-encoding": diffedit_no_encoding,
    "diffedit": diffedit,
}

# ---------------------------------------------------------------------------
# Methods over pixels: image (H, W, 3) uint8 and mask (H, W) bool in, edited image out.


def opencv_inpaint(image: np.ndarray, mask: np.ndarray, patch: np.ndarray | None) -> np.ndarray:
    """Fill the region from its surroundings, without a model.

    Source: Telea 2004, "An image inpainting technique based on the fast marching method", as in
    OpenCV, with a radius of 3 pixels.
    """
    import cv2

    return cv2.inpaint(np.ascontiguousarray(image), mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)


def poisson(image: np.ndarray, mask: np.ndarray, patch: np.ndarray | None) -> np.ndarray:
    """Blend a given patch into the region by its gradients, without a model.

    The patch is resized to the region's bounding box.

    Source: Perez et al. 2003, "Poisson image editing", as in OpenCV's `seamlessClone`.
    """
    import cv2

    if patch is None:
        raise InputError("patch must be an image for method 'poisson', got None")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    source = np.zeros_like(image)
    source[top:bottom, left:right] = resize_image(patch, (bottom - top, right - left))
    # seamlessClone leaves a region that touches the border undone; a margin keeps it inside.
    margin = 2
    wide = ((margin, margin), (margin, margin))
    padded = [np.pad(a, (*wide, (0, 0)), mode="edge") for a in (source, image)]
    region = np.pad(mask.astype(np.uint8) * 255, wide)
    if min(bottom - top, right - left) < 3:
        # seamlessClone fails on what has no inside.
        region = cv2.dilate(region, np.ones((3, 3), np.uint8))
    centre = (margin + (left + right) // 2, margin + (top + bottom) // 2)
    done = cv2.seamlessClone(padded[0], padded[1], region, centre, cv2.NORMAL_CLONE)
    return done[margin:-margin, margin:-margin]


PIXEL_METHODS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]] = {
    "opencv-inpaint": opencv_inpaint,
    "poisson": poisson,
}


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


def edit(
    image: ImageLike,
    query: str | None = None,
    prompt: str = "",
    *,
    model: Backbone | Segmenter | str = "mini",
    mask: Segmentation | np.ndarray | None = None,
    method: str = "diffedit",
    options: EditOptions | None = None,
    patch: ImageLike | None = None,
    allow_url: bool = False,
    progress: Progress | None = None,
    keep: Steps | None = None,
    **overrides: Any,
) -> Edit:
    """Edit the region a query names, or a given mask, by prompt.

    The image is edited at the model's own size and the edit is brought back to the input's size;
    pixels outside the region are the input's, bit for bit, unless `composite=False`.

    Args:
        image: anything `load_image` takes.
        query: what to edit, e.g. "the dog"; may be left out when `mask` is given.
        prompt: what it becomes, e.g. "a cat"; "" removes it.
        model: a name, a loaded model, or a `Segmenter` (its options find the region).
        mask: (H, W) bool of the image's size, or a `Segmentation`; found from the query if None.
        method: one of `EDIT_METHODS`; "inpaint" needs an inpainting checkpoint as `model`.
        options: `EditOptions`; the model's or the paper's defaults if None.
        patch: the image that method "poisson" blends in.
        allow_url: whether `image` and `patch` may be URLs to fetch.
        progress: called as progress(done, total, stage); returning False stops the edit.
        keep: a `Steps` to fill.
        overrides: single fields of `EditOptions`, and of the options `Segmenter.query` takes.

    Returns:
        the edit. With an empty region it is the input itself, and its notes say so, and why where
        the model knows no word of the query.

    Raises:
        InputError: a bad argument; CancelledError: `progress` returned False.
    """
    from ._version import __version__
    from .backbone.shared import lock_of
    from .masks import Edit, Segmentation

    if method not in EDIT_METHODS:
        raise InputError(f"method must be one of {', '.join(EDIT_METHODS)}, got {method!r}")
    check_text("prompt", prompt)
    own = {f.name for f in fields(EditOptions)}
    changes = {k: v for k, v in overrides.items() if k in own}
    finding = {k: v for k, v in overrides.items() if k not in own or k == "seed"}
    if mask is None and not query:
        raise InputError("query must name what to edit when no mask is given, got none")
    if mask is None and method == "inpaint":
        raise InputError("mask must be given for method 'inpaint': its model finds no regions")
    if mask is not None and set(finding) - {"seed"}:
        name = min(set(finding) - {"seed"})
        raise InputError(
            f"option must be a field of EditOptions when a mask is given, got {name!r}"
        )

    if is_url(image):
        image = fetch_image(image, allow_url=allow_url)
    input_xmp = _input_xmp(image)
    pixels = load_image(image)
    segmenter = _segmenter(model, needed=mask is None or method in LATENT_METHODS)
    backbone = segmenter.model if segmenter is not None else None
    chosen = replace(options or edit_defaults(backbone), **changes)
    segmentation = mask if isinstance(mask, Segmentation) else None
    if segmentation is not None:
        query = query or segmentation.query
    elif mask is None:
        assert segmenter is not None and query is not None
        segmenter.set_image(pixels)
        segmentation = segmenter.query(query, progress=progress, **finding)
    if segmentation is not None:
        mask = segmentation.mask
    region = _region(np.asarray(mask), pixels, chosen)

    notes: list[str] = []
    if segmentation is not None and (unknown := find_unknown_note(segmentation.notes)):
        notes.append(unknown)
    if not region.any():
        notes.append("the region is empty: the image is unchanged")
        edited = pixels
    elif method in PIXEL_METHODS:
        given = load_image(patch, allow_url=allow_url) if patch is not None else None
        edited = PIXEL_METHODS[method](pixels, region, given)
        report(progress, 1, 1, method)
    elif method == "inpaint":
        edited = _inpaint(model, pixels, region, prompt, chosen, progress)
    else:
        assert segmenter is not None and backbone is not None
        if prompt == "":
            prompt = removal_prompt(backbone, query)
        notes += prompt_notes(backbone, prompt, chosen.negative_prompt)
        if chosen.negative_prompt and backbone.distilled_guidance is not None:
            notes.append("the model has guidance distilled into it: no negative prompt is used")
        with lock_of(backbone):
            edited = _edit_latents(
                segmenter, pixels, region, prompt, method, chosen, progress, keep
            )
    if region.any() and chosen.composite:
        edited = composite(pixels, edited, region, chosen.seam)
    return Edit(
        image=edited,
        mask=region,
        query=query or "",
        prompt=prompt,
        options=chosen,
        segmentation=segmentation,
        method=method,
        model=backbone.name if backbone is not None else _model_name(model, method),
        version=__version__,
        source=pixels,
        notes=tuple(notes),
        input_xmp=input_xmp,
        trained=method not in PIXEL_METHODS,
    )


def prompt_notes(backbone: Backbone, *prompts: str) -> list[str]:
    """One line for every prompt the model cuts or has unknown words in; the cuts also warn."""
    notes = []
    for prompt in prompts:
        cut = backbone.truncated_words(prompt)
        if cut:
            notes.append(f"the prompt exceeds the model's token limit; left out: {cut!r}")
            warnings.warn(notes[-1], stacklevel=3)
        unknown = backbone.unknown_words(prompt)
        if unknown:
            notes.append(f"words the model does not know: {', '.join(unknown)}")
    return notes


def _input_xmp(image: Any) -> str:
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


def _segmenter(model: Any, needed: bool) -> Segmenter | None:
    """The segmenter to find the region and hold the model; None where neither is needed."""
    from .segmenter import Segmenter

    if isinstance(model, Segmenter):
        return model
    return Segmenter(model) if needed else None


def _model_name(model: Any, method: str) -> str:
    if method in PIXEL_METHODS:
        return method
    return str(getattr(model, "name", model))


def _region(mask: np.ndarray, image: np.ndarray, options: EditOptions) -> np.ndarray:
    """The region to edit, (H, W) bool, inverted if the options say so."""
    if mask.shape != image.shape[:2]:
        height, width = image.shape[:2]
        raise InputError(f"mask must have the image's size {(height, width)}, got {mask.shape}")
    if mask.dtype != bool:
        values = np.unique(mask)
        if len(values) > 2 or (len(values) == 2 and values[0] != 0):
            raise InputError(
                f"mask must be bool, or 0 and one other value, got {len(values)} values"
            )
        mask = mask != 0
    return ~mask if options.invert_mask else mask


def _edit_latents(
    segmenter: Segmenter,
    image: np.ndarray,
    mask: np.ndarray,
    prompt: str,
    method: str,
    options: EditOptions,
    progress: Progress | None,
    keep: Steps | None,
) -> np.ndarray:
    """Run a method over latents; returns (H, W, 3) uint8 of the image's size."""
    import torch

    from .predictions import draw_noise

    backbone, latents = segmenter.model, segmenter.encode(image)
    cells = latent_mask(mask, (latents.shape[-2], latents.shape[-1]), options.feather)
    task = LatentTask(
        backbone=backbone,
        latents=latents,
        mask=torch.from_numpy(cells)[None].to(latents),
        noise=draw_noise(tuple(latents.shape), options.seed, image_identity(image), -1, 0).to(
            latents
        ),
        prompt=prompt,
        options=options,
        progress=progress,
        started=None if keep is None else lambda x: _keep_encoded(keep, backbone, x),
    )
    decoded = backbone.decode(LATENT_METHODS[method](task))
    if keep is not None:
        keep.decoded, keep.latent_mask = decoded, cells
    return resize_image(decoded, (image.shape[0], image.shape[1]))


def _keep_encoded(keep: Steps, backbone: Backbone, latents: torch.Tensor) -> None:
    keep.encoded = backbone.decode(latents)


def _inpaint(
    model: Any,
    image: np.ndarray,
    mask: np.ndarray,
    prompt: str,
    options: EditOptions,
    progress: Progress | None,
) -> np.ndarray:
    """Run an inpainting checkpoint; returns (H, W, 3) uint8 of the image's size."""
    from .backbone.inpainting import InpaintingModel

    if not isinstance(model, InpaintingModel):
        if not isinstance(model, str):
            raise ModelError(
                "method 'inpaint' must be given the folder or name of an inpainting checkpoint, "
                f"got {type(model).__name__}"
            )
        model = InpaintingModel.load(model)
    return model.inpaint(image, mask, prompt, options, progress)
