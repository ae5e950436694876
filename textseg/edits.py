"""An edited image, and how it was made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._version import __version__
from .drawing import draw_labels
from .image import check_rgb
from .masks import Segmentation, segmentation_of
from .options import EditOptions
from .outcome import Outcome
from .packing import area_text, check_mask, check_size, damaged, pack, parsed, plain, unpack
from .provenance import edit_label
from .saving import PNG_KEY, as_picture, encode_picture, picture_suffix, write_atomic
from .showing import Shown, quoted, size_text

if TYPE_CHECKING:
    from PIL.Image import Image


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
        check_mask(self.mask)
        check_size("mask", self.mask, self.image)
        if self.source is not None:
            check_rgb(self.source, "source")
            check_size("source", self.source, self.image)
        object.__setattr__(self, "notes", tuple(self.notes))

    def __repr__(self) -> str:
        said = [self.method, size_text(*self.mask.shape), area_text(self.mask)]
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
            "options": plain(self.options),
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
            return pack(self.describe() | kept, arrays)
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
        record, arrays = unpack(path, "edit", data)
        found = {name: arrays.get(f"found_{name}") for name in _FOUND}
        try:
            return cls(
                image=arrays["image"],
                mask=arrays["mask"],
                query=record["query"],
                prompt=record["prompt"],
                options=parsed(EditOptions, record["options"]),
                segmentation=record["segmentation"]
                and segmentation_of(path, record["segmentation"], found | {"image": None}),
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
            raise damaged(path, error) from error


# Arrays of the segmentation that an edit keeps; its image is the edit's source.
_FOUND = ("mask", "score", "contrast")
_EDIT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".npz")
