"""HTTP connections: uvicorn's, with bounds on what a client may hold open, on a socket made by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, TypeAlias

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.core.clock import Clock, WallClock
from services.core.errors import TriptychError
from services.frontdoor.config import HttpConfig
from services.frontdoor.http_errors import BadHttpError, HeadersTooLargeError, SlowRequestError, error_body

ABORT = "triptych.abort"
"""Extension of a scope: a function that drops the connection, whatever the client has not read yet."""
RECEIVED_NS = "triptych.received_ns"
"""Extension of a scope: when the first byte of the request was read, on this process's monotonic clock."""
STOP_S = 2
LINGER_S = 10.0
"""How long the rest of a body is still taken, and thrown away, after its request was answered."""

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def protocol(config: HttpConfig) -> type[HttpToolsProtocol]:
    """The connection class with its limits, as uvicorn wants it."""

    class Connection(BoundedConnection):
        limits = config

    return Connection


class BoundedConnection(HttpToolsProtocol):
    """One client's connection.

    uvicorn bounds neither the time nor the size of headers; a client that sends them byte by byte would hold a
    connection for ever. What goes wrong before a request exists is answered here, in OpenAI's shape.
    """

    limits: HttpConfig
    clock: Clock = WallClock()
    _received_ns = 0
    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Refuse one too many; start to wait for the headers."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            transport.abort()
            return
        self._wait(self.limits.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._unset()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to headers that are not complete."""
        was_in_head = self._in_head
        super().data_received(data)
        if was_in_head and self._in_head and not self.transport.is_closing():
            if self._timer is None:  # line ends between requests begin none, and would hold the connection
                self._wait(self.limits.header_timeout_s)
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.max_header_bytes:
                most = self.limits.max_header_bytes
                self._refuse(HeadersTooLargeError(f"the headers are above {most} bytes; send less of them"))

    def on_message_begin(self) -> None:
        """A request begins."""
        self._received_ns = self.clock.now_ns()
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._wait(self.limits.header_timeout_s)

    def on_headers_complete(self) -> None:
        """The headers are there."""
        self._in_head = False
        self._unset()
        extensions = {ABORT: self.transport.abort, RECEIVED_NS: self._received_ns}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]  # any name is allowed
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the rest of the body, if any: a client that still sends it would not see the answer otherwise."""
        is_last = not self.pipeline
        super().on_response_complete()
        if not is_last or self.transport.is_closing():
            return
        if self.cycle.more_body:
            self._unset()
            self._timer = self.loop.call_later(LINGER_S, self.transport.abort)
        else:
            self._expect_head()

    def on_message_complete(self) -> None:
        """The whole request is there."""
        if self.cycle.response_complete:
            self._unset()
            self._expect_head()
        super().on_message_complete()

    def _expect_head(self) -> None:
        if not self._in_head:  # else part of it is there
            self._in_head, self._head_bytes = True, 0

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the bytes are no HTTP."""
        self._refuse(BadHttpError("what was sent is not HTTP/1.1"))

    def _wait(self, at_most_s: float) -> None:
        self._unset()
        self._timer = self.loop.call_later(at_most_s, self._late)

    def _late(self) -> None:
        if self._head_bytes and (self.cycle is None or self.cycle.response_complete):
            seconds = f"{self.limits.header_timeout_s:g}"
            self._refuse(SlowRequestError(f"the headers did not come within {seconds} s; send again"))
        else:
            self.transport.close()

    def _unset(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: TriptychError) -> None:
        """Answer, when no other answer is under way, and close."""
        self._unset()
        if self.cycle is None or self.cycle.response_complete:
            body = json.dumps(error_body(error)).encode()
            head = f"HTTP/1.1 {error.http_status} Refused\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()


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

    def stop_accepting(self) -> None:
        """Let new connections go to the other front doors; those that are open go on."""
        for listener in getattr(self, "servers", ()):
            listener.close()


def make_server(app: App, limits: HttpConfig, tls: ssl.SSLContext | None = None) -> HttpServer:
    """A server for the application; run it with `serve(sockets=[...])`, end it with `should_exit = True`."""
    config = uvicorn.Config(
        app,
        http=protocol(limits),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        loop="none",
        timeout_keep_alive=limits.idle_timeout_s,  # type: ignore[arg-type]  # passed on to call_later
        timeout_graceful_shutdown=STOP_S,
    )
    config.load()
    config.ssl = tls  # a context of our own, whose certificate can be loaded again
    return HttpServer(config)
