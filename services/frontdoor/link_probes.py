"""Asks workers to measure the links between them, for `triptych doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from services.core.actions import LinkRole
from services.core.errors import TriptychError
from services.core.request import WorkerRef
from services.core.seeds import new_incarnation
from services.core.wire import LinkProbe
from services.router.view import WorkerView

CALL_TIMEOUT_S = 10.0
DEFAULT_PAYLOAD_BYTES = 8 * 2**20
MAX_PAYLOAD_BYTES = 64 * 2**20


class ProbeCalls(Protocol):
    """Reaches workers."""

    async def probe_link(
        self, worker: WorkerRef, role: LinkRole, name: str, store_address: str, payload_bytes: int
    ) -> LinkProbe:
        """Let a worker take one end of a probe."""


class LinkProbes:
    """Probes between the workers that a front door knows.

    Args:
        workers: the live workers by id.
    """

    def __init__(self, calls: ProbeCalls, workers: Callable[[], Mapping[str, WorkerView]]) -> None:
        self._calls = calls
        self._workers = workers
        self._one_at_a_time = asyncio.Lock()

    def pairs(self) -> list[tuple[WorkerView, WorkerView]]:
        """(sender, receiver) of every hand-off that may happen: to each worker that decodes, from every other one."""
        workers = [worker for _, worker in sorted(self._workers().items())]
        receivers = [worker for worker in workers if "decode" in worker.report.roles]
        return [(sender, receiver) for sender in workers for receiver in receivers if sender is not receiver]

    async def run(self, payload_bytes: int) -> AsyncIterator[tuple[str, str, LinkProbe]]:
        """(sender id, receiver id, measurement) of every pair, one after the other: two at once would share cores."""
        async with self._one_at_a_time:
            for sender, receiver in self.pairs():
                probe = await self._probe(sender, receiver, payload_bytes)
                yield sender.report.source.worker_id, receiver.report.source.worker_id, probe

    async def _probe(self, sender: WorkerView, receiver: WorkerView, payload_bytes: int) -> LinkProbe:
        name, address = f"probe/{new_incarnation():x}", receiver.report.store_address
        ends = ((sender, LinkRole.SENDER), (receiver, LinkRole.RECEIVER))
        calls = [
            self._calls.probe_link(worker.report.source, role, name, address, payload_bytes) for worker, role in ends
        ]
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                found, other = await asyncio.gather(*calls)
        except TimeoutError:
            return LinkProbe(error=f"a worker did not answer within {CALL_TIMEOUT_S:.0f} s")
        except TriptychError as error:
            return LinkProbe(error=error.message)
        return found if found.error or not other.error else other
