"""What surrounds the HTTP application: names each request, enters the layers, bounds its body, answers its errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from services.core.clock import Clock
from services.core.errors import InternalError, InvalidRequestError, TooLargeError, TriptychError
from services.frontdoor.call import current_call, new_call
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.http_connection import RECEIVED_NS, App, Message, Receive, Send
from services.frontdoor.http_errors import (
    HeadersTooLargeError,
    MediaTypeError,
    SlowRequestError,
    error_response,
)
from services.frontdoor.layers import LIMITED_METHODS, OPEN_PATHS, Layer

logger = logging.getLogger(__name__)

TIMEOUT_HEADER = "x-request-timeout-ms"
"""The client's budget for the whole request, in milliseconds; gRPC clients set a deadline instead."""
MODELS = "/v1/models"
MS_PER_S = 1000


class HttpDoor:
    """An ASGI application around another one.

    Args:
        app: the routes.
        layers: around every request, outermost first; the same as those of the gRPC door.
    """

    def __init__(self, app: App, layers: Sequence[Layer], clock: Clock, config: FrontDoorConfig) -> None:
        self._app = app
        self._layers = layers
        self._clock = clock
        self._config = config

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        remaining_s = budget_s(headers)
        limits = self._config.default_deadline_s, self._config.max_deadline_s
        received_ns = scope.get("extensions", {}).get(RECEIVED_NS)
        call = new_call(self._clock, route_of(scope["path"]), headers, remaining_s, *limits, received_ns=received_ns)
        current_call.set(call)
        started = False

        async def tell(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                named = (b"x-request-id", call.request_id.encode()), (b"traceparent", call.trace.header.encode())
                message["headers"] = [*message.get("headers", ()), *named]
            await send(message)

        try:
            with contextlib.ExitStack() as stack:
                if remaining_s is None and TIMEOUT_HEADER in headers:
                    raise InvalidRequestError(TIMEOUT_HEADER, "is not a whole number of milliseconds above 0")
                for layer in self._layers:
                    stack.enter_context(layer(call))
                self._check_headers(scope)
                body = await self._body(scope["method"], headers, receive)
                await self._app(scope, once(body, receive), tell)
                if call.failure is not None:  # so that the layers see how it ended
                    raise call.failure
        except TriptychError as error:
            if not started:
                await error_response(error)(scope, receive, tell)
        except Exception as error:
            logger.error("request %s failed", call.request_id, exc_info=error)
            if not started:
                message = f"request {call.request_id} failed inside the server; its log has the details"
                await error_response(InternalError(message))(scope, receive, tell)
        finally:
            call.over(self._clock.now_ns())

    def _check_headers(self, scope: Any) -> None:
        most = self._config.http.max_header_bytes
        if sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope["raw_path"]) > most:
            raise HeadersTooLargeError(f"the headers are above {most} bytes; send less of them")

    async def _body(self, method: str, headers: Mapping[str, str], receive: Receive) -> bytes:
        """The whole body.

        Raises:
            TooLargeError: it is above the limit.
            SlowRequestError: it did not come in time, or the client went away.
            MediaTypeError: it is not said to be JSON.
        """
        limits = self._config.http
        too_large = TooLargeError(f"the body is above {limits.max_body_bytes} bytes; send less")
        stated = headers.get("content-length", "")
        if stated.isascii() and stated.isdigit() and int(stated[:20]) > limits.max_body_bytes:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise SlowRequestError("the client went away before its body was complete")
                    body += message.get("body", b"")
                    if len(body) > limits.max_body_bytes:
                        raise too_large
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise SlowRequestError(f"the body did not come within {limits.body_timeout_s:g} s; send again") from None
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and body and kind != "application/json":
            raise MediaTypeError("content-type", f"{kind[:80]!r} is not read here; send application/json")
        return bytes(body)


def route_of(path: str) -> str:
    """What layers and metrics call a path; a client can make up any number of others."""
    if path in (*OPEN_PATHS, *LIMITED_METHODS, MODELS):
        return path
    return f"{MODELS}/{{model_id}}" if path.startswith(f"{MODELS}/") else "other"


def once(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, and then what else the connection says."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return left.pop() if left else await receive()

    return read


def budget_s(headers: Mapping[str, str]) -> float | None:
    """The client's budget; None when there is none that can be read."""
    text = headers.get(TIMEOUT_HEADER, "")
    is_right = text.isascii() and text.isdigit() and len(text) < 12 and int(text) > 0
    return int(text) / MS_PER_S if is_right else None
