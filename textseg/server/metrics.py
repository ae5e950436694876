"""Figures for Prometheus."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from .engine import Engine
    from .jobs import Jobs

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The figures of one server."""

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        self.registry = CollectorRegistry()
        self._engine, self._jobs = engine, jobs
        self.requests = Counter(
            "textseg_requests",
            "Requests answered.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "textseg_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.registry.register(self)  # pyright: ignore[reportArgumentType]
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def collect(self) -> Iterable[Metric]:
        """What the engine and the jobs say of themselves."""
        engine = self._engine
        for name, text, value in (
            ("inside", "Requests taken in and not answered.", engine.inside),
            ("waiting", "Pieces of work no worker has taken.", engine.waiting),
            ("running", "Pieces of work on the workers.", engine.running),
        ):
            yield GaugeMetricFamily(f"textseg_{name}", text, value=value)
        for name, text, value in (
            ("batches", "Calls that predicted for several requests.", engine.batches),
            ("batched_requests", "Requests predicted for together.", engine.batched),
            ("failures", "Pieces of work that ended in an unforeseen error.", engine.failures),
        ):
            yield CounterMetricFamily(f"textseg_{name}", text, value=value)
        jobs = GaugeMetricFamily("textseg_jobs", "Jobs by state.", labels=["state"])
        for state, count in Tally(job.state for job in self._jobs).items():
            jobs.add_metric([state], count)
        yield jobs


class Measured:
    """ASGI middleware that counts and times requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # The route's pattern, so that callers cannot make up labels.
            route = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - begun)


_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
