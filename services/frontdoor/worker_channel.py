"""One open connection to a worker's server: proves that we know its secret, subscribes, and carries messages."""

from __future__ import annotations

import asyncio

from services.core.door import Answer, StreamItem, Subscribe
from services.core.frames import LENGTH, NONCE_BYTES, frame_length, pack_frame, proof, unpack_frame
from services.core.wire import PeerAddress


class WorkerChannel:
    """Messages both ways, in order, until either side hangs up; asyncio switches Nagle's algorithm off."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, at: PeerAddress, hello: Subscribe) -> WorkerChannel:
        """Connect and subscribe.

        Raises:
            OSError: nobody listens there, or it hung up.
        """
        host, _, port = at.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(proof(at.secret, await reader.readexactly(NONCE_BYTES)) + pack_frame(hello))
        except asyncio.IncompleteReadError as error:
            writer.close()
            raise ConnectionResetError("hung up") from error
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer)

    def write(self, frame: bytes) -> None:
        """Send a packed message; nothing when the other side hung up."""
        if not self._writer.is_closing():
            self._writer.write(frame)

    async def read(self) -> StreamItem | Answer:
        """The worker's next message.

        Raises:
            OSError: it hung up, or says what no worker says.
        """
        try:
            header = await self._reader.readexactly(LENGTH.size)
            message = unpack_frame(await self._reader.readexactly(frame_length(header)))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("hung up") from error
        except ValueError as error:
            raise ConnectionAbortedError(str(error)) from error
        if not isinstance(message, StreamItem | Answer):
            raise ConnectionAbortedError(f"a worker does not say {type(message).__name__}")
        return message

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
