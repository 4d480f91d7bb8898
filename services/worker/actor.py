"""The one Ray actor class of every role: a thin front of `WorkerProcess`, wrapped in cluster/launch.py."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

from services.core.actions import Drain, LinkRole, WorkerReport
from services.core.clock import NS_PER_S, WallClock
from services.core.errors import UnavailableError
from services.core.heap import freeze_heap
from services.core.wire import LinkProbe, PeerAddress, WorkerInfo
from services.telemetry.logs import configure as configure_logs
from services.worker.config import WorkerSpec
from services.worker.host import on_this_host
from services.worker.peer_calls import ActorDirectory, PeerChannels

if TYPE_CHECKING:
    from services.worker.process import WorkerProcess

logger = logging.getLogger(__name__)

MAINTAIN_EVERY_S = 0.5


class WorkerActor:
    """One worker process. Async methods run on the actor's event loop; none of them blocks it.

    Args:
        spec: `WorkerSpec` as plain data.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = on_this_host(WorkerSpec.model_validate(spec))
        self._clock = WallClock()
        self._heard_ns = self._clock.now_ns()
        self._process: WorkerProcess | None = None
        self._loading: asyncio.Task[WorkerProcess] | None = None

    async def ready(self) -> WorkerInfo:
        """Wait until the model is loaded; every caller gets the same process."""
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._load())
        return (await asyncio.shield(self._loading)).info()

    async def _load(self) -> WorkerProcess:
        # Imported here and in a thread: torch takes seconds, and whoever only launches this class does without it.
        configure_logs(self._spec.telemetry, self._spec.pool, self._spec.worker_id)
        process = await asyncio.to_thread(importlib.import_module, "services.worker.process")
        loaded = await asyncio.to_thread(process.load, self._spec)
        channels = PeerChannels(ActorDirectory(self._spec.cluster_id))
        started: WorkerProcess = process.WorkerProcess(self._spec, loaded, channels)
        await started.peer_server.start(self._spec.worker.host, self._spec.worker.peer_ports)
        freeze_heap()
        self._process = started
        self._heard_ns = self._clock.now_ns()
        self._maintenance = asyncio.get_running_loop().create_task(self._maintain())
        return self._process

    def _running(self) -> WorkerProcess:
        if self._process is None:
            raise UnavailableError(f"worker {self._spec.worker_id} is still loading", reason="STARTING")
        return self._process

    # --- the controller ---------------------------------------------------------------------------------------

    async def heartbeat(self, controller: str) -> WorkerReport:
        """The controller lives; how are you?"""
        self._heard_ns = self._clock.now_ns()
        return self._running().report()

    async def drain(self) -> None:
        """Take no new request."""
        self._running().performer.feed(Drain("controller"))

    async def stop(self) -> None:
        """Close everything and exit; the caller sees the actor die."""
        logger.info("worker %s stops", self._spec.worker_id)
        if self._process is not None:
            self._process.close()
        asyncio.get_running_loop().call_later(0.05, os._exit, 0)

    async def arm_fault(self, spec: str) -> None:
        """Set a fault (tests); refused unless `testing.enabled`."""
        self._running().faults.arm(spec)

    # --- front doors and other workers ------------------------------------------------------------------------

    async def peer_address(self) -> PeerAddress:
        """Where this process takes connections of front doors and other workers, and what lets them in."""
        process = self._running()
        return PeerAddress(process.me, process.peer_server.address, process.peer_server.secret)

    async def probe_link(self, role: LinkRole, name: str, store_address: str, payload_bytes: int) -> LinkProbe:
        """Take one end of a probe of the way between two workers."""
        return await self._running().probe_link(role, name, store_address, payload_bytes)

    async def _maintain(self) -> None:
        """Expire silent front doors; drain and exit when no controller has called for too long."""
        process = self._running()
        silence_ns = int(self._spec.worker.controller_silence_s * NS_PER_S)
        while True:
            await asyncio.sleep(MAINTAIN_EVERY_S)
            process.subscriptions.expire()
            if self._clock.now_ns() - self._heard_ns > silence_ns:
                if not process.core.draining:
                    logger.error("no controller for %.0f s: draining", self._spec.worker.controller_silence_s)
                    process.performer.feed(Drain("worker"))
                elif process.core.idle:
                    await self.stop()
                    return
