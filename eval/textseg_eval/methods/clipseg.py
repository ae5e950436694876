"""CLIPSeg (Lueddecke and Ecker 2022, arXiv 2112.10003) through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textseg.errors import ModelError

from .base import Answer, Method, MethodSpec
from .models import take_options, weights_folder


class ClipSeg(Method):
    """Sigmoid of CLIPSeg's logits, brought to the image's size; weights from a local folder."""

    def __init__(self, spec: MethodSpec) -> None:
        from transformers import AutoProcessor, CLIPSegForImageSegmentation

        self.name = spec.method
        take_options(spec, {})
        folder = weights_folder(spec)
        try:
            model: Any = CLIPSegForImageSegmentation.from_pretrained(folder, local_files_only=True)
            self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder!r} cannot be loaded as CLIPSeg: {error}") from error
        self.model = model.eval().to(spec.device or "cpu")

    def __call__(self, image: np.ndarray, queries: Sequence[str]) -> Answer:
        import cv2
        import torch

        height, width = image.shape[:2]
        inputs = self.processor(text=list(queries), images=[image] * len(queries),
                                return_tensors="pt", padding=True, truncation=True)  # fmt: skip
        with torch.inference_mode():
            logits = self.model(**inputs.to(self.model.device)).logits
        maps = logits.float().sigmoid().reshape(len(queries), *logits.shape[-2:]).cpu().numpy()
        scores = [cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in maps]
        return Answer(np.stack(scores))
