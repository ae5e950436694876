"""Inpainting checkpoints: a UNet that is also shown the mask and the masked image."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from ..image import resize_image
from .registry import find_model

if TYPE_CHECKING:
    import torch

    from ..options import EditOptions
    from ..progress import Progress

CHANNELS = 9
"""Latents, mask and masked latents of Stable Diffusion's inpainting UNet."""


class InpaintingModel:
    """diffusers' `StableDiffusionInpaintPipeline`, as it is.

    Attributes:
        name: what it was loaded as.
        pipe: the pipeline.
    """

    def __init__(self, pipe: Any, name: str) -> None:
        channels = pipe.unet.config.in_channels
        if channels != CHANNELS:
            raise ModelError(
                f"model must be an inpainting checkpoint, whose UNet takes {CHANNELS} channels; "
                f"{name!r} takes {channels}"
            )
        self.pipe: Any = pipe
        self.name: str = name
        pipe.set_progress_bar_config(disable=True)

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> InpaintingModel:
        """Load a pipeline folder, or a model fetched before; never touches the network.

        Raises:
            ModelNotFoundError: it is not here; ModelError: it is no inpainting checkpoint.
        """
        from diffusers import StableDiffusionInpaintPipeline

        from .latent import pick_device, pick_dtype

        where = pick_device(device)
        folder = find_model(name)
        try:
            pipe = StableDiffusionInpaintPipeline.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                safety_checker=None,
                requires_safety_checker=False,
            )
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{folder} cannot be loaded for inpainting: {error}") from error
        return cls(pipe.to(where, pick_dtype(dtype, where)), os.fspath(name))

    def inpaint(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        prompt: str,
        options: EditOptions,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Repaint the masked part from pure noise; `encode_ratio` has no part in it.

        Args:
            image: (H, W, 3) uint8.
            mask: (H, W) bool.

        Returns:
            (H, W, 3) uint8 of the image's size.
        """
        import torch
        from PIL import Image

        from ..progress import report

        height, width = self.fit_size(*image.shape[:2])
        fitted = Image.fromarray(resize_image(image, (height, width)))
        hole = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height))

        def after_step(pipe: Any, step: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
            report(progress, step + 1, pipe.num_timesteps, "inpaint")
            return values

        done = self.pipe(
            prompt=prompt,
            negative_prompt=options.negative_prompt,
            image=fitted,
            mask_image=hole,
            height=height,
            width=width,
            strength=1.0,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale,
            generator=torch.Generator().manual_seed(options.seed),
            output_type="np",
            callback_on_step_end=after_step,
        ).images[0]
        return resize_image(np.rint(done * 255).astype(np.uint8), image.shape[:2])

    def fit_size(self, height: int, width: int) -> tuple[int, int]:
        """About the checkpoint's own area, aspect kept, sides the pipeline can take."""
        unit = self.pipe.vae_scale_factor * 2 ** (len(self.pipe.unet.config.block_out_channels) - 1)
        native = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        scale = native / (height * width) ** 0.5
        return (
            max(1, round(height * scale / unit)) * unit,
            max(1, round(width * scale / unit)) * unit,
        )
