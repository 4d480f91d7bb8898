"""Control messages to other workers: one ordered queue a peer process."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from services.core.actions import WorkerLost
from services.core.peer import PeerBody
from services.core.request import WorkerRef

logger = logging.getLogger(__name__)

MAX_QUEUED = 4096
"""Messages that wait for one peer; a peer that lags this far is stuck."""


class PeerGone(Exception):
    """The peer's process is gone or is another one now; the message says which."""


class PeerCall(Protocol):
    """Reaches a peer's process."""

    def __call__(self, me: WorkerRef, to: WorkerRef, sequence: int, bodies: tuple[PeerBody, ...]) -> Awaitable[None]:
        """Start to deliver messages of `me` in order; `sequence` is that of the first.

        The answer raises PeerGone when nobody of that name and incarnation is there.
        """


class Peers:
    """Outgoing control messages.

    One call is under way to each peer at a time and takes everything that is queued: that keeps the order, which
    concurrent calls would not, and it makes bursts cheap.

    Args:
        call: reaches a peer.
        lost: takes the event of a peer that could not be reached.
    """

    def __init__(self, me: WorkerRef, call: PeerCall, lost: Callable[[WorkerLost], None]) -> None:
        self._me = me
        self._call = call
        self._lost = lost
        self._queues: dict[WorkerRef, deque[PeerBody]] = {}
        self._sent: dict[WorkerRef, int] = {}
        self._tasks: dict[WorkerRef, asyncio.Task[None]] = {}

    def send(self, to: WorkerRef, body: PeerBody) -> None:
        """Queue a message."""
        messages = self._queues.setdefault(to, deque())
        if len(messages) >= MAX_QUEUED:
            self._forget(to, f"{MAX_QUEUED} messages wait for it")
            return
        messages.append(body)
        if to not in self._tasks:
            # Called here, not in the task: the loop may first turn to a token stream that this step woke as well.
            self._tasks[to] = asyncio.get_running_loop().create_task(self._flush(to, self._next_call(to)))

    def _next_call(self, to: WorkerRef) -> Awaitable[None]:
        messages = self._queues[to]
        bodies = tuple(messages)
        messages.clear()
        first = self._sent.get(to, 0) + 1
        self._sent[to] = first + len(bodies) - 1
        return self._call(self._me, to, first, bodies)

    async def _flush(self, to: WorkerRef, call: Awaitable[None]) -> None:
        try:
            await call
            while self._queues.get(to):
                await self._next_call(to)
        except PeerGone as error:
            self._forget(to, str(error))
        finally:
            self._tasks.pop(to, None)

    def _forget(self, to: WorkerRef, reason: str) -> None:
        logger.warning("peer %s is lost: %s", to.worker_id, reason)
        self._queues.pop(to, None)
        self._sent.pop(to, None)
        self._lost(WorkerLost(self._me.worker_id, to, reason))
