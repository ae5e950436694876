"""The routes: verbs, jobs, and what the server says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from . import openapi
from .answers import JSONAnswer, Refusal, accepted, refusal_of
from .bodies import read_body
from .engine import Engine, Work, time_over
from .gate import CALLER
from .jobs import DONE, Job, Jobs
from .settings import ServerOptions
from .verbs import VERBS, Verb

if TYPE_CHECKING:
    from .metrics import Metrics

LEFT = 499
"""Status of a request whose caller went away, for the log and the metrics."""


class Desk:
    """Where requests become work, and work becomes answers."""

    def __init__(self, engine: Engine, jobs: Jobs, options: ServerOptions) -> None:
        self.engine, self.jobs, self.options = engine, jobs, options
        self._rendering = anyio.CapacityLimiter(options.workers)

    async def render(self, render: Callable[[Any, str], Response], result: Any,
                     accept: str) -> Response:  # fmt: skip
        """An answer, made on a thread."""
        try:
            return await anyio.to_thread.run_sync(render, result, accept, limiter=self._rendering)
        except Exception as error:
            raise self.engine.refusal(error, "writing an answer") from None

    async def answer(self, request: Request, name: str, verb: Verb, wants_job: bool) -> Response:
        """One request of a verb: a place, the body, the work, the answer."""
        begun = time.monotonic()
        engine, options = self.engine, self.options
        slot = engine.admit()
        try:
            body = await read_body(request, verb.body)
            task = await anyio.to_thread.run_sync(verb.task, engine, body, options.max_pixels)
            del body
            accept = request.headers.get("accept", "")
            # Before any work is done.
            accepted(accept, task.offered)
            work = Work(name, task.call, begun + options.time_limit, task.image_key, task.ahead)
            if wants_job:
                job = Job(request.scope[CALLER], task.render, work)
                loop = asyncio.get_running_loop()
                work.watch = lambda *step: loop.call_soon_threadsafe(job.note, *step)
                self.jobs.add(job)
                work.done.add_done_callback(lambda _, slot=slot: slot.free())
                slot = None
                engine.submit(work)
                return JSONAnswer(job.describe(), 202, {"Location": f"/v1/jobs/{job.id}"})
            engine.submit(work)
            result = await _outcome(request, engine, work)
            return await self.render(task.render, result, accept)
        except ClientDisconnect:
            return Response(status_code=LEFT)
        except HTTPException:
            raise
        except Exception as error:
            raise engine.refusal(error, name) from None
        finally:
            if slot is not None:
                slot.free()


def verb_routes(desk: Desk) -> APIRouter:
    """`POST /v1/VERB` for every verb."""
    routes = APIRouter()

    def endpoint(name: str, verb: Verb) -> Callable[..., Awaitable[Response]]:
        async def ask(
            request: Request,
            wants_job: bool = Query(False, alias="async", description="answer with a job at once"),
        ) -> Response:
            return await desk.answer(request, name, verb, wants_job)

        return ask

    for name, verb in VERBS.items():
        routes.add_api_route(
            f"/v1/{name}", endpoint(name, verb), methods=["POST"], name=name,
            summary=verb.summary, **openapi.verb(verb),
        )  # fmt: skip
    return routes


def job_routes(desk: Desk) -> APIRouter:
    """How jobs stand, what they came to, and their end."""
    routes, jobs = APIRouter(), desk.jobs

    @routes.get(
        "/v1/jobs/{id}", summary="How a job stands", responses=openapi.job_responses(404, 422)
    )
    async def job(request: Request, id: str) -> Response:
        return JSONAnswer(jobs.get(id, request.scope[CALLER]).describe())

    @routes.get(
        "/v1/jobs/{id}/events",
        summary="A job's progress, as server-sent events",
        responses={
            200: {"description": "events", "content": {"text/event-stream": {}}},
            **openapi.refusals(401, 403, 404, 422),
        },
    )
    async def events(request: Request, id: str) -> Response:
        job = jobs.get(id, request.scope[CALLER])
        return StreamingResponse(job.events(), media_type="text/event-stream")

    @routes.get(
        "/v1/jobs/{id}/result", summary="A job's result", responses=openapi.result_responses()
    )
    async def result(request: Request, id: str) -> Response:
        job = jobs.get(id, request.scope[CALLER])
        if job.error is not None:
            raise Refusal(job.error.status, job.error.kind, job.error.message)
        if job.state != DONE:
            raise Refusal(409, "not_done", f"The job is {job.state}; its events say when it ends.")
        answer = await desk.render(job.render, job.result, request.headers.get("accept", ""))
        job.fetched = True
        return answer

    @routes.delete(
        "/v1/jobs/{id}",
        summary="Cancel a job, or forget one that has ended",
        responses=openapi.job_responses(404, 422),
    )
    async def cancel(request: Request, id: str) -> Response:
        job = jobs.get(id, request.scope[CALLER])
        if job.ended is not None:
            jobs.remove(job)
            return JSONAnswer(job.describe())
        desk.engine.cancel(job.work, "its owner asked for it")
        # Work that runs stops at its next step.
        with contextlib.suppress(asyncio.TimeoutError, Exception):
            await asyncio.wait_for(asyncio.shield(job.work.done), 2)
        await asyncio.sleep(0)
        return JSONAnswer(job.describe())

    return routes


def state_routes(engine: Engine, metrics: Metrics) -> APIRouter:
    """The model served, health and figures."""
    routes = APIRouter()

    @routes.get("/v1/models", summary="The model served", responses=openapi.refusals(401, 403))
    async def models() -> Response:
        return JSONAnswer({"models": [_describe(engine)]})

    @routes.get("/healthz", summary="Whether the process lives", responses=openapi.refusals(403))
    async def healthz() -> Response:
        return JSONAnswer({"status": "ok"})

    @routes.get("/readyz", summary="Whether work is taken in", responses=openapi.refusals(403, 503))
    async def readyz() -> Response:
        if engine.stopping or not engine.alive:
            raise Refusal(503, "stopping", "The server is stopping or not started.")
        return JSONAnswer({"status": "ready"})

    @routes.get(
        "/metrics",
        summary="Figures for Prometheus",
        responses={
            200: {"description": "figures", "content": {"text/plain": {}}},
            **openapi.refusals(401, 403),
        },
    )
    async def figures() -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        data = await anyio.to_thread.run_sync(generate_latest, metrics.registry)
        return Response(data, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return routes


async def _outcome(request: Request, engine: Engine, work: Work) -> Any:
    """What the work comes to; cancels it when its time is over or nobody waits any more."""
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait(
            {gone, work.done},
            timeout=max(0.0, work.deadline - time.monotonic()) + 1,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if work.done.done():
            error = work.done.exception()
            if error is not None:
                raise refusal_of(error)
            return work.done.result()
        if gone.done():
            raise ClientDisconnect()
        raise time_over()
    finally:
        gone.cancel()
        if not work.done.done():
            engine.cancel(work, "nobody waits for it any more")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _describe(engine: Engine) -> dict[str, Any]:
    model, captioner = engine.model, engine.captioner
    return {
        "name": model.name,
        "family": model.family,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "native_size": model.native_size,
        "captioner": model.name if captioner is None else captioner.name,
        "contrast": dataclasses.asdict(model.contrast_defaults),
        "refine": dataclasses.asdict(model.refine_defaults),
    }
