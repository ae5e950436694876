"""Bodies of requests: JSON or a form, read into one model per verb."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection
from typing import Annotated, Any, Literal, TypeVar

import anyio
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from ..edit_methods import EDIT_METHODS
from ..errors import InputError
from ..option_table import option_table
from ..options import (
    THRESHOLD,
    THRESHOLD_RULES,
    ContrastOptions,
    EditOptions,
    GenerateOptions,
    RefineOptions,
)
from ..outpainting import NO_PART, OUTPAINT_METHODS
from ..rle import decode_rle
from .answers import Refusal
from .sentences import sentence

MAX_QUERIES = 16
MAX_TEXT = 2000
MAX_IMAGES = 8
MAX_CLICKS = 64

# Tighter than the library's own bounds: what one caller asks for must not starve the others, and
# a caller is not trusted to know what a kernel of a millionth of a pixel costs.
_BOUNDS: dict[str, dict[str, Any]] = {
    "strength": {"max_length": 8},
    "samples": {"le": 256},
    "batch_size": {"ge": 1, "le": 64},
    "clamp": {"le": 1e6},
    "floor": {"le": 1e6},
    "crf_appearance": {"le": 1e4},
    "crf_alpha": {"ge": 1, "le": 1e4},
    "crf_beta": {"ge": 1, "le": 1e4},
    "crf_smoothness": {"le": 1e4},
    "crf_gamma": {"ge": 0.1, "le": 500},
    "steps": {"le": 250},
    "guidance_scale": {"le": 100},
    "fixed_point": {"le": 10},
}

METHODS = tuple(name for name, way in EDIT_METHODS.items() if way.over != "checkpoint")
"""Inpainting needs a checkpoint of its own, which a request cannot name."""
OUTPAINTING = tuple(name for name in OUTPAINT_METHODS if name in METHODS)

_Body = TypeVar("_Body", bound="Body")


def _decode(value: object) -> object:
    """Base64 text to bytes; what a form uploads is bytes already."""
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("must be base64") from None
    return value


def _check_text(text: str) -> str:
    if any((ord(c) < 32 and c not in "\t\n") or 0xD800 <= ord(c) < 0xE000 for c in text):
        raise ValueError("must hold no control characters and no halves of surrogate pairs")
    return text


def _method_of(names: tuple[str, ...]) -> Any:
    """The type of a method's name that a request may give."""

    def check(method: str) -> str:
        if method not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return method

    return Annotated[str, AfterValidator(check), Field(json_schema_extra={"enum": list(names)})]


def _check_threshold(value: object) -> object:
    if not THRESHOLD.holds(value):
        raise ValueError(f"must be {THRESHOLD.words}")
    return value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_check_text)]
Upload = Annotated[
    bytes,
    BeforeValidator(_decode),
    WithJsonSchema({"type": "string", "format": "byte", "contentEncoding": "base64"}),
]
Texts = Annotated[
    list[Text], Field(min_length=1, max_length=MAX_QUERIES), BeforeValidator(_as_list)
]
Threshold = Annotated[
    Any,
    AfterValidator(_check_threshold),
    WithJsonSchema(
        {"anyOf": [{"enum": [*THRESHOLD_RULES]}, {"type": "number", "minimum": 0, "maximum": 1}]}
    ),
]
Amount = Annotated[int, Field(strict=True, ge=0)] | Annotated[str, Field(max_length=20)]
What = Literal["mask", "score", "overlay", "cutout", "rle", "polygon", "npz"]


def _options_model(name: str, *kinds: type, exclude: Collection[str] = ()) -> Any:
    """Option dataclasses as one model in which every field may be left to the model's defaults."""
    fields: dict[str, Any] = {}
    for option in (option for kind in kinds for option in option_table(kind).values()):
        if option.name in exclude:
            continue
        hint: Any = option.hint
        if option.name == "strength":
            hint = Annotated[list[float], BeforeValidator(_number_as_list)]
        elif hint is str:
            hint = Text
        elif hint == str | float:
            hint = Threshold
        elif hint is int:
            hint = Annotated[int, Field(strict=True)]
        bounds = {**(option.rule.bounds if option.rule else {}), **_BOUNDS.get(option.name, {})}
        fields[option.name] = (hint | None, Field(None, description=option.help, **bounds))
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _number_as_list(value: object) -> object:
    return [value] if isinstance(value, (int, float)) else value


SegmentOptions = _options_model("SegmentOptions", ContrastOptions, RefineOptions)
EditingOptions = _options_model("EditingOptions", EditOptions, ContrastOptions, RefineOptions)
OutpaintingOptions = _options_model("OutpaintingOptions", EditOptions, exclude=NO_PART)
GeneratingOptions = _options_model("GeneratingOptions", GenerateOptions)


ASSESS: Any = Field(
    True, description="say under 'outcome' whether it took, by what the model sees before and after"
)


class Body(BaseModel):
    """What every request may say."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    model: Text = Field("", description="name of the model, one of /v1/models; its own if empty")

    def chosen(self) -> dict[str, Any]:
        """The options given, by name."""
        options = getattr(self, "options", None)
        given = {} if options is None else options.model_dump(exclude_none=True)
        if "strength" in given:
            given["strength"] = tuple(given["strength"])
        return given


class ImageBody(Body):
    image: Upload = Field(description="the image: PNG, JPEG, WebP, GIF, BMP or TIFF")


class SegmentBody(ImageBody):
    """Cut out what queries name."""

    query: Texts = Field(description="what to find, one text or several")
    caption: Text | None = Field(None, description="what the image shows, for reference 'erase'")
    exclusive: bool = Field(False, description="no pixel in two masks")
    points: list[tuple[float, float, Literal[1, 0, -1]]] = Field(
        [],
        max_length=MAX_CLICKS,
        description="clicks that correct the mask of one query: x, y in pixels and 1 on the "
        "object, 0 or -1 on what is none of it",
    )
    boxes: list[tuple[float, float, float, float]] = Field(
        [],
        max_length=MAX_CLICKS,
        description="boxes that the object of one query lies in: left, top, right, bottom in "
        "pixels",
    )
    options: SegmentOptions | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None, description="fields of the contrast and refine options"
    )
    output: Annotated[list[What], BeforeValidator(_as_list)] = Field(
        ["mask"],
        max_length=7,
        description="what a PNG shows (the first), what a zip holds; JSON gives polygons if "
        "'polygon' is among them, else RLE",
    )


class EditBody(ImageBody):
    """Change what a query names, or a given region."""

    query: Text | None = Field(None, description="what to change; may be left out with a mask")
    prompt: Text = Field("", description="what it becomes; empty removes it")
    mask: Upload | None = Field(None, description="image of the region, white where edited")
    mask_rle: dict[str, Any] | None = Field(None, description="the region as COCO RLE")
    found: bool = Field(
        False, description="whether the mask is a segmentation's, which grows before the edit"
    )
    patch: Upload | None = Field(None, description="the picture that method 'poisson' blends in")
    style: Upload | None = Field(
        None, description="a picture whose colours the region, or the whole image, is given"
    )
    method: _method_of(METHODS) | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None,
        description="how; by default diffedit, transport with a style, and fill to remove with a "
        "model that does not paint",
    )
    caption: Text | None = Field(None, description="what the image shows, for reference 'erase'")
    options: EditingOptions | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None, description="fields of the edit, contrast and refine options"
    )
    assess: bool = ASSESS
    visible_label: bool = Field(False, description="write 'Edited with AI' into the picture")

    def region(self) -> Any:
        """The region given as RLE, (H, W) bool, or None."""
        if self.mask_rle is None:
            return None
        size = self.mask_rle.get("size")
        if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)):
            raise InputError("mask_rle must hold size, two whole numbers")
        if not 0 < size[0] * size[1] <= 2**26 or min(size) < 1:
            raise InputError(f"mask_rle must have a size of 1 to {2**26} pixels, got {size}")
        if not isinstance(self.mask_rle.get("counts"), (str, list)):
            raise InputError("mask_rle must hold counts, a text or a list")
        return decode_rle(self.mask_rle)


class OutpaintBody(ImageBody):
    """Extend an image beyond its borders."""

    prompt: Text = Field("", description="what the whole image shows")
    left: Amount = Field(0, description="pixels to add, or as '25%' of the image's width")
    right: Amount = Field(0, description="as left")
    top: Amount = Field(0, description="pixels to add, or as '25%' of the image's height")
    bottom: Amount = Field(0, description="as top")
    method: _method_of(OUTPAINTING) | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None, description="how; by default diffedit, and fill with a model that does not paint"
    )
    options: OutpaintingOptions | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None, description="fields of the edit options"
    )
    assess: bool = ASSESS
    visible_label: bool = Field(False, description="write 'Edited with AI' into the picture")


class GenerateBody(Body):
    """Make images from prompts."""

    prompt: Texts = Field(description="what to make, one text or several")
    count: int = Field(1, ge=1, le=MAX_IMAGES, description="images per prompt")
    options: GeneratingOptions | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None, description="fields of the sampling options"
    )
    visible_label: bool = Field(False, description="write 'Generated with AI' into the picture")


class CaptionBody(ImageBody):
    """Say what an image shows."""

    nouns: Annotated[list[Text], BeforeValidator(_as_list)] | None = Field(
        None, min_length=1, max_length=256, description="what to choose from"
    )
    most: int = Field(3, ge=1, le=64, description="nouns in the caption at most")
    least_presence: float = Field(
        0.5, ge=0, le=1, description="nouns less present are left out, but for the first"
    )
    samples: int = Field(2, ge=1, le=16, description="noise draws")


async def read_body(request: Request, kind: type[_Body]) -> _Body:
    """The request's body, JSON or a form.

    Raises:
        Refusal: 415 another content type, 400 no such form or JSON, 422 a value breaks its rule.
    """
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if content == "application/json":
            data = await request.body()
            return await anyio.to_thread.run_sync(kind.model_validate_json, data)
        if content in ("multipart/form-data", "application/x-www-form-urlencoded"):
            return kind.model_validate(await _read_form(request, kind))
    except ValidationError as error:
        raise _explain(error, kind) from None
    raise Refusal(
        415, "wrong_type", "Content-Type must be application/json or multipart/form-data."
    )


async def _read_form(request: Request, kind: type[BaseModel]) -> dict[str, Any]:
    lists = ("query", "output", "nouns") if kind is not EditBody else ()
    lists += ("prompt",) if kind is GenerateBody else ()
    structured = ("options", "mask_rle", "points", "boxes")
    try:
        async with request.form(max_files=3, max_fields=400, max_part_size=2**20) as form:
            values: dict[str, Any] = {}
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    part: Any = await value.read()
                elif name in structured:
                    part = json.loads(value)
                else:
                    part = value
                if name in lists:
                    values.setdefault(name, []).append(part)
                elif name in values:
                    raise Refusal(422, "bad_input", f"{name[:40]!r} must be given once.")
                else:
                    values[name] = part
            return values
    except Refusal:
        raise
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeError):
            raise Refusal(400, "bad_form", "The form's texts must be UTF-8.") from None
        raise Refusal(400, "bad_form", f"{', '.join(structured)} must be JSON.") from None
    except Exception as error:
        # The parser raises several unrelated types for malformed forms.
        if isinstance(error, MultiPartException) or type(error).__module__.startswith(
            ("python_multipart", "multipart", "starlette")
        ):
            raise Refusal(400, "bad_form", "The body is no complete form.") from None
        raise


def _explain(error: ValidationError, kind: type[BaseModel]) -> Refusal:
    """The first thing that is wrong, in one sentence."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return Refusal(400, "bad_json", f"The body is no JSON: {first['msg'][:200]}.")
    return Refusal(422, "bad_input", sentence(first, kind))
