"""Where other workers and front doors connect: a socket of this process alone, no pickle on it.

A caller first proves that it knows this process's secret, which only Ray's own authenticated channel tells; then every
frame is a length and JSON. A worker's frames hold messages about transfers, and each is answered with one byte. A front
door's first frame subscribes it; from then on both sides say what `core/door.py` has, one message a frame.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from services.core.actions import PeerMessage
from services.core.door import Subscribe
from services.core.errors import ConfigError, PortBusyError
from services.core.frames import LENGTH, NONCE_BYTES, PROOF_BYTES, frame_length, pack_frame, proof, unpack_frame
from services.core.peer import PeerBody
from services.core.request import WorkerRef

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
HANDSHAKE_S = 5.0
TAKEN, NOT_MINE = b"\x01", b"\x00"


class DoorLine(Protocol):
    """One front door's connection."""

    def take(self, message: object) -> None:
        """A message arrived; ConnectionError or ValueError end the connection."""

    def close(self) -> None:
        """The connection ended."""


class FrontDoors(Protocol):
    """Who serves front doors."""

    def open(self, hello: Subscribe, connection: asyncio.WriteTransport) -> DoorLine:
        """A front door subscribes; frames for it go to `connection`."""


def pack_messages(source: WorkerRef, to: WorkerRef, sequence: int, bodies: tuple[PeerBody, ...]) -> bytes:
    """A frame of messages of `source` in order, `sequence` being that of the first."""
    return pack_frame((source, to, sequence, bodies))


def unpack_messages(frame: Any) -> tuple[WorkerRef, WorkerRef, int, tuple[PeerBody, ...]]:
    """What `pack_messages` was given, of what `unpack_frame` returned.

    Raises:
        ValueError: it is something else.
    """
    try:
        source, to, sequence, bodies = frame
        known = isinstance(source, WorkerRef) and isinstance(to, WorkerRef) and isinstance(sequence, int)
        if not known or not all(isinstance(body, PeerBody) for body in bodies):
            raise ValueError("not a frame of peer messages")
    except TypeError as error:
        raise ValueError(f"not a frame: {error!r}") from error
    return source, to, sequence, bodies


class PeerServer:
    """Takes what other workers and front doors say, each source's messages in order.

    Args:
        me: messages for an earlier process of this name are refused.
        feed: takes other workers' messages, on the event loop.
        front_doors: serves front doors.

    Attributes:
        address: "host:port", empty before `start`.
        secret: of this process; told by actor call alone.
    """

    def __init__(self, me: WorkerRef, feed: Callable[[PeerMessage], None], front_doors: FrontDoors) -> None:
        self._me = me
        self._feed = feed
        self._front_doors = front_doors
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self.address = ""
        self.secret = secrets.token_bytes(32)

    async def start(self, host: str, ports: tuple[int, int]) -> None:
        """Listen on the first free port of the range; (0, 0): any free one.

        Raises:
            ConfigError: the host is no address of this machine.
            PortBusyError: every port of the range is taken.
        """
        for port in range(ports[0], ports[1] + 1):
            try:
                self._server = await asyncio.start_server(self._serve, host, port)
            except OSError as error:
                if port == 0:
                    raise ConfigError(
                        "worker.host", host, f"cannot listen here ({error}); use a local address"
                    ) from error
            else:
                self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"
                return
        raise PortBusyError(f"worker.peer_ports = {list(ports)}: every port is taken; give a wider range or [0, 0]")

    def close(self) -> None:
        """Stop listening and hang up."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._connections):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One caller, until it hangs up or says something wrong."""
        if len(self._connections) >= MAX_CONNECTIONS:
            logger.warning("a connection was refused: there are %d", MAX_CONNECTIONS)
            writer.close()
            return
        self._connections.add(writer)
        try:
            nonce = secrets.token_bytes(NONCE_BYTES)
            writer.write(nonce)
            async with asyncio.timeout(HANDSHAKE_S):
                given = await reader.readexactly(PROOF_BYTES)
            if not hmac.compare_digest(given, proof(self.secret, nonce)):
                logger.warning("a connection was refused: wrong secret")
                return
            while True:
                frame = await read_frame(reader)
                if isinstance(frame, Subscribe):
                    await self._serve_front_door(frame, reader, writer)
                    return
                writer.write(self._take(frame))
        except ValueError as error:
            logger.warning("a connection was closed: %s", error)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # it hung up; whoever still has something to say connects again
        finally:
            self._connections.discard(writer)
            with suppress(OSError):
                writer.close()

    async def _serve_front_door(
        self, hello: Subscribe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if hello.to != self._me:
            raise ValueError(f"it is for incarnation {hello.to.incarnation:x}")
        line = self._front_doors.open(hello, writer.transport)
        try:
            while True:
                line.take(await read_frame(reader))
        finally:
            line.close()

    def _take(self, frame: Any) -> bytes:
        source, to, sequence, bodies = unpack_messages(frame)
        if to != self._me:
            return NOT_MINE
        for offset, body in enumerate(bodies):
            self._feed(PeerMessage(source, sequence + offset, body))
        return TAKEN


async def read_frame(reader: asyncio.StreamReader) -> Any:
    """The next message of a connection.

    Raises:
        ValueError: it is no frame.
        asyncio.IncompleteReadError: the other side hung up.
    """
    return unpack_frame(await reader.readexactly(frame_length(await reader.readexactly(LENGTH.size))))
