"""The HTTP side of health: four small endpoints, errors in OpenAI's shape, on a socket made by hand."""

from __future__ import annotations

import contextlib
import http
import socket
import ssl
from collections.abc import Callable, Iterator

import fastapi
import uvicorn
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from services.frontdoor.metrics_http import add_metrics
from services.telemetry.exporter import Exporter


def make_app(
    ready: Callable[[], bool], cluster_id: str, version: str, exporter: Exporter | None = None
) -> fastapi.FastAPI:
    """The application.

    Args:
        ready: whether a request sent now would find workers.
        exporter: what /metrics shows; None: there is no such path.
    """
    app = fastapi.FastAPI(title="Triptych", version=version, docs_url=None, redoc_url=None, openapi_url=None)

    async def readiness() -> JSONResponse:
        is_ready = ready()
        return JSONResponse({"status": "ok" if is_ready else "not ready"}, status_code=200 if is_ready else 503)

    async def liveness() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def about() -> JSONResponse:
        return JSONResponse({"version": version, "cluster_id": cluster_id})

    async def failed(request: fastapi.Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {http.HTTPStatus(error.status_code).phrase}"
        body = {"message": message, "type": "invalid_request_error", "param": None, "code": code(error.status_code)}
        return JSONResponse({"error": body}, status_code=error.status_code, headers=error.headers)

    app.add_api_route("/health", readiness, methods=["GET"])
    app.add_api_route("/readyz", readiness, methods=["GET"])
    app.add_api_route("/livez", liveness, methods=["GET"])
    app.add_api_route("/version", about, methods=["GET"])
    if exporter is not None:
        add_metrics(app, exporter)
    app.add_exception_handler(HTTPException, failed)
    return app


def code(status: int) -> str:
    """Machine-readable name of a status: `not_found`, `method_not_allowed`."""
    return http.HTTPStatus(status).name.lower()


def reusable_socket(host: str, port: int) -> socket.socket:
    """A bound TCP socket that other front doors of this cluster may share; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    return listener


class HttpServer(uvicorn.Server):
    """uvicorn inside somebody else's process: it leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield


def make_server(app: fastapi.FastAPI, tls: ssl.SSLContext | None = None) -> HttpServer:
    """A server for the application; run it with `serve(sockets=[...])`, end it with `should_exit = True`."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", loop="none", timeout_graceful_shutdown=2
    )
    config.load()
    config.ssl = tls  # a context of our own, whose certificate can be loaded again
    return HttpServer(config)
