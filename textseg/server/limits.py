"""Limits on what a connection may send and how slowly."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .answers import Refusal
from .settings import ServerOptions

_CLOSE = {"Connection": "close"}


class Limits:
    """ASGI middleware: the size of bodies, the time they take, the time answers take.

    A body that says it is too long is refused unread; one that turns out to be is refused at the
    limit. Every answer says that browsers are not to guess its type nor to keep it.
    """

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self._app, self._options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        options = self._options
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > options.max_upload:
            return await self._too_large().response()(scope, receive, send)
        deadline = time.monotonic() + options.body_seconds
        read, whole, started = 0, False, False

        async def limited_receive() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                raise Refusal(
                    408,
                    "too_slow",
                    f"The body must arrive within {options.body_seconds:g} seconds.",
                    dict(_CLOSE),
                ) from None
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if read > options.max_upload:
                    raise self._too_large()
            return message

        async def limited_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=message["headers"])
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("Referrer-Policy", "no-referrer")
                message["headers"] = headers.raw
            await asyncio.wait_for(send(message), options.send_seconds)

        try:
            await self._app(scope, limited_receive, limited_send)
        except asyncio.TimeoutError:
            # The caller does not take the answer: the connection ends with the task.
            if not started:
                raise
        except Refusal as refusal:
            if started:
                raise
            await refusal.response()(scope, receive, send)

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "too_large",
            f"The body must be at most {self._options.max_upload} bytes long.",
            dict(_CLOSE),
        )


def patient_protocol(seconds: float) -> type[H11Protocol]:
    """HTTP/1.1 as uvicorn speaks it, with a limit on the time a request's head may take."""

    class PatientProtocol(H11Protocol):
        _watchdog: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._rest()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._rest()
            elif self._watchdog is None and not self.transport.is_closing():
                self._watchdog = asyncio.get_running_loop().call_later(seconds, self._give_up)

        def _rest(self) -> None:
            if self._watchdog is not None:
                self._watchdog.cancel()
                self._watchdog = None

        def _give_up(self) -> None:
            self._watchdog = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return PatientProtocol
