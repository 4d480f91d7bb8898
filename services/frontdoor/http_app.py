"""The HTTP application: health and version here, the OpenAI API beside them, every failure in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastapi
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from services.core.errors import InternalError, TriptychError
from services.frontdoor import openai_schema as schema
from services.frontdoor.call import current_call
from services.frontdoor.http_errors import error_response, from_framework, from_validation
from services.frontdoor.metrics_http import add_metrics
from services.frontdoor.openai_http import OpenAiApi, add_chunks
from services.telemetry.exporter import Exporter

NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": schema.Status, "description": "No workers for all stages."}
}


def make_app(
    ready: Callable[[], bool], cluster_id: str, version: str, exporter: Exporter, api: OpenAiApi
) -> fastapi.FastAPI:
    """The application, to be put behind an `HttpDoor`.

    Args:
        ready: whether a request sent now would find workers.
        exporter: what /metrics shows.
    """
    app = fastapi.FastAPI(title="Triptych", version=version, docs_url=None, redoc_url=None, redirect_slashes=False)

    async def readiness() -> JSONResponse:
        """Whether a request sent now would find workers."""
        is_ready = ready()
        return JSONResponse({"status": "ok" if is_ready else "not ready"}, status_code=200 if is_ready else 503)

    async def liveness() -> schema.Status:
        """Whether this process serves."""
        return schema.Status(status="ok")

    async def about() -> schema.About:
        """Which server this is."""
        return schema.About(version=version, cluster_id=cluster_id)

    app.add_api_route("/health", readiness, methods=["GET"], response_model=schema.Status, responses=NOT_READY)
    app.add_api_route("/readyz", readiness, methods=["GET"], response_model=schema.Status, responses=NOT_READY)
    app.add_api_route("/livez", liveness, methods=["GET"])
    app.add_api_route("/version", about, methods=["GET"])
    add_metrics(app, exporter)
    api.add_to(app)
    for kind in (TriptychError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, failed)
    add_chunks(app.openapi())  # which keeps the document that it made
    return app


async def failed(request: fastapi.Request, error: Exception) -> JSONResponse:
    """The answer to a request that failed, and a note of it for the layers."""
    call = current_call.get()
    headers = {}
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        error = from_framework(error, request.method, request.url.path)
    elif isinstance(error, RequestValidationError):
        error = from_validation(error)
    elif not isinstance(error, TriptychError):
        error = InternalError(f"request {call.request_id} failed inside the server; its log has the details")
    assert isinstance(error, TriptychError)
    call.failure = error
    return error_response(error, headers)
