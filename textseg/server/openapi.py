"""What the server says of itself: schemas, media types, examples."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel

from .bodies import CaptionBody, EditBody, GenerateBody, SegmentBody

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAMCAIAAADkharWAAAAF0lEQVR4nGPYZm9PEmIY1TCqYfhq2GZvDwAB"
    "nb2BURxRxwAAAABJRU5ErkJggg=="
)
"""A grey PNG of 16 x 12 pixels, for examples."""

_BODIES: dict[str, type[BaseModel]] = {
    "SegmentBody": SegmentBody,
    "EditBody": EditBody,
    "GenerateBody": GenerateBody,
    "CaptionBody": CaptionBody,
}
_EXAMPLES: dict[str, Any] = {
    "SegmentBody": {
        "image": PIXEL,
        "query": ["the dog", "the tree"],
        "options": {"samples": 4, "threshold": "otsu"},
        "output": ["mask", "rle"],
    },
    "EditBody": {
        "image": PIXEL,
        "query": "the dog",
        "prompt": "a cat",
        "options": {"steps": 20, "encode_ratio": 0.5},
    },
    "GenerateBody": {"prompt": "a photo of a dog", "options": {"steps": 20, "seed": 7}},
    "CaptionBody": {"image": PIXEL, "most": 2},
}
_TEXT: dict[str, Any] = {"type": "string"}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "message"],
            "properties": {"kind": _TEXT, "message": _TEXT},
        }
    },
    "example": {"error": {"kind": "bad_input", "message": "query: Field required."}},
}
_JOB = {
    "type": "object",
    "required": ["id", "kind", "state", "progress", "links"],
    "properties": {
        "id": _TEXT,
        "kind": {"enum": ["segment", "edit", "generate", "caption"]},
        "state": {"enum": ["waiting", "running", "done", "failed", "cancelled"]},
        "progress": {
            "type": "object",
            "properties": {
                "done": {"type": "integer"},
                "total": {"type": "integer"},
                "stage": _TEXT,
            },
        },
        "links": {"type": "object", "additionalProperties": _TEXT},
        "error": _ERROR["properties"]["error"],
    },
}
_RLE = {
    "type": "object",
    "required": ["size", "counts"],
    "properties": {
        "size": {"type": "array", "items": {"type": "integer"}},
        "counts": {"type": "string"},
    },
}
_RECORD: dict[str, Any] = {
    "type": "object",
    "required": ["textseg", "kind", "model", "size", "notes"],
    "properties": {
        "textseg": _TEXT,
        "kind": _TEXT,
        "model": _TEXT,
        "query": _TEXT,
        "prompt": _TEXT,
        "presence": {"type": "number"},
        "size": {"type": "array", "items": {"type": "integer"}},
        "notes": {"type": "array", "items": _TEXT},
        "rle": _RLE,
        "polygons": {"type": "array", "items": {"type": "object"}},
        "image": {"type": "string", "contentEncoding": "base64"},
    },
}
_MANY = {
    "type": "object",
    "required": ["results"],
    "properties": {"results": {"type": "array", "items": _RECORD}},
}
_CAPTION = {
    "type": "object",
    "required": ["text", "model", "nouns", "evaluations"],
    "properties": {"text": _TEXT, "model": _TEXT, "nouns": {"type": "array"}},
}
_ANSWERS = {
    "SegmentBody": _MANY,
    "EditBody": _RECORD,
    "GenerateBody": _MANY,
    "CaptionBody": _CAPTION,
}
_WHY = {
    400: "the body is no JSON, or no form",
    401: "the token is missing or wrong",
    403: "the host or the origin is not this server's",
    404: "no such model or job",
    406: "none of the media types in Accept is offered",
    408: "the body came too slowly",
    409: "the work was cancelled, or is not done",
    413: "the body is too long",
    415: "the body is neither JSON nor a form",
    422: "a value breaks its rule",
    429: "too many requests; Retry-After says when",
    501: "a package that this needs is not installed",
    503: "the server is stopping or out of memory",
    504: "the time limit is over",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ALWAYS = (401, 403)
_READING = (*_ALWAYS, 400, 404, 406, 408, 409, 413, 415, 422, 429, 501, 503, 504)


def verb(name: str, *, pictures: bool = True) -> dict[str, Any]:
    """The FastAPI arguments of a verb that takes the body `name`."""
    answers: dict[str, Any] = {"application/json": {"schema": _ANSWERS[name]}}
    if pictures:
        answers |= {"image/png": _BINARY, "application/zip": _BINARY}
    return {
        "responses": {
            200: {"description": "the result, as Accept wants it", "content": answers},
            202: {
                "description": "a job, with async=true",
                "content": {"application/json": {"schema": _JOB}},
                "headers": {"Location": {"schema": _TEXT, "description": "the job"}},
            },
        }
        | refusals(*_READING),
        "openapi_extra": {"requestBody": _request_body(name)},
    }


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documented refusals, for FastAPI's `responses`."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": _WHY[status], "content": content} for status in statuses}


def job_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses of what answers with a job."""
    job = {"description": "the job", "content": {"application/json": {"schema": _JOB}}}
    return {200: job} | refusals(*_ALWAYS, *statuses)


def result_responses() -> dict[int | str, dict[str, Any]]:
    """Responses of a job's result."""
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    content |= {"image/png": _BINARY, "application/zip": _BINARY}
    done = {"description": "the result, as Accept wants it", "content": content}
    return {200: done} | refusals(*_ALWAYS, 404, 406, 409, 422, 501, 503, 504)


def complete(schema: dict[str, Any]) -> dict[str, Any]:
    """Add the bodies' schemas to what FastAPI found out by itself."""
    parts = schema.setdefault("components", {}).setdefault("schemas", {})
    parts["Error"] = _ERROR
    for name, body in _BODIES.items():
        found = body.model_json_schema(ref_template="#/components/schemas/{model}")
        parts |= found.pop("$defs", {})
        parts[name] = found
    parts.pop("HTTPValidationError", None)
    parts.pop("ValidationError", None)
    schema["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "password": {"type": "http", "scheme": "basic"},
    }
    schema["security"] = [{}, {"token": []}, {"password": []}]
    return schema


def _request_body(name: str) -> dict[str, Any]:
    content = {
        "application/json": {
            "schema": {"$ref": f"#/components/schemas/{name}"},
            "example": _EXAMPLES[name],
        }
    }
    form = _form_schema(name)
    if form is not None:
        content["multipart/form-data"] = {"schema": form}
    return {"required": True, "content": content}


def _form_schema(name: str) -> dict[str, Any] | None:
    """The body as a form: files are sent as they are."""
    body = _BODIES[name].model_json_schema(ref_template="#/components/schemas/{model}")
    properties = copy.deepcopy(body["properties"])
    for field in ("image", "mask", "patch"):
        if field in properties:
            properties[field] = {"type": "string", "format": "binary"}
    return {
        "type": "object",
        "properties": properties,
        "required": body.get("required", []),
        "additionalProperties": False,
    }
