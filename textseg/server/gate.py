"""Who may come in: tokens, hosts and origins, checked before anything of a request is read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .answers import Refusal
from .settings import ServerOptions, is_loopback

OPEN_PATHS = ("/healthz", "/readyz")
SESSION_HEADER = "X-Textseg-Session"
CALLER = "textseg.caller"
"""Key of the ASGI scope under which the caller's identity is found."""

# A header each: Chromium reads the first challenge of a header and no more.
_CHALLENGES = ('Basic realm="textseg", charset="UTF-8"', 'Bearer realm="textseg"')


class Gate:
    """ASGI middleware that lets in who shows a token, or is on this machine where none is set.

    Without tokens the Host header must name this machine, so that a page elsewhere cannot reach the
    server by a name it controls. Pages of other origins may not send anything that changes state.
    """

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self._app, self._tokens = app, tuple(token.encode() for token in options.tokens)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        try:
            scope[CALLER] = self._admit(scope)
        except Refusal as refusal:
            response = refusal.response()
            response.headers["Connection"] = "close"
            for challenge in _CHALLENGES if refusal.status == 401 else ():
                response.headers.append("WWW-Authenticate", challenge)
            return await response(scope, receive, send)
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._tokens and not is_loopback(_host_name(host)):
            raise Refusal(
                403, "wrong_host", "Without a token this server answers only to local host names."
            )
        origin = headers.get("origin")
        reading = scope["method"] in ("GET", "HEAD", "OPTIONS")
        if origin is not None and not reading and _site(origin) != host.lower():
            raise Refusal(403, "wrong_origin", "Pages of other origins may not ask this.")
        token = b""
        if self._tokens and scope["path"] not in OPEN_PATHS:
            token = _shown_token(headers.get("authorization", ""))
            if not is_one_of(token, self._tokens):
                what = "wrong" if token else "missing"
                raise Refusal(
                    401,
                    "unauthorized",
                    f"The token is {what}; send the header 'Authorization: Bearer TOKEN'.",
                )
        return identity(token, headers.get(SESSION_HEADER, ""))


def is_one_of(shown: bytes, tokens: Sequence[bytes]) -> bool:
    """Whether a token is one of those that count, in a time that does not tell how near it is."""
    matches = [hmac.compare_digest(_digest(shown), _digest(token)) for token in tokens]
    return any(matches)


def identity(token: bytes, session: str) -> str:
    """Who asks, hex: callers of another token or another session are others."""
    return hashlib.sha256(_digest(token) + session.encode("latin-1", "replace")).hexdigest()


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _shown_token(header: str) -> bytes:
    """The token of an Authorization header: a bearer token, or the password of basic ones, which
    browsers ask their user for."""
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value.encode("latin-1", "replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


def _host_name(host: str) -> str:
    """The Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].strip("[")
    return host.partition(":")[0]


def _site(origin: str) -> str:
    """An Origin header's host and port, "" where it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
