"""The state machine of the controller: wanted workers against present ones.

Each worker id has one slot:

    state      Tick                    WorkerStarted     WorkerReport  WorkerLost     Drain
    ABSENT     due: Launch → STARTING  adopted: → LIVE   ·             ·              ·
    STARTING   late: Stop → STOPPING   → LIVE            ·             → ABSENT       Stop → STOPPING
    LIVE       silent: Stop → STOPPING same: ·           heard         → ABSENT       Stop → STOPPING
                                       other: Stop it
    STOPPING   late: Stop again        Stop it           ·             → ABSENT       ·

DrainWorker and ScalePool change who is wanted. A worker that is no longer wanted drains (Stop → STOPPING) and its slot
is gone with it; one that is wanted again before that is launched again afterwards; a new one is launched at once.

Launch finds the worker's actor by name or makes it, so a controller that restarted adopts what runs. A launch that
fails before the worker said its incarnation comes back as WorkerLost with incarnation 0. After Drain nothing is
launched any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from services.controller.config import ControllerConfig
from services.controller.health import Health
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
from services.core.clock import NS_PER_S
from services.core.request import WorkerRef

UNKNOWN_INCARNATION = 0
"""Stands in a WorkerRef for a process that never said its incarnation."""

LOOK_EVERY_NS = NS_PER_S // 2
"""How often silent workers are looked for while there are live ones."""

DRAIN_REASON = "drain"
"""Reason of a Stop that lets running requests finish first; every other reason kills."""


class SlotState(StrEnum):
    """What is known of one worker id."""

    ABSENT = "absent"
    STARTING = "starting"
    LIVE = "live"
    STOPPING = "stopping"


@dataclass(slots=True)
class Slot:
    """One worker id.

    Attributes:
        worker: the process, where its incarnation is known.
        since_ns: when the present state was entered, or its Stop repeated.
        launch_at_ns: earliest next launch; meaningful when ABSENT.
        wanted: whether a lost process is replaced.
    """

    worker_id: str
    pool: str
    state: SlotState = SlotState.ABSENT
    worker: WorkerRef | None = None
    since_ns: int = 0
    launch_at_ns: int = 0
    wanted: bool = True
    health: Health = field(default_factory=Health)

    @property
    def incarnation(self) -> int:
        """Of the process, or UNKNOWN_INCARNATION."""
        return self.worker.incarnation if self.worker else UNKNOWN_INCARNATION


class Reconciler:
    """Keeps every wanted worker running: launches, watches and replaces (`core.ports.Machine`).

    Args:
        desired: worker ids by pool; ids are unique across pools.
        config: timeouts and backoff.
    """

    def __init__(self, desired: Mapping[str, Sequence[str]], config: ControllerConfig) -> None:
        self._config = config
        self._draining = False
        self._looked_ns = 0
        self._slots = {
            worker_id: Slot(worker_id, pool) for pool, worker_ids in desired.items() for worker_id in worker_ids
        }
        self._on_tick: dict[SlotState, Callable[[Slot, int], list[Action]]] = {
            SlotState.ABSENT: self._launch_when_due,
            SlotState.STARTING: self._stop_when_late,
            SlotState.LIVE: self._stop_when_silent,
            SlotState.STOPPING: self._stop_again,
        }

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Every worker id's slot, for status; not to be changed."""
        return self._slots

    def wanted(self, pool: str) -> tuple[str, ...]:
        """Ids of the workers that a pool is to have."""
        return tuple(slot.worker_id for slot in self._slots.values() if slot.pool == pool and slot.wanted)

    @property
    def draining(self) -> bool:
        """Whether a Drain was seen."""
        return self._draining

    def handle(self, now: int, event: Event) -> list[Action]:
        """See the table above."""
        match event:
            case Tick():
                self._notice_sleep(now)
                return [action for slot in self._slots.values() for action in self._on_tick[slot.state](slot, now)]
            case WorkerStarted():
                return self._started(now, event)
            case WorkerReport():
                slot = self._slots.get(event.source.worker_id)
                if slot is not None and slot.state is SlotState.LIVE and slot.worker == event.source:
                    slot.health.heard(now)
                return []
            case WorkerLost():
                return self._lost(now, event)
            case Drain():
                self._draining = True
                return [action for slot in list(self._slots.values()) for action in self._drain(slot, now)]
            case DrainWorker():
                slot = self._slots.get(event.worker_id)
                if slot is None:
                    return []
                return self._drain(slot, now) if event.replace else self._unwant(slot, now)
            case ScalePool():
                return self._scale(now, event)
            case _:
                return []

    def next_wake(self) -> int | None:
        """The earliest time (ns) at which a Tick would do something, or None."""
        times = [self._wake_of(slot) for slot in self._slots.values()]
        if any(slot.state is SlotState.LIVE for slot in self._slots.values()):
            times.append(self._looked_ns + LOOK_EVERY_NS)
        return min((time for time in times if time is not None), default=None)

    def state(self) -> object:
        """Declared state as plain values."""
        return {
            "draining": self._draining,
            "looked_ns": self._looked_ns,
            "slots": [
                {
                    "worker_id": slot.worker_id,
                    "pool": slot.pool,
                    "state": slot.state.value,
                    "incarnation": slot.incarnation,
                    "since_ns": slot.since_ns,
                    "launch_at_ns": slot.launch_at_ns,
                    "live_since_ns": slot.health.live_since_ns,
                    "heard_ns": slot.health.heard_ns,
                    "failures": slot.health.failures,
                    "wanted": slot.wanted,
                }
                for slot in self._slots.values()
            ],
        }

    def check(self) -> None:
        """Assert every invariant."""
        for worker_id, slot in self._slots.items():
            assert slot.worker_id == worker_id, (slot.worker_id, worker_id)
            if slot.state in (SlotState.ABSENT, SlotState.STARTING):
                assert slot.worker is None, f"{worker_id} is {slot.state} and has a process"
            if slot.state is not SlotState.STOPPING:
                assert slot.wanted, f"{worker_id} is {slot.state} and not wanted"
            if slot.state is SlotState.LIVE:
                assert slot.worker is not None, f"{worker_id} is live and has no process"
                assert slot.health.heard_ns >= slot.health.live_since_ns, worker_id
            if slot.worker is not None:
                assert slot.worker.worker_id == worker_id, (slot.worker, worker_id)
                assert slot.incarnation != UNKNOWN_INCARNATION, worker_id
            assert not (self._draining and slot.state is SlotState.STARTING), f"{worker_id} starts while draining"

    def _notice_sleep(self, now: int) -> None:
        """A controller that was stuck itself has heard nobody, which says nothing about them."""
        if now - self._looked_ns > 2 * LOOK_EVERY_NS:
            for slot in self._slots.values():
                if slot.state is SlotState.LIVE:
                    slot.health.heard(now)
        self._looked_ns = now

    # --- Tick ---------------------------------------------------------------------------------------------------

    def _launch_when_due(self, slot: Slot, now: int) -> list[Action]:
        if self._draining or now < slot.launch_at_ns:
            return []
        self._enter(slot, SlotState.STARTING, now)
        return [Launch(slot.worker_id, slot.pool)]

    def _stop_when_late(self, slot: Slot, now: int) -> list[Action]:
        return [self._stop(slot, now, "start timeout")] if now >= self._late_at(slot) else []

    def _stop_when_silent(self, slot: Slot, now: int) -> list[Action]:
        return [self._stop(slot, now, "silent")] if now >= slot.health.silent_at(self._config) else []

    def _stop_again(self, slot: Slot, now: int) -> list[Action]:
        return [self._stop(slot, now, "stop again")] if now >= self._late_at(slot) else []

    # --- other events -------------------------------------------------------------------------------------------

    def _started(self, now: int, event: WorkerStarted) -> list[Action]:
        slot = self._slots.get(event.worker.worker_id)
        if slot is None:
            return [Stop(event.worker, "not wanted")]
        if slot.worker == event.worker:
            return []
        if slot.state in (SlotState.LIVE, SlotState.STOPPING) or self._draining:
            return [Stop(event.worker, "not wanted")]
        self._enter(slot, SlotState.LIVE, now)
        slot.worker = event.worker
        slot.health.started(now)
        return []

    def _lost(self, now: int, event: WorkerLost) -> list[Action]:
        slot = self._slots.get(event.worker.worker_id)
        if slot is None or slot.state is SlotState.ABSENT or slot.incarnation != event.worker.incarnation:
            return []
        slot.launch_at_ns = slot.health.lost(now, slot.worker is not None, self._config)
        slot.worker = None
        self._enter(slot, SlotState.ABSENT, now)
        if not slot.wanted:
            del self._slots[slot.worker_id]
            return []
        return self._launch_when_due(slot, now)

    def _scale(self, now: int, event: ScalePool) -> list[Action]:
        actions: list[Action] = []
        for worker_id in event.worker_ids:
            slot = self._slots.setdefault(worker_id, Slot(worker_id, event.pool, launch_at_ns=now))
            slot.wanted = True
            if slot.state is SlotState.ABSENT:
                actions += self._launch_when_due(slot, now)
        for slot in list(self._slots.values()):
            if slot.pool == event.pool and slot.worker_id not in event.worker_ids:
                actions += self._unwant(slot, now)
        return actions

    def _unwant(self, slot: Slot, now: int) -> list[Action]:
        """Drain a worker for good."""
        slot.wanted = False
        if slot.state is SlotState.ABSENT:
            del self._slots[slot.worker_id]
        return self._drain(slot, now)

    def _drain(self, slot: Slot, now: int) -> list[Action]:
        present = slot.state in (SlotState.STARTING, SlotState.LIVE)
        return [self._stop(slot, now, DRAIN_REASON)] if present else []

    def _stop(self, slot: Slot, now: int, reason: str) -> Action:
        self._enter(slot, SlotState.STOPPING, now)
        return Stop(slot.worker or WorkerRef(slot.worker_id, UNKNOWN_INCARNATION), reason)

    def _enter(self, slot: Slot, state: SlotState, now: int) -> None:
        slot.state = state
        slot.since_ns = now

    # --- times --------------------------------------------------------------------------------------------------

    def _late_at(self, slot: Slot) -> int:
        """When STARTING or STOPPING has taken too long; a Stop may wait for a drain before it kills."""
        starting = slot.state is SlotState.STARTING
        bound_s = self._config.start_timeout_s if starting else self._config.drain_s + self._config.ping_timeout_s
        return slot.since_ns + int(bound_s * NS_PER_S)

    def _wake_of(self, slot: Slot) -> int | None:
        if slot.state is SlotState.ABSENT:
            return None if self._draining else slot.launch_at_ns
        return slot.health.silent_at(self._config) if slot.state is SlotState.LIVE else self._late_at(slot)
