"""Reaches other workers: an actor call tells where and with which secret, a socket carries the messages."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from services.core.frames import NONCE_BYTES, proof
from services.core.peer import PeerBody
from services.core.request import WorkerRef
from services.core.wire import NAMESPACE, PeerAddress, actor_name
from services.worker.peer_server import TAKEN, pack_messages
from services.worker.peers import PeerGone

logger = logging.getLogger(__name__)

RETRY_S = 0.02
ANSWER_S = 5.0
"""A peer that does not answer a frame this long is asked for through Ray, which knows whether its process lives."""
Resolve = Callable[[WorkerRef], Awaitable[PeerAddress]]


class PeerChannel:
    """One open connection to a peer's `PeerServer`; frames are answered in the order they were written in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._listener = asyncio.get_running_loop().create_task(self._listen())
        self.is_open = True

    @classmethod
    async def connect(cls, at: PeerAddress) -> PeerChannel:
        """Connect and prove that we know the secret.

        Raises:
            OSError: nobody listens there, or it hung up.
        """
        host, _, port = at.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(proof(at.secret, await reader.readexactly(NONCE_BYTES)))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("hung up") from error
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer)

    def call(self, frame: bytes) -> asyncio.Future[bytes]:
        """Write a frame now; the future is its answer, or ConnectionError."""
        answer = asyncio.get_running_loop().create_future()
        if self.is_open:
            self._waiting.append(answer)
            self._writer.write(frame)
        else:
            answer.set_exception(ConnectionResetError("hung up"))
        return answer

    def close(self) -> None:
        """Hang up; frames without an answer fail."""
        self._listener.cancel()

    async def _listen(self) -> None:
        try:
            while answer := await self._reader.read(1):
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result(answer)
        except OSError:
            pass
        finally:
            self.is_open = False
            self._writer.close()
            for future in self._waiting:
                if not future.done():
                    future.set_exception(ConnectionResetError("hung up"))


class PeerChannels:
    """`PeerCall` of one worker process; connects on first use, and anew when a connection broke.

    A frame whose answer was lost with its connection is sent again: every message of the hand-off may come twice.

    Args:
        resolve: finds a worker's server; raises PeerGone.
    """

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._channels: dict[WorkerRef, PeerChannel] = {}

    def __call__(self, me: WorkerRef, to: WorkerRef, sequence: int, bodies: tuple[PeerBody, ...]) -> Awaitable[None]:
        """Write the frame when there is a connection; the answer raises PeerGone."""
        frame = pack_messages(me, to, sequence, bodies)
        channel = self._channels.get(to)
        return self._answer(to, frame, None if channel is None else channel.call(frame))

    async def _answer(self, to: WorkerRef, frame: bytes, answer: asyncio.Future[bytes] | None) -> None:
        while True:
            try:
                if answer is None:
                    answer = (await self._connect(to)).call(frame)
                async with asyncio.timeout(ANSWER_S):
                    taken = await answer
            except (OSError, TimeoutError) as error:
                logger.info("peer %s: %s; looking for it again", to.worker_id, error or "no answer")
                self._drop(to)
                answer = None
                await asyncio.sleep(RETRY_S)
                continue
            if taken != TAKEN:
                self._drop(to)
                raise PeerGone("it was restarted")
            return

    async def _connect(self, to: WorkerRef) -> PeerChannel:
        at = await self._resolve(to)
        if at.worker != to:
            raise PeerGone("it was restarted")
        async with asyncio.timeout(ANSWER_S):
            channel = await PeerChannel.connect(at)
        self._channels = {known: each for known, each in self._channels.items() if each.is_open}
        self._channels[to] = channel
        return channel

    def _drop(self, to: WorkerRef) -> None:
        channel = self._channels.pop(to, None)
        if channel is not None:
            channel.close()

    def close(self) -> None:
        """Hang up everywhere."""
        for to in list(self._channels):
            self._drop(to)


class ActorDirectory:
    """Finds other workers' servers through their actors.

    Args:
        cluster_id: prefix of the workers' actor names.
    """

    def __init__(self, cluster_id: str) -> None:
        self._cluster_id = cluster_id

    async def __call__(self, to: WorkerRef) -> PeerAddress:
        """Where that worker listens.

        Raises:
            PeerGone: its process is gone.
        """
        try:
            handle: Any = await asyncio.to_thread(ray.get_actor, actor_name(self._cluster_id, to.worker_id), NAMESPACE)
            found: PeerAddress = await handle.peer_address.remote()
        except (RayActorError, ValueError) as error:
            raise PeerGone(f"its process is gone ({type(error).__name__})") from error
        except RayError as error:
            logger.warning("peer %s does not say where it listens: %s", to.worker_id, error)
            raise PeerGone(f"it failed ({type(error).__name__})") from error
        return found
