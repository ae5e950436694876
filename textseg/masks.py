"""A segmentation, and the forms in which others want it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from ._version import __version__
from .drawing import PALETTE, Color, cut_out, draw_labels, tint
from .errors import InputError, MissingDependencyError
from .image import ImageLike, check_rgb, load_image
from .options import ContrastOptions, EditOptions, RefineOptions
from .outlines import Polygon, mask_to_polygons
from .packing import (
    area_text,
    check_kind,
    check_mask,
    check_size,
    damaged,
    kind_of,
    pack,
    parsed,
    plain,
    read_json,
    unpack,
)
from .rle import bounding_box, decode_rle, encode_rle
from .saving import (
    PICTURE_SUFFIXES,
    PNG_KEY,
    as_picture,
    encode_picture,
    picture_suffix,
    read_provenance,
    utf8,
    write_atomic,
)
from .showing import Shown, quoted, size_text

if TYPE_CHECKING:
    from PIL.Image import Image
    from supervision import Detections

What = Literal["mask", "score", "overlay", "cutout"]
_FILES: dict[What, tuple[str, ...]] = {
    "mask": (".png",),
    "score": (".png",),
    "overlay": PICTURE_SUFFIXES,
    "cutout": (".png", ".webp"),
}
Options = TypeVar("Options", ContrastOptions, RefineOptions, EditOptions)


@dataclass(frozen=True, eq=False)
class Segmentation(Shown):
    """Where in an image a query is, and how that was found.

    Attributes:
        mask: (H, W) bool, possibly empty.
        score: (H, W) float32 in [0, 1].
        presence: in [0, 1]: is what the query names in the image at all.
        query: what was asked for.
        prompts: the query prompt and the reference prompt that were contrasted.
        contrast_options, refine_options: the settings used.
        model: name of the model.
        version: of textseg.
        notes: what the user should know about this result, one line each.
        image: (H, W, 3) uint8, the image as segmented, or None.
        contrast: (h, w) float32, the raw map at latent size, or None.
    """

    mask: np.ndarray
    score: np.ndarray
    presence: float
    query: str
    prompts: tuple[str, str] = ("", "")
    contrast_options: ContrastOptions = ContrastOptions()
    refine_options: RefineOptions = RefineOptions()
    model: str = ""
    version: str = __version__
    notes: tuple[str, ...] = ()
    image: np.ndarray | None = None
    contrast: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_mask(self.mask)
        score = self.score
        if not isinstance(score, np.ndarray) or score.dtype != np.float32:
            raise InputError(f"score must be an array of float32, got {kind_of(score)}")
        check_size("score", score, self.mask)
        # Written so that NaN fails too.
        if not bool(((score >= 0) & (score <= 1)).all()):
            raise InputError(f"score must lie in [0, 1], got {score.min()} to {score.max()}")
        object.__setattr__(self, "presence", float(self.presence))
        if not 0 <= self.presence <= 1:
            raise InputError(f"presence must be in [0, 1], got {self.presence!r}")
        object.__setattr__(self, "prompts", tuple(self.prompts))
        object.__setattr__(self, "notes", tuple(self.notes))
        if len(self.prompts) != 2:
            raise InputError(f"prompts must be a query and a reference, got {self.prompts!r}")
        if self.image is not None:
            check_rgb(self.image)
            check_size("image", self.image, self.mask)
        if self.contrast is not None and (
            self.contrast.ndim != 2 or self.contrast.dtype != np.float32
        ):
            raise InputError(f"contrast must be (h, w) float32, got {kind_of(self.contrast)}")

    def __repr__(self) -> str:
        said = f"{quoted(self.query)}, {size_text(*self.mask.shape)}"
        return f"Segmentation({said}, presence {self.presence:.2f}, {area_text(self.mask)})"

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """The settings used, JSON-able: {"contrast": {...}, "refine": {...}}."""
        return {
            "contrast": plain(self.contrast_options),
            "refine": plain(self.refine_options),
        }

    def describe(self) -> dict[str, Any]:
        """How this result was made, JSON-able; written into every file it is saved to."""
        return {
            PNG_KEY: self.version,
            "kind": "segmentation",
            "query": self.query,
            "prompts": {"query": self.prompts[0], "reference": self.prompts[1]},
            "model": self.model,
            "seed": self.contrast_options.seed,
            "options": self.options,
            "presence": self.presence,
            "size": list(self.mask.shape),
            "area": int(self.mask.sum()),
            "notes": list(self.notes),
        }

    def to_rle(self) -> dict[str, Any]:
        """COCO run-length encoding, JSON-able: {"size": [H, W], "counts": str}."""
        return encode_rle(self.mask)

    def to_polygons(self) -> list[Polygon]:
        """Regions as {"exterior": ring, "holes": [ring, ...]}, rings of [x, y] pixel corners.

        Holes are kept, and the polygons enclose the mask's pixels exactly: see
        `textseg.outlines.mask_to_polygons`.
        """
        return mask_to_polygons(self.mask)

    def to_coco(
        self,
        image_id: int = 1,
        category_id: int = 1,
        *,
        annotation_id: int | None = None,
        segmentation: Literal["rle", "polygon"] = "rle",
    ) -> dict[str, Any]:
        """One record of a COCO annotation or result file.

        Args:
            image_id, category_id: those of the file's image and category; textseg's own COCO files
                count both from 1.
            annotation_id: becomes "id" where given; annotation files need one, result files not.
            segmentation: "rle", exact, or "polygon". COCO's polygons cannot hold holes: they are
                filled, and the record then says how many under "holes_lost".

        Returns:
            image_id, category_id, segmentation, bbox ([x, y, width, height]), area (of the mask,
            holes left out), iscrowd (0) and score (the presence).
        """
        if segmentation not in ("rle", "polygon"):
            raise InputError(f"segmentation must be 'rle' or 'polygon', got {segmentation!r}")
        record: dict[str, Any] = {} if annotation_id is None else {"id": annotation_id}
        record |= {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": bounding_box(self.mask),
            "area": int(self.mask.sum()),
            "iscrowd": 0,
            "score": self.presence,
        }
        if segmentation == "rle":
            return record | {"segmentation": self.to_rle()}
        polygons = self.to_polygons()
        lost = sum(len(polygon["holes"]) for polygon in polygons)
        record["segmentation"] = [
            [coordinate for corner in polygon["exterior"] for coordinate in corner]
            for polygon in polygons
        ]
        return record | ({"holes_lost": lost} if lost else {})

    def overlay(self, color: Color = PALETTE[0], alpha: float = 0.45) -> np.ndarray:
        """The image with the mask tinted and outlined, (H, W, 3) uint8.

        Args:
            color: (r, g, b) from 0 to 255, a name, or "#rrggbb".
            alpha: weight of the colour inside the mask, 0 to 1.
        """
        return tint(self._image("an overlay"), self.mask, color, alpha)

    def cutout(self, background: Color | np.ndarray | None = None) -> np.ndarray:
        """The masked pixels alone: (H, W, 4) uint8 RGBA, or (H, W, 3) uint8 on a background.

        Args:
            background: None for transparency, a colour, or an image of the same size.
        """
        return cut_out(self._image("a cutout"), self.mask, background)

    def to_pil(self, what: What = "overlay") -> Image:
        """A Pillow picture of what `what` names, with the pixels that `save` writes.

        Raises:
            InputError: the picture needs the image, and the result holds none.
        """
        _check_what(what)
        return as_picture(self._pixels(what))

    def to_supervision(self, class_id: int = 0) -> Detections:
        """One detection for the package supervision, with mask, box, presence and query; none where
        the mask is empty. `Detections.merge` puts those of several queries together.

        Args:
            class_id: the number of its class; the query is its "class_name".

        Raises:
            MissingDependencyError: supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise MissingDependencyError(
                "supervision is missing; pip install 'textseg[supervision]'"
            ) from error
        x, y, width, height = bounding_box(self.mask)
        found = Detections(
            xyxy=np.array([[x, y, x + width, y + height]], np.float32),
            mask=self.mask[None],
            confidence=np.array([self.presence], np.float32),
            class_id=np.array([class_id]),
            data={"class_name": np.array([self.query])},
        )
        return found if self.mask.any() else found[:0]  # pyright: ignore[reportReturnType]

    def save(self, path: str | os.PathLike[str], what: What = "mask") -> None:
        """Writes one file, whole or not at all, with `describe()` inside.

        Args:
            path: its suffix says the format, see `to_bytes`.
            what: "mask", "score", "overlay" or "cutout".

        Raises:
            OutputError: the file cannot be written.
            InputError: another suffix, or a picture is wanted and the result holds no image.
        """
        write_atomic(path, self.to_bytes(_suffix(path, what), what))

    def to_bytes(self, suffix: str = ".png", what: What = "mask") -> bytes:
        """The bytes of the file that `save` writes.

        Args:
            suffix: says the format.

                - ".png": what `what` names; an overlay also as ".webp" (lossless), ".jpg" or
                  ".jpeg" (quality 95), a cutout also as ".webp".
                - ".json": `describe()`, "rle" and "bbox".
                - ".npz": everything, the way back to an equal `Segmentation`.
            what: "mask" (8-bit grey, 0 and 255), "score" (16-bit grey, 65535 for 1), "overlay"
                or "cutout" (RGBA).
        """
        suffix = _suffix(f"result{suffix}", what)
        if suffix == ".json":
            record = self.describe() | {"rle": self.to_rle(), "bbox": bounding_box(self.mask)}
            return utf8(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        if suffix == ".npz":
            arrays = {"image": self.image, "contrast": self.contrast}
            return pack(self.describe(), {"mask": self.mask, "score": self.score} | arrays)
        return encode_picture(self._pixels(what), suffix, self.describe() | {"what": what})

    @classmethod
    def from_bytes(cls, data: bytes) -> Segmentation:
        """Reads back what `to_bytes(".npz")` gave.

        Raises:
            InputError: the bytes are damaged, or no segmentation of textseg's.
        """
        record, arrays = unpack("the bytes", "segmentation", data)
        return segmentation_of("the bytes", record, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Segmentation:
        """Reads back what `save` wrote.

        A .npz file gives everything back. A .json file and the .png of a mask hold no score: the
        mask stands in for it, and a note says so.

        Raises:
            InputError: the file is missing, damaged, or was not written by textseg.
        """
        suffix = picture_suffix(path, (".png", ".json", ".npz"))
        if suffix == ".npz":
            record, arrays = unpack(path, "segmentation")
            return segmentation_of(path, record, arrays)
        if suffix == ".json":
            record = check_kind(path, read_json(path), "segmentation")
            try:
                mask = decode_rle(record["rle"])
            except (KeyError, InputError) as error:
                raise damaged(path, error) from error
        else:
            record = check_kind(path, read_provenance(path), "segmentation")
            if record.get("what") != "mask":
                raise InputError(
                    f"cannot read {str(path)!r}: it holds the {record.get('what')}, not the mask"
                )
            mask = load_image(path)[..., 0] > 127
        record["notes"] = [*record.get("notes", ()), "score not saved; the mask stands in for it"]
        return segmentation_of(path, record, {"mask": mask, "score": mask.astype(np.float32)})

    def _image(self, purpose: str) -> np.ndarray:
        if self.image is None:
            raise InputError(f"image must be given for {purpose}, got a result without one")
        return self.image

    def _pixels(self, what: What) -> np.ndarray:
        if what == "score":
            return np.rint(self.score.astype(np.float64) * 65535).astype(np.uint16)
        if what == "overlay":
            return self.overlay()
        if what == "cutout":
            return self.cutout()
        return self.mask

    def _look(self, longest: int | None = None) -> Image:
        if self.image is None:
            return self.to_pil("mask")
        if longest is None or max(self.mask.shape) <= longest:
            return self.to_pil()
        # Tinted when small: that of every pixel of a photograph takes seconds.
        image = as_picture(self.image)
        image.thumbnail((longest, longest))
        mask = np.asarray(as_picture(self.mask).resize(image.size)) > 127
        score = mask.astype(np.float32)
        return replace(self, mask=mask, score=score, image=np.asarray(image)).to_pil()


def overlay_many(
    image: ImageLike,
    segmentations: Sequence[Segmentation],
    *,
    alpha: float = 0.45,
    legend: bool = True,
    allow_url: bool = False,
) -> np.ndarray:
    """The image with every mask in its own colour of `PALETTE`, later ones on top.

    Args:
        image: as for `load_image`, of the masks' size.
        legend: name the queries in the upper left corner, where there is room.
        allow_url: whether `image` may be a URL to fetch.

    Returns:
        (H, W, 3) uint8.
    """
    out = load_image(image, allow_url=allow_url)
    colors = [PALETTE[index % len(PALETTE)] for index in range(len(segmentations))]
    for segmentation, color in zip(segmentations, colors, strict=True):
        check_size("image", out, segmentation.mask)
        out = tint(out, segmentation.mask, color, alpha)
    if legend and segmentations:
        names = [segmentation.query for segmentation in segmentations]
        out = draw_labels(out, list(zip(names, colors, strict=True)))
    return out


def _check_what(what: str) -> None:
    if what not in _FILES:
        raise InputError(f"what must be one of {', '.join(_FILES)}, got {what!r}")


def _suffix(path: str | os.PathLike[str], what: What) -> str:
    _check_what(what)
    return picture_suffix(path, (*_FILES[what], ".json", ".npz"))


def segmentation_of(
    path: str | os.PathLike[str], record: Mapping[str, Any], arrays: Mapping[str, Any]
) -> Segmentation:
    """The segmentation that `describe` and the arrays of a file at `path` tell of.

    Raises:
        InputError: something is missing, or breaks its rule.
    """
    try:
        return Segmentation(
            mask=arrays["mask"],
            score=arrays["score"],
            presence=record["presence"],
            query=record["query"],
            prompts=(record["prompts"]["query"], record["prompts"]["reference"]),
            contrast_options=parsed(ContrastOptions, record["options"]["contrast"]),
            refine_options=parsed(RefineOptions, record["options"]["refine"]),
            model=record["model"],
            version=record[PNG_KEY],
            notes=tuple(record["notes"]),
            image=arrays.get("image"),
            contrast=arrays.get("contrast"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from error
