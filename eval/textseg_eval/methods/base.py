"""What every compared method is: a function from an image and queries to score maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from textseg.errors import InputError

if TYPE_CHECKING:
    from ..datasets import Example


@dataclass(frozen=True)
class Query:
    """One question about an image.

    Attributes:
        key: of the truth's region.
        category_id: the class its pixels are counted under.
        texts: ways to say it; their highest score and presence and their masks' union count.
        present: whether the truth has it; None where that is not said (crowds only).
    """

    key: int
    category_id: int
    texts: tuple[str, ...]
    present: bool | None = True


@dataclass(frozen=True)
class Answer:
    """What a method says about each query of one image.

    Attributes:
        scores: (Q, H, W) float32 in [0, 1], how much each pixel belongs to the query; None for
            methods that only give masks.
        masks: (Q, H, W) bool by the method's own rule; None for methods without one.
        presence: (Q,) float in [0, 1], whether the query is in the image at all; by default the
            highest score, or whether the mask has a pixel.
    """

    scores: np.ndarray | None
    masks: np.ndarray | None = None
    # Filled in below where it is not given.
    presence: np.ndarray = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        if self.scores is None and self.masks is None:
            raise InputError("scores or masks must be given, got neither")
        if self.scores is not None and not np.isfinite(self.scores).all():
            raise InputError("scores must be finite, got NaN or infinity")
        if self.presence is None:
            maps = self.scores if self.scores is not None else self.masks
            assert maps is not None
            flat = maps.reshape(len(maps), -1)
            top = flat.max(axis=1) if flat.shape[1] else np.zeros(len(maps))
            object.__setattr__(self, "presence", top.astype(np.float64))

    def resized(self, height: int, width: int) -> Answer:
        """The same answer at another size: scores bilinear, masks by nearest neighbour."""
        import cv2

        def each(maps: np.ndarray | None, how: int) -> np.ndarray | None:
            if maps is None:
                return None
            kind = np.uint8 if maps.dtype == bool else np.float32
            parts = [cv2.resize(m.astype(kind), (width, height), interpolation=how) for m in maps]
            return np.array(parts, kind).reshape(len(maps), height, width).astype(maps.dtype)

        return Answer(each(self.scores, cv2.INTER_LINEAR), each(self.masks, cv2.INTER_NEAREST),
                      self.presence)  # fmt: skip

    def joined(self, groups: Sequence[Sequence[int]]) -> Answer:
        """One row per group of rows: the highest score and presence, the union of the masks."""
        presence = self.presence
        if all(len(group) == 1 for group in groups):
            rows = [group[0] for group in groups]
            same = rows == list(range(len(presence)))
            return self if same else Answer(
                None if self.scores is None else self.scores[rows],
                None if self.masks is None else self.masks[rows], presence[rows],
            )  # fmt: skip
        shape = (self.scores if self.scores is not None else self.masks).shape[1:]  # type: ignore

        def join(maps: np.ndarray | None) -> np.ndarray | None:
            if maps is None:
                return None
            parts = [maps[list(group)].max(axis=0) for group in groups]
            return np.array(parts, maps.dtype).reshape(len(groups), *shape)

        top = np.array([presence[list(group)].max() for group in groups])
        return Answer(join(self.scores), join(self.masks), top)


class Method(ABC):
    """A compared method.

    Attributes:
        name: for tables.
        needs_image: False where the answer does not come from the pixels.
    """

    name: str = ""
    needs_image: bool = True

    @abstractmethod
    def __call__(self, image: np.ndarray, queries: Sequence[str]) -> Answer:
        """Answer queries about an image (H, W, 3) uint8."""

    def about(self, example: Example, image: np.ndarray | None, queries: Sequence[Query]) -> Answer:
        """Answer queries about an image of the data set; each distinct text is asked once."""
        assert image is not None
        rows: dict[str, int] = {}
        groups = [[rows.setdefault(t, len(rows)) for t in query.texts] for query in queries]
        return self(image, list(rows)).joined(groups)

    def describe(self) -> dict[str, Any]:
        """What the figures depend on, JSON-able."""
        return {"name": self.name}


@dataclass(frozen=True)
class MethodSpec:
    """How to build a method; travels to worker processes.

    Attributes:
        method: a name of `methods.METHODS`.
        model: model name or folder, for methods that run one.
        options: the method's own options.
        device, dtype: as in `textseg.load`.
    """

    method: str
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None

    def describe(self) -> dict[str, Any]:
        """JSON-able; what makes two runs the same."""
        return {"method": self.method, "model": self.model, "options": dict(self.options),
                "device": self.device, "dtype": self.dtype}  # fmt: skip
