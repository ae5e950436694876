"""`/docs`: the description as a page to read and to try, from files that lie on this machine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response
from starlette.staticfiles import StaticFiles


def mount_docs(app: FastAPI) -> None:
    """Put Swagger UI at "/docs", where fastapi-offline, which carries its files, is installed."""
    found = find_spec("fastapi_offline")
    if found is None or found.origin is None:
        return
    # Importing it would bring an application of its own.
    app.mount("/docs/static", StaticFiles(directory=Path(found.origin).parent / "static"))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="textseg over HTTP",
            swagger_js_url="/docs/static/swagger-ui-bundle.js",
            swagger_css_url="/docs/static/swagger-ui.css",
            swagger_favicon_url="/docs/static/favicon.png",
            swagger_ui_parameters={"defaultModelsExpandDepth": 0},
        )
