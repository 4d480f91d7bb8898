"""Where other workers bring their messages about transfers: a socket of this process alone, no pickle on it.

A caller first proves that it knows this process's secret, which only Ray's own authenticated channel tells; then every
frame is a length and JSON, and is answered with one byte.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import struct
from collections.abc import Callable
from contextlib import suppress

from services.core.actions import PeerMessage
from services.core.codec import decode, encode
from services.core.errors import ConfigError, PortBusyError
from services.core.peer import PeerBody
from services.core.request import WorkerRef

logger = logging.getLogger(__name__)

LENGTH = struct.Struct("<I")
NONCE_BYTES, PROOF_BYTES = 32, 32
MAX_FRAME_BYTES = 64 << 20
MAX_CONNECTIONS = 256
HANDSHAKE_S = 5.0
TAKEN, NOT_MINE = b"\x01", b"\x00"


def proof(secret: bytes, nonce: bytes) -> bytes:
    """What a caller answers to the server's nonce."""
    return hmac.digest(secret, nonce, "sha256")


def pack_frame(source: WorkerRef, to: WorkerRef, sequence: int, bodies: tuple[PeerBody, ...]) -> bytes:
    """Messages of `source` in order, `sequence` being that of the first, with the length in front."""
    text = json.dumps([encode(source), encode(to), sequence, encode(bodies)], separators=(",", ":")).encode()
    return LENGTH.pack(len(text)) + text


def unpack_frame(text: bytes) -> tuple[WorkerRef, WorkerRef, int, tuple[PeerBody, ...]]:
    """The inverse of `pack_frame`, without the length.

    Raises:
        ValueError: it is something else.
    """
    try:
        source, to, sequence, bodies = decode(json.loads(text))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a frame: {error!r}") from error
    known = isinstance(source, WorkerRef) and isinstance(to, WorkerRef) and isinstance(sequence, int)
    if not known or not all(isinstance(body, PeerBody) for body in bodies):
        raise ValueError("not a frame of peer messages")
    return source, to, sequence, bodies


class PeerServer:
    """Takes the messages of other workers and feeds them to this one, each source's in order.

    Args:
        me: messages for an earlier process of this name are refused.
        feed: takes the events, on the event loop.

    Attributes:
        address: "host:port", empty before `start`.
        secret: of this process; told by actor call alone.
    """

    def __init__(self, me: WorkerRef, feed: Callable[[PeerMessage], None]) -> None:
        self._me = me
        self._feed = feed
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
            logger.warning("a peer connection was refused: there are %d", MAX_CONNECTIONS)
            writer.close()
            return
        self._connections.add(writer)
        try:
            nonce = secrets.token_bytes(NONCE_BYTES)
            writer.write(nonce)
            async with asyncio.timeout(HANDSHAKE_S):
                given = await reader.readexactly(PROOF_BYTES)
            if not hmac.compare_digest(given, proof(self.secret, nonce)):
                logger.warning("a peer connection was refused: wrong secret")
                return
            while True:
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                if length > MAX_FRAME_BYTES:
                    raise ValueError(f"a frame of {length} bytes")
                writer.write(self._take(await reader.readexactly(length)))
        except ValueError as error:
            logger.warning("a peer connection was closed: %s", error)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # it hung up; whoever still has something to say connects again
        finally:
            self._connections.discard(writer)
            with suppress(OSError):
                writer.close()

    def _take(self, text: bytes) -> bytes:
        source, to, sequence, bodies = unpack_frame(text)
        if to != self._me:
            return NOT_MINE
        for offset, body in enumerate(bodies):
            self._feed(PeerMessage(source, sequence + offset, body))
        return TAKEN
