"""Answers that look at no text: what any method has to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from textseg.errors import InputError

from .base import Answer, Method, MethodSpec


class _Trivial(Method):
    """The same hard mask for every query; `mask` makes it."""

    def __init__(self, spec: MethodSpec) -> None:
        if spec.options:
            raise InputError(f"{spec.method} has no options, got {', '.join(spec.options)}")
        self.name = spec.method

    def __call__(self, image: np.ndarray, queries: Sequence[str]) -> Answer:
        mask = self.mask(image)
        return Answer(None, np.broadcast_to(mask, (len(queries), *mask.shape)))

    def mask(self, image: np.ndarray) -> np.ndarray:
        """(H, W) bool."""
        raise NotImplementedError


class Nothing(_Trivial):
    def mask(self, image: np.ndarray) -> np.ndarray:
        return np.zeros(image.shape[:2], bool)


class Everything(_Trivial):
    def mask(self, image: np.ndarray) -> np.ndarray:
        return np.ones(image.shape[:2], bool)


def centre_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the centred box with the image's aspect and half its area."""
    tall, wide = (max(1, round(side * math.sqrt(0.5))) for side in (height, width))
    top, left = (height - tall) // 2, (width - wide) // 2
    return top, left, top + tall, left + wide


class CentreBox(_Trivial):
    def mask(self, image: np.ndarray) -> np.ndarray:
        mask = np.zeros(image.shape[:2], bool)
        top, left, bottom, right = centre_box(*image.shape[:2])
        mask[top:bottom, left:right] = True
        return mask


class GrabCut(_Trivial):
    """GrabCut (Rother et al. 2004), OpenCV's, five iterations from the centred box."""

    def mask(self, image: np.ndarray) -> np.ndarray:
        import cv2

        top, left, bottom, right = centre_box(*image.shape[:2])
        marks = np.zeros(image.shape[:2], np.uint8)
        if bottom - top < 2 or right - left < 2 or marks.size == (bottom - top) * (right - left):
            marks[top:bottom, left:right] = 1
            return marks.astype(bool)
        # OpenCV starts its colour clusters from a generator of the process.
        cv2.setRNGSeed(0)
        bgr = np.ascontiguousarray(image[..., ::-1])
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(bgr, marks, (left, top, right - left, bottom - top), *models, 5,
                    cv2.GC_INIT_WITH_RECT)  # fmt: skip
        return (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)
