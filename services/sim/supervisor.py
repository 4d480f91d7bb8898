"""The simulated controller: the real reconciler, which starts, asks after and ends simulated processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from services.controller.config import ControllerConfig
from services.controller.reconcile import DRAIN_REASON, Reconciler
from services.core.actions import Drain, Event, Launch, Stop, Tick, WorkerLost, WorkerStarted
from services.core.clock import NS_PER_S
from services.core.request import WorkerRef
from services.sim.event_queue import EventQueue
from services.sim.reports import Mailbox
from services.sim.workers import SimWorker

LOOK_EVERY_NS = NS_PER_S // 10
SOURCE = "controller"


class Supervisor:
    """Keeps the wanted workers running.

    Args:
        desired: worker ids by pool.
        start_ns: from the launch of a worker to its first report; those of the beginning are there at once.
        workers: live processes.
        make: (worker, pool) -> its process.
        kill: (process, reason) -> ends it; its loss is told to `lost` a little later.
        mailbox: where quiet workers' reports are read; None: they are sent.
    """

    def __init__(
        self,
        queue: EventQueue,
        desired: Mapping[str, Sequence[str]],
        config: ControllerConfig,
        start_ns: int,
        workers: Mapping[WorkerRef, SimWorker],
        make: Callable[[WorkerRef, str], SimWorker],
        kill: Callable[[SimWorker, str], None],
        mailbox: Mailbox | None,
    ) -> None:
        self.machine = Reconciler(desired, config)
        self._queue, self._config, self._start_ns = queue, config, start_ns
        self._workers, self._make, self._kill = workers, make, kill
        self._mailbox = mailbox
        self._incarnations: dict[str, int] = {}
        self._wake: int | None = None

    def begin(self) -> None:
        """Start everything that is wanted."""
        self._tell(Tick(SOURCE))
        self._ask(None)

    def lost(self, worker: WorkerRef, reason: str) -> None:
        """A process is gone."""
        self._tell(WorkerLost(SOURCE, worker, reason))

    def _tell(self, event: Event) -> None:
        for action in self.machine.handle(self._queue.now, event):
            match action:
                case Launch():
                    delay_ns = self._start_ns if self._queue.now else 0
                    self._queue.at(self._queue.now + delay_ns, self._start, action)
                case Stop():
                    self._stop(action)
                case _:
                    raise AssertionError(f"the controller cannot perform {action}")
        wake = self.machine.next_wake()
        if wake is not None and (self._wake is None or wake < self._wake):
            self._wake = max(wake, self._queue.now)
            self._queue.at(self._wake, self._tick, self._wake)

    def _tick(self, planned: int) -> None:
        if planned == self._wake:
            self._wake = None
            self._tell(Tick(SOURCE))

    def _ask(self, _: object) -> None:
        """Every worker is asked whether it lives."""
        for worker in list(self._workers.values()):
            if not worker.stalled and worker.reporter.last is not None:
                # A sign of life moves the next look further away: the timer that stands is early enough.
                self.machine.handle(self._queue.now, worker.reporter.last)
        self._queue.at(self._queue.now + round(self._config.ping_every_s * NS_PER_S), self._ask)

    def _start(self, action: Launch) -> None:
        incarnation = self._incarnations[action.worker_id] = self._incarnations.get(action.worker_id, 0) + 1
        worker = self._make(WorkerRef(action.worker_id, incarnation), action.pool)
        self._tell(WorkerStarted(SOURCE, worker.ref, action.pool))
        for reporter in worker.reporters.values():
            reporter.begin(self._mailbox)

    def _stop(self, action: Stop) -> None:
        """End a process: at once, or when it is idle."""
        worker = self._workers.get(action.worker)
        if worker is None:
            self._queue.at(self._queue.now, self._report_loss, (action.worker, action.reason))
        elif action.reason == DRAIN_REASON:
            worker.feed(Drain(SOURCE))
            self._when_idle((worker, self._queue.now + round(self._config.drain_s * NS_PER_S)))
        else:
            self._kill(worker, action.reason)

    def _report_loss(self, what: tuple[WorkerRef, str]) -> None:
        self.lost(*what)

    def _when_idle(self, what: tuple[SimWorker, int]) -> None:
        worker, until_ns = what
        if worker.core.idle or self._queue.now >= until_ns:
            self._kill(worker, DRAIN_REASON)
        else:
            self._queue.at(self._queue.now + LOOK_EVERY_NS, self._when_idle, what)
