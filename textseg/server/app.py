"""The routes, and what is common to them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match

from .. import __version__
from ..errors import TextsegError
from . import openapi
from .answers import JSONAnswer, Refusal, accepted, on_refusal, refusal_of
from .bodies import CaptionBody, EditBody, GenerateBody, SegmentBody, read_body
from .engine import Engine, Work, time_over
from .gate import CALLER, SESSION_HEADER, Gate
from .jobs import DONE, Job, Jobs
from .limits import Limits
from .metrics import Measured, Metrics
from .settings import ServerOptions
from .verbs import Task, caption_task, edit_task, generate_task, segment_task

if TYPE_CHECKING:
    from ..backbone.base import Backbone
    from ..captioning import BlipCaptioner

DESCRIPTION = f"""\
Cut out, edit, make and name what is in images. Send JSON with base64 files or a multipart form;
`Accept` chooses between JSON, a PNG and a zip. With `async=true` the answer is a job, whose
progress is a stream of events. Jobs are seen by who started them only: the same token and the same
`{SESSION_HEADER}` header."""

LEFT = 499
"""Status of a request whose caller went away, for the log and the metrics."""


def build(
    model: Backbone, options: ServerOptions, captioner: BlipCaptioner | None = None
) -> FastAPI:
    """The application; `app.state.engine` and `app.state.jobs` are its insides."""
    engine, jobs = Engine(model, options), Jobs(options)
    metrics = Metrics(engine, jobs)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            if not engine.stopping:
                await engine.drain(options.grace)
            await asyncio.to_thread(engine.close)

    app = FastAPI(
        title="textseg",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # Their pages would fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.engine, app.state.jobs, app.state.options = engine, jobs, options
    app.add_exception_handler(Refusal, on_refusal)
    app.add_exception_handler(TextsegError, on_refusal)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_bad_parameter)
    app.add_exception_handler(Exception, on_refusal)
    app.add_middleware(Limits, options=options)
    app.add_middleware(Gate, options=options)
    app.add_middleware(Measured, metrics=metrics)
    rendering = anyio.CapacityLimiter(options.workers)

    async def render(render: Callable[[Any, str], Response], result: Any, accept: str) -> Response:
        try:
            return await anyio.to_thread.run_sync(render, result, accept, limiter=rendering)
        except Exception as error:
            raise engine.refusal(error, "writing an answer") from None

    async def answer(
        request: Request,
        kind: str,
        wants_job: bool,
        body_type: Any,
        make: Callable[..., Task],
        *more: Any,
    ) -> Response:
        """One request of a verb: a place, the body, the work, the answer."""
        begun = time.monotonic()
        slot = engine.admit()
        try:
            body = await read_body(request, body_type)
            task = await anyio.to_thread.run_sync(make, engine, body, options.max_pixels, *more)
            del body
            accept = request.headers.get("accept", "")
            refuse_early(task, accept)
            work = Work(kind, task.call, begun + options.time_limit, task.image_key, task.ahead)
            if wants_job:
                job = Job(request.scope[CALLER], task.render, work)
                loop = asyncio.get_running_loop()
                work.watch = lambda *step: loop.call_soon_threadsafe(job.note, *step)
                jobs.add(job)
                work.done.add_done_callback(lambda _, slot=slot: slot.free())
                slot = None
                engine.submit(work)
                location = {"Location": f"/v1/jobs/{job.id}"}
                return JSONAnswer(job.describe(), 202, location)
            engine.submit(work)
            result = await _outcome(request, engine, work)
            return await render(task.render, result, accept)
        except ClientDisconnect:
            return Response(status_code=LEFT)
        except HTTPException:
            raise
        except Exception as error:
            raise engine.refusal(error, kind) from None
        finally:
            if slot is not None:
                slot.free()

    wants_job = Query(False, alias="async", description="answer with a job at once")

    @app.post("/v1/segment", summary="Cut out what queries name", **openapi.verb("SegmentBody"))
    async def segment(request: Request, wants_job: bool = wants_job) -> Response:
        return await answer(request, "segment", wants_job, SegmentBody, segment_task)

    @app.post("/v1/edit", summary="Change what a query names", **openapi.verb("EditBody"))
    async def edit(request: Request, wants_job: bool = wants_job) -> Response:
        return await answer(request, "edit", wants_job, EditBody, edit_task)

    @app.post("/v1/generate", summary="Make images", **openapi.verb("GenerateBody"))
    async def generate(request: Request, wants_job: bool = wants_job) -> Response:
        return await answer(request, "generate", wants_job, GenerateBody, generate_task)

    @app.post(
        "/v1/caption",
        summary="Say what an image shows",
        **openapi.verb("CaptionBody", pictures=False),
    )
    async def caption(request: Request, wants_job: bool = wants_job) -> Response:
        return await answer(request, "caption", wants_job, CaptionBody, caption_task, captioner)

    @app.get("/v1/jobs/{id}", summary="How a job stands", responses=openapi.job_responses(404, 422))
    async def job(request: Request, id: str) -> Response:
        return JSONAnswer(jobs.get(id, request.scope[CALLER]).describe())

    @app.get(
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

    @app.get("/v1/jobs/{id}/result", summary="A job's result", responses=openapi.result_responses())
    async def result(request: Request, id: str) -> Response:
        job = jobs.get(id, request.scope[CALLER])
        if job.error is not None:
            raise Refusal(job.error.status, job.error.kind, job.error.message)
        if job.state != DONE:
            raise Refusal(409, "not_done", f"The job is {job.state}; its events say when it ends.")
        answer = await render(job.render, job.result, request.headers.get("accept", ""))
        job.fetched = True
        return answer

    @app.delete(
        "/v1/jobs/{id}",
        summary="Cancel a job, or forget one that has ended",
        responses=openapi.job_responses(404, 422),
    )
    async def cancel(request: Request, id: str) -> Response:
        job = jobs.get(id, request.scope[CALLER])
        if job.ended is not None:
            jobs.remove(job)
            return JSONAnswer(job.describe())
        engine.cancel(job.work, "its owner asked for it")
        # Work that runs stops at its next step.
        with contextlib.suppress(asyncio.TimeoutError, Exception):
            await asyncio.wait_for(asyncio.shield(job.work.done), 2)
        await asyncio.sleep(0)
        return JSONAnswer(job.describe())

    @app.get("/v1/models", summary="The model served", responses=openapi.refusals(401, 403))
    async def models() -> Response:
        return JSONAnswer({"models": [_describe(model, captioner)]})

    @app.get("/healthz", summary="Whether the process lives", responses=openapi.refusals(403))
    async def healthz() -> Response:
        return JSONAnswer({"status": "ok"})

    @app.get("/readyz", summary="Whether work is taken in", responses=openapi.refusals(403, 503))
    async def readyz() -> Response:
        if engine.stopping or not engine.alive:
            raise Refusal(503, "stopping", "The server is stopping or not started.")
        return JSONAnswer({"status": "ready"})

    @app.get(
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

    described = app.openapi
    app.openapi = lambda: openapi.complete(described())  # pyright: ignore[reportAttributeAccessIssue]
    if options.studio:
        _mount_studio(app, model)
    return app


def refuse_early(task: Task, accept: str) -> None:
    """Refuses an Accept header that no answer can fit, before any work is done."""
    accepted(accept, task.offered)


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


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {404: "There is nothing at this path.", 405: "This path takes another method."}
    message = sentences.get(error.status_code, str(error.detail))
    kinds = {404: "not_found", 405: "wrong_method"}
    kind = kinds.get(error.status_code, "bad_request")
    headers = dict(error.headers or {})
    return Refusal(error.status_code, kind, message, headers).response()


async def _on_bad_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    return Refusal(422, "bad_input", f"{name}: {first['msg']}.").response()


def _describe(model: Backbone, captioner: BlipCaptioner | None) -> dict[str, Any]:
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


def _mount_studio(app: FastAPI, model: Backbone) -> None:
    """Put the studio at "/", where Gradio and the studio are installed."""
    if find_spec("gradio") is None or find_spec("textseg.studio") is None:
        return
    from ..studio import mount

    @app.api_route(
        "/v1/{rest:path}",
        methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        include_in_schema=False,
    )
    async def unknown(request: Request, rest: str) -> Response:
        # The studio's own pages take every path that is left.
        scope = dict(request.scope)
        near = [route for route in app.routes if route.matches(scope)[0] is Match.PARTIAL]
        methods = {method for route in near for method in getattr(route, "methods", ())}
        if methods:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(methods))})
        raise HTTPException(404)

    mount(app, "/", model)
