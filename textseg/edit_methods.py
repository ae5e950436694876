"""The ways to change a region: DiffEdit and the methods it is compared with.

A new one is a function with the signature of its kind, and a line in `EDIT_METHODS`.

Source: Couairon et al. 2022, arXiv 2210.11427, sections 3.2 to 3.3 and 4.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .errors import InputError, ModelError
from .filling import push_pull
from .inversion import Trajectory, ddim_decode, ddim_encode, edit_levels
from .style import match_statistics, transport_colors

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .backbone.base import Backbone
    from .options import EditOptions
    from .progress import Progress

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


# ---------------------------------------------------------------------------
# Methods over pixels: image (H, W, 3) uint8 and mask (H, W) bool in, edited image out.


def opencv_inpaint(image: np.ndarray, mask: np.ndarray, patch: np.ndarray | None) -> np.ndarray:
    """Fill the region from its surroundings, without a model.

    Source: Telea 2004, "An image inpainting technique based on the fast marching method", as in
    OpenCV, with a radius of 3 pixels.
    """
    import cv2
    import numpy as np

    return cv2.inpaint(np.ascontiguousarray(image), mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)


def fill(image: np.ndarray, mask: np.ndarray, patch: np.ndarray | None) -> np.ndarray:
    """Fill the region smoothly from its surroundings, without a model, see `push_pull`."""
    return push_pull(image, mask)


def reinhard(image: np.ndarray, mask: np.ndarray, patch: np.ndarray | None) -> np.ndarray:
    """Give the region the patch's colours, see `match_statistics`."""
    return match_statistics(image, mask, _given(patch, "reinhard"))


def transport(image: np.ndarray, mask: np.ndarray, patch: np.ndarray | None) -> np.ndarray:
    """Give the region the patch's colours, see `transport_colors`."""
    return transport_colors(image, mask, _given(patch, "transport"))


def _given(patch: np.ndarray | None, method: str) -> np.ndarray:
    if patch is None:
        raise InputError(f"patch must be an image for method {method!r}, got None")
    return patch


def poisson(image: np.ndarray, mask: np.ndarray, patch: np.ndarray | None) -> np.ndarray:
    """Blend a given patch into the region by its gradients, without a model.

    The patch is resized to the region's bounding box.

    Source: Perez et al. 2003, "Poisson image editing", as in OpenCV's `seamlessClone`.
    """
    import cv2
    import numpy as np

    from .image import resize_image

    patch = _given(patch, "poisson")
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


# ---------------------------------------------------------------------------
# Methods of a checkpoint of their own, which finds no regions.


def inpaint(
    model: Any,
    image: np.ndarray,
    mask: np.ndarray,
    prompt: str,
    options: EditOptions,
    progress: Progress | None,
) -> np.ndarray:
    """Have an inpainting checkpoint repaint the region, see `InpaintingModel`.

    Args:
        model: an `InpaintingModel`, or a name or folder of one.
    """
    from .backbone.inpainting import InpaintingModel

    if isinstance(model, str):
        model = InpaintingModel.load(model)
    if not isinstance(model, InpaintingModel):
        raise ModelError(
            "method 'inpaint' must be given the folder or name of an inpainting checkpoint, got "
            f"{type(model).__name__}"
        )
    return model.inpaint(image, mask, prompt, options, progress)


@dataclass(frozen=True)
class EditMethod:
    """One way to change a region.

    Attributes:
        run: over "latents", from a `LatentTask` to clean latents; over "pixels", from image, mask
            and patch to an image; with a "checkpoint" of its own, see `inpaint`.
        over: which of these.
        recolours: whether it keeps shapes and only changes colours; the region does not grow then.
        fills: whether it makes the region from what lies around it, whatever the prompt.
        takes: what else it can work with, "patch" or "style", a second picture.
    """

    run: Callable[..., Any]
    over: Literal["latents", "pixels", "checkpoint"] = "latents"
    recolours: bool = False
    fills: bool = False
    takes: frozenset[str] = frozenset()


_PICTURES = frozenset({"patch", "style"})
EDIT_METHODS: dict[str, EditMethod] = {
    "diffedit": EditMethod(diffedit),
    "diffedit-no-encoding": EditMethod(diffedit_no_encoding),
    "encode-decode": EditMethod(encode_decode),
    "sdedit": EditMethod(sdedit),
    "inpaint": EditMethod(inpaint, "checkpoint"),
    "fill": EditMethod(fill, "pixels", fills=True),
    "opencv-inpaint": EditMethod(opencv_inpaint, "pixels", fills=True),
    "poisson": EditMethod(poisson, "pixels", takes=frozenset({"patch"})),
    "reinhard": EditMethod(reinhard, "pixels", recolours=True, takes=_PICTURES),
    "transport": EditMethod(transport, "pixels", recolours=True, takes=_PICTURES),
}
