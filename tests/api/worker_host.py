"""Worker processes that are not there, for a real controller."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from services.core.actions import WorkerReport
from services.core.errors import UnavailableError
from services.core.request import WorkerRef
from services.core.wire import WorkerInfo
from tests.unit.frontdoor.reports import report_of


@dataclass
class FakeProcess:
    """Loads at once; runs nothing, so a drain ends at once too, unless `busy`."""

    worker: WorkerRef
    pool: str
    busy: bool = False
    draining: bool = False
    dead: bool = False

    async def ready(self) -> WorkerInfo:
        """Loaded."""
        return WorkerInfo(self.worker, self.pool, (self.pool,), 1, "")

    async def heartbeat(self, controller_id: str) -> WorkerReport:
        """Alive until it is not."""
        if self.dead:
            raise UnavailableError("the process was killed")
        report = report_of(self.worker, draining=self.draining)
        return replace(report, running_decodes=int(self.busy), queued_prefill_tokens=0, transfers=0)

    async def drain(self) -> None:
        """Take nothing new."""
        self.draining = True

    async def stop(self) -> None:
        """End."""
        self.dead = True


@dataclass
class FakeHost:
    """`services.controller.app.WorkerHost` in memory."""

    processes: dict[str, FakeProcess] = field(default_factory=dict)
    launched: int = 0

    def find(self, worker_id: str) -> FakeProcess | None:
        """What runs under this id."""
        return self.processes.get(worker_id)

    def launch(self, worker_id: str, pool: str) -> FakeProcess:
        """A process of a new incarnation."""
        self.launched += 1
        process = self.processes[worker_id] = FakeProcess(WorkerRef(worker_id, self.launched), pool)
        return process

    async def kill(self, worker_id: str) -> None:
        """Gone."""
        self.processes.pop(worker_id, None)
