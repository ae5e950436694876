"""What the server says of itself: schemas, media types, examples."""

from __future__ import annotations

from typing import Any

from .verbs import VERBS, Verb

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
    "example": {"error": {"kind": "bad_input", "message": "query must be given."}},
}
_JOB = {
    "type": "object",
    "required": ["id", "kind", "state", "progress", "links"],
    "properties": {
        "id": _TEXT,
        "kind": {"enum": [*VERBS]},
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
_ANSWERS = {"results": _MANY, "result": _RECORD, "caption": _CAPTION}
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
_REFERENCE = "#/components/schemas/{model}"
_ALWAYS = (401, 403)
_READING = (*_ALWAYS, 400, 404, 406, 408, 409, 413, 415, 422, 429, 501, 503, 504)


def verb(verb: Verb) -> dict[str, Any]:
    """The FastAPI arguments of a verb."""
    answers: dict[str, Any] = {"application/json": {"schema": _ANSWERS[verb.answer]}}
    if verb.pictures:
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
        "openapi_extra": {"requestBody": _request_body(verb)},
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
    for one in VERBS.values():
        found = one.body.model_json_schema(ref_template=_REFERENCE)
        parts |= found.pop("$defs", {})
        parts[one.body.__name__] = found
    parts.pop("HTTPValidationError", None)
    parts.pop("ValidationError", None)
    schema["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "password": {"type": "http", "scheme": "basic"},
    }
    schema["security"] = [{}, {"token": []}, {"password": []}]
    return schema


def _request_body(verb: Verb) -> dict[str, Any]:
    """The body as JSON, and as a form that takes files as they are."""
    body = verb.body.model_json_schema(ref_template=_REFERENCE)
    properties = dict(body["properties"])
    for field in {"image", "mask", "patch"} & set(properties):
        properties[field] = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "properties": properties,
        "required": body.get("required", []),
        "additionalProperties": False,
    }
    json = {"schema": {"$ref": _REFERENCE.format(model=verb.body.__name__)}}
    return {
        "required": True,
        "content": {
            "application/json": json
            | {"examples": {name: {"value": body} for name, body in verb.examples.items()}},
            "multipart/form-data": {"schema": form},
        },
    }
