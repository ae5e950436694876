"""Results: a segmentation, an edit, and the forms in which others want them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from ._version import __version__
from .drawing import PALETTE, Color, cut_out, draw_labels, tint
from .errors import InputError, MissingDependencyError
from .image import MAX_PIXELS, ImageLike, check_rgb, load_image
from .options import ContrastOptions, EditOptions, RefineOptions
from .outcome import Outcome
from .outlines import Polygon, mask_to_polygons
from .provenance import edit_label
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

__all__ = [
    "PALETTE",
    "Edit",
    "Segmentation",
    "decode_rle",
    "overlay_many",
    "write_atomic",
]

What = Literal["mask", "score", "overlay", "cutout"]
_FILES: dict[What, tuple[str, ...]] = {
    "mask": (".png",),
    "score": (".png",),
    "overlay": PICTURE_SUFFIXES,
    "cutout": (".png", ".webp"),
}
_Options = TypeVar("_Options", ContrastOptions, RefineOptions, EditOptions)


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
        _check_mask(self.mask)
        score = self.score
        if not isinstance(score, np.ndarray) or score.dtype != np.float32:
            raise InputError(f"score must be an array of float32, got {_kind(score)}")
        _check_size("score", score, self.mask)
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
            _check_size("image", self.image, self.mask)
        if self.contrast is not None and (
            self.contrast.ndim != 2 or self.contrast.dtype != np.float32
        ):
            raise InputError(f"contrast must be (h, w) float32, got {_kind(self.contrast)}")

    def __repr__(self) -> str:
        said = f"{quoted(self.query)}, {size_text(*self.mask.shape)}"
        return f"Segmentation({said}, presence {self.presence:.2f}, {_area_text(self.mask)})"

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """The settings used, JSON-able: {"contrast": {...}, "refine": {...}}."""
        return {
            "contrast": _plain(self.contrast_options),
            "refine": _plain(self.refine_options),
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
            return _pack(self.describe(), {"mask": self.mask, "score": self.score} | arrays)
        return encode_picture(self._pixels(what), suffix, self.describe() | {"what": what})

    @classmethod
    def from_bytes(cls, data: bytes) -> Segmentation:
        """Reads back what `to_bytes(".npz")` gave.

        Raises:
            InputError: the bytes are damaged, or no segmentation of textseg's.
        """
        record, arrays = _unpack("the bytes", "segmentation", data)
        return _segmentation("the bytes", record, arrays)

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
            record, arrays = _unpack(path, "segmentation")
            return _segmentation(path, record, arrays)
        if suffix == ".json":
            record = _check_kind(path, _read_json(path), "segmentation")
            try:
                mask = decode_rle(record["rle"])
            except (KeyError, InputError) as error:
                raise _damaged(path, error) from error
        else:
            record = _check_kind(path, read_provenance(path), "segmentation")
            if record.get("what") != "mask":
                raise InputError(
                    f"cannot read {str(path)!r}: it holds the {record.get('what')}, not the mask"
                )
            mask = load_image(path)[..., 0] > 127
        record["notes"] = [*record.get("notes", ()), "score not saved; the mask stands in for it"]
        return _segmentation(path, record, {"mask": mask, "score": mask.astype(np.float32)})

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


@dataclass(frozen=True, eq=False)
class Edit(Shown):
    """An edited image, and how it was made.

    Attributes:
        image: (H, W, 3) uint8, the result.
        mask: (H, W) bool, the region that was edited: what was named or given, grown.
        query: what named the region, "" where a mask was given.
        prompt: what it was turned into.
        options: the settings used.
        segmentation: how the mask was found, or None where it was given.
        method: name of the editing method.
        model: name of the model.
        version: of textseg.
        source: (H, W, 3) uint8, the image before, or None.
        notes: what the user should know about this result, one line each.
        input_xmp: XMP packet of the input file, kept in the files this is saved to.
        trained: whether a trained model made the edit; says which label the files carry.
        extended: pixels added on the left, top, right and bottom by `outpaint`; else None.
        outcome: whether it took, where that was asked of a model, see `assess`.
    """

    image: np.ndarray
    mask: np.ndarray
    query: str
    prompt: str
    options: EditOptions = EditOptions()
    segmentation: Segmentation | None = None
    method: str = "diffedit"
    model: str = ""
    version: str = __version__
    source: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    input_xmp: str = ""
    trained: bool = True
    extended: tuple[int, int, int, int] | None = None
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        check_rgb(self.image)
        _check_mask(self.mask)
        _check_size("mask", self.mask, self.image)
        if self.source is not None:
            check_rgb(self.source, "source")
            _check_size("source", self.source, self.image)
        object.__setattr__(self, "notes", tuple(self.notes))

    def __repr__(self) -> str:
        said = [self.method, size_text(*self.mask.shape), _area_text(self.mask)]
        if self.query:
            said.insert(0, f"{quoted(self.query)} to {quoted(self.prompt)}")
        elif self.prompt:
            said.insert(0, quoted(self.prompt))
        return f"Edit({', '.join(said)})"

    def describe(self) -> dict[str, Any]:
        """How this result was made, JSON-able; written into every file it is saved to."""
        record: dict[str, Any] = {
            PNG_KEY: self.version,
            "kind": "edit",
            "method": self.method,
            "query": self.query,
            "prompt": self.prompt,
            "model": self.model,
            "seed": self.options.seed,
            "options": _plain(self.options),
            "size": list(self.mask.shape),
            "area": int(self.mask.sum()),
            "notes": list(self.notes),
            "segmentation": None if self.segmentation is None else self.segmentation.describe(),
        }
        if self.extended is not None:
            record["extended"] = list(self.extended)
        if self.outcome is not None:
            record["outcome"] = self.outcome.describe()
        return record

    def to_pil(self) -> Image:
        """The edited image as a Pillow picture, without the label that `save` writes."""
        return as_picture(self.image)

    def save(self, path: str | os.PathLike[str], visible_label: bool = False) -> None:
        """Writes the edited image, whole or not at all, with `describe()` and an IPTC label inside.

        Args:
            path: .png, .webp (lossless), .jpg or .jpeg (quality 95), or .npz for everything.
            visible_label: write "Edited with AI" in the lower left corner.

        Raises:
            OutputError: the file cannot be written.
            InputError: another suffix.
        """
        suffix = picture_suffix(path, _EDIT_SUFFIXES)
        write_atomic(path, self.to_bytes(suffix, visible_label))

    def to_bytes(self, suffix: str = ".png", visible_label: bool = False) -> bytes:
        """The bytes of the file that `save` writes; `suffix` says the format."""
        picture_suffix(f"result{suffix}", _EDIT_SUFFIXES)
        pixels = self.image
        if visible_label:
            pixels = draw_labels(pixels, [("Edited with AI", None)], corner="lower left")
        if suffix == ".npz":
            arrays = {"image": pixels, "mask": self.mask, "source": self.source}
            found = self.segmentation
            if found is not None:
                arrays |= {f"found_{name}": getattr(found, name) for name in _FOUND}
            kept = {"input_xmp": self.input_xmp, "trained": self.trained}
            return _pack(self.describe() | kept, arrays)
        label = edit_label(self.input_xmp, trained=self.trained)
        if not self.mask.any():
            # Nothing was edited, so the file says of itself what the input said.
            label = self.input_xmp.encode() or None
        return encode_picture(pixels, suffix, self.describe(), xmp=label)

    @classmethod
    def from_bytes(cls, data: bytes) -> Edit:
        """Reads back what `to_bytes(".npz")` gave.

        Raises:
            InputError: the bytes are damaged, or no edit of textseg's.
        """
        return cls._read("the bytes", data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Edit:
        """Reads back what `save` wrote to a .npz file.

        Raises:
            InputError: the file is missing, damaged, or was not written by textseg.
        """
        picture_suffix(path, (".npz",))
        return cls._read(path)

    def _look(self, longest: int | None = None) -> Image:
        """Before and after, side by side; after alone where before is not known."""
        if self.source is None:
            return self.to_pil()
        gap = np.full((len(self.image), max(1, self.image.shape[1] // 64), 3), 255, np.uint8)
        return as_picture(np.concatenate([self.source, gap, self.image], axis=1))

    @classmethod
    def _read(cls, path: str | os.PathLike[str], data: bytes | None = None) -> Edit:
        record, arrays = _unpack(path, "edit", data)
        found = {name: arrays.get(f"found_{name}") for name in _FOUND}
        try:
            return cls(
                image=arrays["image"],
                mask=arrays["mask"],
                query=record["query"],
                prompt=record["prompt"],
                options=_parse(EditOptions, record["options"]),
                segmentation=record["segmentation"]
                and _segmentation(path, record["segmentation"], found | {"image": None}),
                method=record["method"],
                model=record["model"],
                version=record[PNG_KEY],
                source=arrays.get("source"),
                notes=tuple(record["notes"]),
                input_xmp=record["input_xmp"],
                trained=record["trained"],
                extended=tuple(record["extended"]) if "extended" in record else None,
                outcome=Outcome.read(record["outcome"]) if "outcome" in record else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error


# Arrays of the segmentation that an edit keeps; its image is the edit's source.
_FOUND = ("mask", "score", "contrast")
_EDIT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".npz")


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
        _check_size("image", out, segmentation.mask)
        out = tint(out, segmentation.mask, color, alpha)
    if legend and segmentations:
        names = [segmentation.query for segmentation in segmentations]
        out = draw_labels(out, list(zip(names, colors, strict=True)))
    return out


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """Mask (H, W) bool of a COCO run-length encoding.

    Args:
        rle: {"size": [H, W], "counts": counts}, counts a string, bytes, or a list of runs as in
            crowd annotations.

    Raises:
        InputError: the runs do not add up to H * W, it is no such mapping, or has too many pixels.

    >>> decode_rle({"size": [2, 2], "counts": [1, 2, 1]})
    array([[False,  True],
           [ True, False]])
    """
    height, width, runs = check_rle(rle)
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(values.reshape(width, height).T)


def check_rle(rle: Mapping[str, Any]) -> tuple[int, int, np.ndarray]:
    """Height, width and runs (N,) of what `decode_rle` takes.

    Raises:
        InputError: as `decode_rle`.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        runs = _parse_runs(counts) if isinstance(counts, (str, bytes)) else np.asarray(counts)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(f"rle must hold size and counts: {error!r}") from error
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise InputError(
            f"rle must have a size of 1 x 1 to {MAX_PIXELS} pixels, got {height} x {width}"
        )
    if runs.ndim != 1 or runs.dtype.kind not in "iu":
        raise InputError(
            f"rle must hold a list of whole runs, got {runs.ndim}-dimensional {runs.dtype}"
        )
    # No run is longer than the image, so that the sum cannot overflow.
    if (runs < 0).any() or (runs > height * width).any() or int(runs.sum()) != height * width:
        raise InputError(
            f"rle's runs must add up to its size, got {sum(map(int, runs))} for {height} x {width}"
        )
    return height, width, runs


def _parse_runs(counts: str | bytes) -> np.ndarray:
    """Runs of a COCO counts string.

    pycocotools' own decoder leaves memory unset where the runs fall short of the size, so that
    strings from files have to be checked first.
    """
    codes = counts.encode("ascii") if isinstance(counts, str) else counts
    digits = np.frombuffer(codes, np.uint8).astype(np.int64) - 48
    if not len(digits):
        return digits
    if digits.min() < 0 or digits.max() > 63:
        raise ValueError("unknown character in counts")
    ends = np.flatnonzero(digits < 32)
    if not len(ends) or ends[-1] != len(digits) - 1:
        raise ValueError("counts end in the middle of a run")
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts + 1
    if length.max() > 12:
        raise ValueError("a run in counts is too long")
    shift = 5 * (np.arange(len(digits)) - np.repeat(starts, length))
    runs = np.add.reduceat((digits & 31) << shift, starts)
    runs -= (digits[ends] >> 4 & 1) << (5 * length)
    # From the fourth run on, runs are stored as the change since the last of their kind.
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool as COCO's compressed RLE with text counts."""
    from pycocotools import mask as coco_mask

    rle: Any = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def bounding_box(mask: np.ndarray) -> list[int]:
    """[x, y, width, height] of the mask's pixels; zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return [0, 0, 0, 0]
    y, x = int(rows[0]), int(columns[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def _area_text(mask: np.ndarray) -> str:
    return f"area {mask.mean():.1%}".replace("%", " %")


def _check_what(what: str) -> None:
    if what not in _FILES:
        raise InputError(f"what must be one of {', '.join(_FILES)}, got {what!r}")


def _suffix(path: str | os.PathLike[str], what: What) -> str:
    _check_what(what)
    return picture_suffix(path, (*_FILES[what], ".json", ".npz"))


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return type(value).__name__


def _check_mask(mask: object) -> None:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2:
        raise InputError(f"mask must be (H, W) bool, got {_kind(mask)}")
    if not mask.size:
        raise InputError(f"mask must have at least one pixel, got {mask.shape}")


def _check_size(name: str, array: np.ndarray, other: np.ndarray) -> None:
    if array.shape[:2] != other.shape[:2]:
        raise InputError(f"{name} must be of size {other.shape[:2]}, got {array.shape[:2]}")


def _plain(options: ContrastOptions | RefineOptions | EditOptions) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(options).items()
    }


def _parse(kind: type[_Options], fields: Mapping[str, Any]) -> _Options:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return kind(**values)


def _segmentation(
    path: str | os.PathLike[str], record: Mapping[str, Any], arrays: Mapping[str, Any]
) -> Segmentation:
    try:
        return Segmentation(
            mask=arrays["mask"],
            score=arrays["score"],
            presence=record["presence"],
            query=record["query"],
            prompts=(record["prompts"]["query"], record["prompts"]["reference"]),
            contrast_options=_parse(ContrastOptions, record["options"]["contrast"]),
            refine_options=_parse(RefineOptions, record["options"]["refine"]),
            model=record["model"],
            version=record[PNG_KEY],
            notes=tuple(record["notes"]),
            image=arrays.get("image"),
            contrast=arrays.get("contrast"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: str | os.PathLike[str], error: Exception) -> InputError:
    reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
    return InputError(f"cannot read {str(path)!r}: {reason or type(error).__name__}")


def _check_kind(path: str | os.PathLike[str], record: Any, kind: str) -> dict[str, Any]:
    if not isinstance(record, dict) or PNG_KEY not in record or record.get("kind") != kind:
        raise InputError(f"cannot read {str(path)!r}: it does not hold a textseg {kind}")
    return record


def _pack(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray | None]) -> bytes:
    buffer = io.BytesIO()
    present: dict[str, Any] = {k: array for k, array in arrays.items() if array is not None}
    np.savez_compressed(buffer, **{PNG_KEY: np.asarray(json.dumps(record))}, **present)
    return buffer.getvalue()


def _unpack(
    path: str | os.PathLike[str], kind: str, data: bytes | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    source = Path(path) if data is None else io.BytesIO(data)
    try:
        with np.load(source, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in packed.files}
        record = json.loads(str(arrays.pop(PNG_KEY)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    return _check_kind(path, record, kind), arrays


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
