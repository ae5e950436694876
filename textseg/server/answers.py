"""Answers and refusals as the server sends them."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import (
    CancelledError,
    ImageError,
    InputError,
    MissingDependencyError,
    ModelNotFoundError,
    TextsegError,
)


class Refusal(Exception):
    """A request that is not answered, and why.

    Args:
        status: HTTP status.
        kind: one word for programs, as "too_large".
        message: one sentence for people.
        headers: sent along.
    """

    def __init__(
        self, status: int, kind: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers or {}

    def response(self) -> JSONAnswer:
        content = {"error": {"kind": self.kind, "message": self.message}}
        return JSONAnswer(content, self.status, self.headers)


class JSONAnswer(Response):
    """JSON in ASCII, so that no text a caller sent can fail to be encoded."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(content, status_code, headers)

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


def refusal_of(error: BaseException) -> Refusal:
    """What the caller is told about an error; the unexpected ones keep their details."""
    if isinstance(error, Refusal):
        return error
    message = " ".join(str(error).split())[:1000]
    if isinstance(error, ImageError):
        return Refusal(422, "bad_image", message)
    if isinstance(error, InputError):
        return Refusal(422, "bad_input", message)
    if isinstance(error, CancelledError):
        return Refusal(409, "cancelled", message)
    if isinstance(error, ModelNotFoundError):
        return Refusal(404, "no_such_model", message)
    if isinstance(error, MissingDependencyError):
        return Refusal(501, "not_installed", message)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Refusal(503, "out_of_memory", "The server ran out of memory for this request.")
    if isinstance(error, TextsegError):
        return Refusal(500, "failed", message)
    return Refusal(500, "failed", "The server failed at this request; its log says why.")


async def on_refusal(request: Request, error: Exception) -> Response:
    return refusal_of(error).response()


def accepted(header: str, offered: tuple[str, ...]) -> str:
    """The media type of `offered` that an Accept header likes best, ties to the first.

    Raises:
        Refusal: 406, it wants none of them.

    >>> accepted("image/*;q=0.5, application/zip", ("application/json", "image/png",
    ...                                             "application/zip"))
    'application/zip'
    """
    best, quality = "", 0.0
    ranges = [_range(part) for part in header.split(",")] if header.strip() else [("*/*", 1.0)]
    for kind in offered:
        fits = [
            (len(pattern.replace("*", "")), q)
            for pattern, q in ranges
            if pattern in ("*/*", kind, f"{kind.partition('/')[0]}/*")
        ]
        # The closest range speaks for a type.
        liked = max(fits)[1] if fits else 0.0
        if liked > quality:
            best, quality = kind, liked
    if not best:
        raise Refusal(406, "not_acceptable", f"Accept must be one of {', '.join(offered)}.")
    return best


def _range(part: str) -> tuple[str, float]:
    pattern, _, parameters = part.partition(";")
    quality = 1.0
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                quality = min(max(float(value), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    return pattern.strip().lower(), quality
