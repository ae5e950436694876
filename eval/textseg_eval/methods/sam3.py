"""SAM 3 (Meta 2025) through transformers, prompted with noun phrases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from textseg.errors import MissingDependencyError, ModelError

from .base import Answer, Method, MethodSpec
from .models import take_options, weights_folder


class Sam3(Method):
    """SAM 3's semantic map and presence per query; weights from a local folder.

    Its own rule: the union of the instances with a score above `level`, its masks cut at 0.5.
    """

    defaults: ClassVar[dict[str, Any]] = {"level": 0.3}

    def __init__(self, spec: MethodSpec) -> None:
        import transformers

        self.name = spec.method
        self.level = take_options(spec, self.defaults)["level"]
        folder = weights_folder(spec)
        if not hasattr(transformers, "Sam3Model"):
            raise MissingDependencyError(
                f"transformers must be of a version with SAM 3, got {transformers.__version__}"
            )
        try:
            model: Any = transformers.Sam3Model.from_pretrained(folder, local_files_only=True)
            self.processor: Any = transformers.Sam3Processor.from_pretrained(
                folder, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder!r} cannot be loaded as SAM 3: {error}") from error
        self.model = model.eval().to(spec.device or "cpu")

    def __call__(self, image: np.ndarray, queries: Sequence[str]) -> Answer:
        import cv2
        import torch

        height, width = image.shape[:2]
        scores = np.zeros((len(queries), height, width), np.float32)
        masks, presence = np.zeros(scores.shape, bool), np.zeros(len(queries))
        for row, query in enumerate(queries):
            inputs = self.processor(images=image, text=query, return_tensors="pt")
            with torch.inference_mode():
                found = self.model(**inputs.to(self.model.device))
            semantic = found.semantic_seg[0, 0].float().sigmoid().cpu().numpy()
            scores[row] = cv2.resize(semantic, (width, height), interpolation=cv2.INTER_LINEAR)
            presence[row] = float(found.presence_logits.float().sigmoid().max())
            instances = self.processor.post_process_instance_segmentation(
                found, threshold=self.level, mask_threshold=0.5, target_sizes=[(height, width)]
            )[0]["masks"]
            if len(instances):
                masks[row] = instances.bool().any(dim=0).cpu().numpy()
        return Answer(scores, masks, presence)
