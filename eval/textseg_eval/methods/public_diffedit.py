"""diffusers' DiffEdit pipeline, used as it is, on the same weights."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from textseg.bench.models import diffedit_pipeline
from textseg.errors import ModelError
from textseg.image import image_identity, resize_image

from .base import Answer, Method, MethodSpec
from .models import backbone_of, fill_prompt, take_options, unet_of


class PublicDiffEdit(Method):
    """`StableDiffusionDiffEditPipeline.generate_mask`, one query at a time, as a user calls it.

    Options, with the pipeline's defaults: `template` of the target prompt, `reference` (the source
    prompt), `samples`, `strength`, `steps`, `clamp`, `seed`. Its mask has the latents' size and is
    brought to the image's by nearest neighbour; it has no scores and no presence.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "template": "a photo of {a}", "reference": "", "samples": 10, "strength": 0.5, "steps": 50,
        "clamp": 3.0, "seed": 0,
    }  # fmt: skip

    def __init__(self, spec: MethodSpec) -> None:
        self.name = spec.method
        self.options = take_options(spec, self.defaults)
        # The pipeline runs its UNet in the autoencoder's precision.
        self.backbone: Any = backbone_of(replace(spec, dtype=spec.dtype or "float32"))
        unet_of(self.backbone, spec.method)
        if not self.backbone.diffedit_parts:
            raise ModelError(
                f"model must have an autoencoder of distributions for {spec.method}, got "
                f"{type(self.backbone.vae).__name__}"
            )
        self.pipeline = diffedit_pipeline(self.backbone)

    def __call__(self, image: np.ndarray, queries: Sequence[str]) -> Answer:
        import cv2
        import torch

        height, width = image.shape[:2]
        small = resize_image(image, self.backbone.fit_size(height, width))
        identity = image_identity(image)
        masks = np.zeros((len(queries), height, width), bool)
        for row, query in enumerate(queries):
            key = hashlib.sha256(f"{self.options['seed']}/{identity}/{query}".encode()).digest()
            generator = torch.Generator("cpu").manual_seed(int.from_bytes(key[:7], "big"))
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mask = self.pipeline.generate_mask(
                    image=small[None].astype(np.float32) / 255,
                    target_prompt=fill_prompt(self.options["template"], query),
                    source_prompt=fill_prompt(self.options["reference"], query),
                    num_maps_per_mask=self.options["samples"],
                    mask_encode_strength=self.options["strength"],
                    mask_thresholding_ratio=self.options["clamp"],
                    num_inference_steps=self.options["steps"],
                    generator=generator,
                    output_type="np",
                )
            masks[row] = cv2.resize(
                mask[0].astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
            ).astype(bool)
        return Answer(None, masks)
