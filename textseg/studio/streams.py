"""The streams that keep open pages up to date, and their end when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class Streams:
    """ASGI middleware under which a stopping server need not wait for pages to be closed.

    Args:
        app: what it is around.
        ended: once set, what streams to pages is told that its reader has left.
    """

    def __init__(self, app: Any, ended: asyncio.Event) -> None:
        self._app, self._ended = app, ended

    async def __call__(self, scope: Message, receive: Receive, send: Any) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] != "GET"
            or "/gradio_api/" not in scope["path"]
        ):
            return await self._app(scope, receive, send)

        async def receive_until_the_end() -> Message:
            told = asyncio.ensure_future(receive())
            over = asyncio.ensure_future(self._ended.wait())
            try:
                await asyncio.wait({told, over}, return_when=asyncio.FIRST_COMPLETED)
                return told.result() if told.done() else {"type": "http.disconnect"}
            finally:
                told.cancel()
                over.cancel()

        await self._app(scope, receive_until_the_end, send)
