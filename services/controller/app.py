"""Shell of the controller: performs launches and stops, asks every worker for a heartbeat, and tells who lives.

It knows worker processes through the small port `WorkerHost`; the composition root gives it one that speaks Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from services.controller.config import ControllerConfig
from services.controller.events import EventBatch, EventKind, EventLog
from services.controller.reconcile import DRAIN_REASON, UNKNOWN_INCARNATION, SlotState
from services.controller.recorded import reconciler_from_header, reconciler_header
from services.core.actions import (
    Action,
    Drain,
    DrainWorker,
    Event,
    Launch,
    ScalePool,
    Stop,
    Tick,
    WorkerLost,
    WorkerReport,
    WorkerStarted,
)
from services.core.clock import NS_PER_S, Clock, WallClock
from services.core.decision_log import DecisionLog
from services.core.request import WorkerRef
from services.core.wire import WorkerInfo

logger = logging.getLogger(__name__)

EVENTS_PER_MS = 1000


class WorkerHandle(Protocol):
    """One worker process as the controller calls it. A dead process ends every call with an exception."""

    async def ready(self) -> WorkerInfo:
        """Wait until the model is loaded."""

    async def heartbeat(self, controller_id: str) -> WorkerReport:
        """Ask whether the worker lives; it also learns that a controller does."""

    async def drain(self) -> None:
        """Ask the worker to take no new request."""

    async def stop(self) -> None:
        """Ask the process to end; may raise because it did."""


class WorkerHost(Protocol):
    """Where worker processes live: finds, makes and kills them by worker id."""

    def find(self, worker_id: str) -> WorkerHandle | None:
        """The process that runs under this id, or None."""

    def launch(self, worker_id: str, pool: str) -> WorkerHandle:
        """Start a process; returns before it is ready."""

    async def kill(self, worker_id: str) -> None:
        """Kill whatever runs under this id; returns when the process is gone and the id is free."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What the controller knows of one wanted worker.

    Attributes:
        state: absent, starting, live or stopping.
        failures: losses in a row.
        last_error: why the last process was lost or could not start, "" when it never was.
    """

    worker_id: str
    pool: str
    state: str
    failures: int
    last_error: str


@dataclass(frozen=True, slots=True)
class ControllerStatus:
    """All wanted workers."""

    controller_id: str
    draining: bool
    workers: tuple[WorkerStatus, ...]

    @property
    def ready(self) -> bool:
        """Whether every wanted worker is live."""
        return all(worker.state == SlotState.LIVE for worker in self.workers)

    @property
    def gone(self) -> bool:
        """Whether no worker is there any more."""
        return all(worker.state == SlotState.ABSENT for worker in self.workers)


class Controller:
    """Runs a `Reconciler` on one event loop.

    Args:
        controller_id: name of this controller process; workers see it in heartbeats.
        desired: worker ids by pool.
        config: timeouts and backoff.
        host: where worker processes live.
        log_file: where decisions are recorded, or None.
    """

    def __init__(
        self,
        controller_id: str,
        desired: Mapping[str, Sequence[str]],
        config: ControllerConfig,
        host: WorkerHost,
        clock: Clock | None = None,
        log_file: TextIO | None = None,
    ) -> None:
        self._id = controller_id
        self._config = config
        self._host = host
        self._clock = clock or WallClock()
        built = reconciler_header(desired, config)
        self._machine = reconciler_from_header(built)
        self._log = None if log_file is None else DecisionLog(log_file.write, self._machine, "controller", built)
        self._pools = tuple(desired)
        self._infos: dict[str, WorkerInfo] = {}
        self._errors: dict[str, str] = {}
        # Begins above every number of an earlier controller: none of them sees a thousand events a millisecond.
        self._events = EventLog(base=self._clock.unix_ms() * EVENTS_PER_MS)
        self._more_events = asyncio.Event()
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Begin to reconcile; what already runs is adopted by name."""
        self._loop_task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop reconciling; workers run on."""
        tasks = [*self._watches.values(), *self._stops.values()]
        if self._loop_task is not None:
            tasks.append(self._loop_task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check_health(self) -> None:
        """Raise when the reconcile loop ended, so that this process is replaced."""
        if self._loop_task is not None and self._loop_task.done() and not self._loop_task.cancelled():
            raise RuntimeError(f"the reconcile loop ended: {self._loop_task.exception()}")

    async def list_workers(self) -> list[WorkerInfo]:
        """Live workers, in the order of the configuration."""
        slots = self._machine.slots.values()
        return [self._infos[slot.worker_id] for slot in slots if slot.state is SlotState.LIVE]

    async def status(self) -> ControllerStatus:
        """What is wanted, what is there, and why something is not."""
        workers = tuple(
            WorkerStatus(
                slot.worker_id,
                slot.pool,
                slot.state.value,
                slot.health.failures,
                self._errors.get(slot.worker_id, ""),
            )
            for slot in self._machine.slots.values()
        )
        return ControllerStatus(self._id, self._machine.draining, workers)

    async def drain_all(self) -> ControllerStatus:
        """Let every worker finish what it runs, bounded by `drain_s`, and end its process; nothing is relaunched."""
        self._tell(Drain(self._id))
        while not (status := await self.status()).gone:
            await asyncio.sleep(0.05)
        return status

    def wanted(self) -> dict[str, tuple[str, ...]]:
        """Worker ids by pool, as they are wanted now, by number."""
        return {pool: tuple(sorted(self._machine.wanted(pool), key=number_of)) for pool in self._pools}

    async def drain_worker(self, worker_id: str) -> dict[str, tuple[str, ...]]:
        """Take a worker out of its pool, gently; nothing when it is not wanted.

        Returns:
            Worker ids by pool, as they are wanted now.
        """
        before = self.wanted()
        self._tell(DrainWorker(self._id, worker_id))
        self._note_scaled(before)
        return self.wanted()

    async def replace_workers(self, host: str) -> tuple[str, ...]:
        """Let the live workers of a host finish, end them and start other processes in their place; returns at once.

        Returns:
            Workers that are still on the host.
        """
        here = []
        for slot in list(self._machine.slots.values()):
            known = None if slot.worker is None else self._infos.get(slot.worker_id)
            if known is not None and known.store_address.rpartition(":")[0] == host:
                here.append(slot.worker_id)
                if slot.state is SlotState.LIVE:
                    self._tell(DrainWorker(self._id, slot.worker_id, replace=True))
        return tuple(here)

    async def scale_pool(self, pool: str, replicas: int) -> dict[str, tuple[str, ...]]:
        """Have that many workers in a pool: new ones get the lowest free numbers, the highest ones go.

        Returns:
            Worker ids by pool, as they are wanted now.
        """
        before = self.wanted()
        self._tell(ScalePool(self._id, pool, scaled(pool, before[pool], replicas)))
        self._note_scaled(before)
        return self.wanted()

    async def events(self, after: int | None, wait_s: float) -> EventBatch:
        """Events after a sequence (see `EventLog.since`); waits for the first one, at most `wait_s`."""
        batch = self._events.since(after)
        if after is not None and not batch.events and not batch.gap:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._more_events.wait()
            batch = self._events.since(after)
        return batch

    def note_plan(self, text: str) -> None:
        """Tell those who watch of another plan for the traffic, or of what could not be done of it."""
        self._note(EventKind.PLANNED, "", reason=text)

    def _note(self, kind: EventKind, pool: str, **fields: int | str) -> None:
        self._events.add(self._clock.unix_ms(), kind, pool, **fields)
        self._more_events.set()
        self._more_events = asyncio.Event()

    def _note_worker(self, kind: EventKind, worker: WorkerRef, reason: str) -> None:
        slot = self._machine.slots.get(worker.worker_id)
        pool = slot.pool if slot else ""
        self._note(kind, pool, worker_id=worker.worker_id, incarnation=worker.incarnation, reason=reason)

    def _note_scaled(self, before: Mapping[str, Sequence[str]]) -> None:
        for pool, worker_ids in self.wanted().items():
            if worker_ids != before[pool]:
                self._note(EventKind.SCALED, pool, replicas=len(worker_ids))

    # --- machine ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._tell(Tick(self._id))
            self._news.clear()
            wake = self._machine.next_wake()
            wait_s = None if wake is None else max(0.0, (wake - self._clock.now_ns()) / NS_PER_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()

    def _tell(self, event: Event) -> None:
        now = self._clock.now_ns()
        if isinstance(event, WorkerLost):
            self._note_worker(EventKind.DOWN, event.worker, event.reason)
        actions = self._machine.handle(now, event)
        if self._log is not None:
            self._log.record(now, event, actions)
        for action in actions:
            self._perform(action)
        self._news.set()

    def _perform(self, action: Action) -> None:
        match action:
            case Launch():
                logger.info("launching %s", action.worker_id)
                self._note(EventKind.STARTING, action.pool, worker_id=action.worker_id)
                self._watches[action.worker_id] = self._spawn(self._watch(action.worker_id, action.pool))
            case Stop():
                logger.warning("stopping %s: %s", action.worker.worker_id, action.reason)
                kind = EventKind.DRAINING if action.reason == DRAIN_REASON else EventKind.STOPPING
                self._note_worker(kind, action.worker, action.reason)
                self._begin_stop(action)
            case _:
                raise AssertionError(f"the controller cannot perform {action}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    # --- one worker's life --------------------------------------------------------------------------------------

    async def _watch(self, worker_id: str, pool: str) -> None:
        """Find or launch a worker and ping it until it is lost; its loss is told exactly once, here or by a stop."""
        worker = WorkerRef(worker_id, UNKNOWN_INCARNATION)
        try:
            handle = self._host.find(worker_id) or self._host.launch(worker_id, pool)
            info = await handle.ready()
            worker = info.worker
            self._infos[worker_id] = info
            self._tell(WorkerStarted(self._id, worker, pool))
            if self._machine.slots[worker_id].worker == worker:
                self._note_worker(EventKind.UP, worker, "")
            while True:
                self._tell(await handle.heartbeat(self._id))
                await asyncio.sleep(self._config.ping_every_s)
        except Exception as error:  # whatever ends a call means that the process cannot be relied on
            self._errors[worker_id] = str(error) or type(error).__name__
            logger.warning("lost %s: %s", worker_id, self._errors[worker_id])
            await self._host.kill(worker_id)
            self._tell(WorkerLost(self._id, worker, self._errors[worker_id]))

    def _begin_stop(self, action: Stop) -> None:
        worker_id = action.worker.worker_id
        if (watch := self._watches.pop(worker_id, None)) is not None:
            watch.cancel()
        if (earlier := self._stops.pop(worker_id, None)) is not None:
            earlier.cancel()
        self._stops[worker_id] = self._spawn(self._stop(action.worker, action.reason))

    async def _stop(self, worker: WorkerRef, reason: str) -> None:
        """End a process, gently for a drain, and tell its loss."""
        handle = self._host.find(worker.worker_id)
        if handle is not None and reason == DRAIN_REASON and worker.incarnation != UNKNOWN_INCARNATION:
            with contextlib.suppress(Exception):  # a worker that dies while it drains has drained
                async with asyncio.timeout(self._config.drain_s):
                    await self._drain(handle)
                async with asyncio.timeout(self._config.ping_timeout_s):
                    await handle.stop()
        await self._host.kill(worker.worker_id)
        if reason != DRAIN_REASON:
            self._errors[worker.worker_id] = reason
        self._tell(WorkerLost(self._id, worker, reason))

    async def _drain(self, handle: WorkerHandle) -> None:
        """Wait until nothing runs on the worker."""
        await handle.drain()
        while True:
            report = await handle.heartbeat(self._id)
            if report.running_decodes == 0 and report.queued_prefill_tokens == 0 and report.transfers == 0:
                return
            await asyncio.sleep(0.1)


def number_of(worker_id: str) -> int:
    """The number in a worker's name: 2 of `decode-2`."""
    return int(worker_id.rpartition("-")[2])


def scaled(pool: str, present: Sequence[str], replicas: int) -> tuple[str, ...]:
    """Worker ids of a pool of another size, by number."""
    numbers = sorted(map(number_of, present))[:replicas]
    free = (number for number in itertools.count() if number not in numbers)
    numbers += list(itertools.islice(free, replicas - len(numbers)))
    return tuple(f"{pool}-{number}" for number in sorted(numbers))
