"""The application: what is common to all routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match

from .. import __version__
from ..errors import TextsegError
from . import openapi
from .answers import Refusal, on_refusal
from .docs_page import mount_docs
from .engine import Engine
from .gate import SESSION_HEADER, Gate
from .jobs import Jobs
from .limits import Limits
from .metrics import Measured, Metrics
from .routes import Desk, job_routes, state_routes, verb_routes
from .sentences import sentence
from .settings import ServerOptions

if TYPE_CHECKING:
    from ..backbone.base import Backbone
    from ..captioning import BlipCaptioner

DESCRIPTION = f"""\
Cut out, edit, make and name what is in images. Send JSON with base64 files or a multipart form;
`Accept` chooses between JSON, a PNG and a zip. With `async=true` the answer is a job, whose
progress is a stream of events. Jobs are seen by who started them only: the same token and the same
`{SESSION_HEADER}` header."""


def build(
    model: Backbone, options: ServerOptions, captioner: BlipCaptioner | None = None
) -> FastAPI:
    """The application; `app.state.engine` and `app.state.jobs` are its insides."""
    engine, jobs = Engine(model, options, captioner), Jobs(options)
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
        # FastAPI's own pages fetch scripts from elsewhere.
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
    desk = Desk(engine, jobs, options)
    routers = (verb_routes(desk), job_routes(desk), state_routes(engine, metrics))
    for router in routers:
        app.include_router(router)
    described = app.openapi
    app.openapi = lambda: openapi.complete(described())  # pyright: ignore[reportAttributeAccessIssue]
    mount_docs(app)
    if options.studio:
        _mount_studio(app, model, [route for router in routers for route in router.routes])
    return app


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
    return Refusal(422, "bad_input", sentence({**first, "loc": first["loc"][1:]})).response()


def _mount_studio(app: FastAPI, model: Backbone, served: Sequence[BaseRoute]) -> None:
    """Put the studio at "/", where Gradio and the studio are installed, beside what is `served`."""
    if find_spec("gradio") is None or find_spec("textseg.studio") is None:
        return
    from ..studio import mount

    @app.api_route(
        "/v1/{rest:path}",
        methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
        include_in_schema=False,
    )
    async def unknown(request: Request, rest: str) -> Response:
        # The studio's own pages take every path that is left.
        scope = dict(request.scope)
        near = [route for route in served if route.matches(scope)[0] is Match.PARTIAL]
        methods = {method for route in near for method in getattr(route, "methods", ())}
        if methods:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(methods))})
        raise HTTPException(404)

    mount(app, "/", model)
