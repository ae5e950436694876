"""The process: listening, and stopping without breaking anything off."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from ..errors import InputError
from .engine import Engine
from .jobs import DONE, Jobs
from .limits import patient_protocol
from .settings import ServerOptions

LAST_FETCH = 5.0
"""Seconds that the watcher of a job which ended during the stop has to fetch its result."""


class GracefulServer(uvicorn.Server):
    """uvicorn that drains before it closes its doors.

    Told to stop, it goes on listening while running work ends, so that results can be fetched, but
    takes in nothing new. Told twice, it hurries.
    """

    def __init__(self, app: FastAPI, options: ServerOptions, on_start: Callable[[str], None]):
        config = uvicorn.Config(
            app,
            host=options.host,
            port=options.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            http=patient_protocol(options.head_seconds),
            backlog=128,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=10,
            h11_max_incomplete_event_size=64 * 1024,
        )
        super().__init__(config)
        self._engine: Engine = app.state.engine
        self._jobs: Jobs = app.state.jobs
        self._options, self._on_start = options, on_start
        self._end_streams: Callable[[], None] = getattr(app.state, "end_streams", lambda: None)
        self._told = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._told = time.time()
        await self._engine.drain(self._options.grace, lambda: self.force_exit)
        end = asyncio.get_running_loop().time() + LAST_FETCH
        while self._unfetched() and asyncio.get_running_loop().time() < end:
            if self.force_exit:
                break
            await asyncio.sleep(0.1)
        self._end_streams()
        await super().shutdown(sockets)

    def _unfetched(self) -> bool:
        """Whether somebody is about to fetch a result that came during the stop."""
        return any(
            job.state == DONE and job.watched and not job.fetched and (job.ended or 0) >= self._told
            for job in self._jobs
        )


def serve(app: FastAPI, options: ServerOptions, on_start: Callable[[str], None]) -> None:
    """Listen until told to stop.

    Args:
        on_start: told the address once connections are taken.

    Raises:
        InputError: the address cannot be listened on.
    """
    server = GracefulServer(app, options, on_start)
    try:
        server.run()
    except SystemExit:
        # How uvicorn says so; its log says why.
        raise InputError(
            f"host and port must be free to listen on, got {options.host}:{options.port}"
        ) from None
