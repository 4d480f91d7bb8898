"""What happened to workers, for those who watch: numbered, and the last ones kept."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

KEPT_EVENTS = 1000


class EventKind(StrEnum):
    """The kinds of events; what they mean stands in cluster.proto."""

    STARTING = "starting"
    UP = "up"
    DRAINING = "draining"
    STOPPING = "stopping"
    DOWN = "down"
    SCALED = "scaled"
    PLANNED = "planned"


@dataclass(frozen=True, slots=True)
class ClusterEvent:
    """One event.

    Attributes:
        sequence: grows with each event.
        unix_ms: when it happened.
        worker_id: "" with SCALED and PLANNED.
        incarnation: of the process, 0 where it is not known.
        replicas: workers that the pool is to have, with SCALED.
    """

    sequence: int
    unix_ms: int
    kind: EventKind
    pool: str
    worker_id: str = ""
    incarnation: int = 0
    reason: str = ""
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events after a sequence.

    Attributes:
        last: the sequence to ask from next.
        gap: events between the one asked from and these are lost.
    """

    events: tuple[ClusterEvent, ...]
    last: int
    gap: bool


class EventLog:
    """The last events of one controller.

    Args:
        base: sequence before the first event; a later controller's must be above all of an earlier one's.
    """

    def __init__(self, base: int) -> None:
        self._kept: deque[ClusterEvent] = deque(maxlen=KEPT_EVENTS)
        self._dropped = base
        self._last = base

    def add(self, unix_ms: int, kind: EventKind, pool: str, **fields: int | str) -> None:
        """File one event; `fields` are those of ClusterEvent from `worker_id` on."""
        self._last += 1
        if len(self._kept) == KEPT_EVENTS:
            self._dropped = self._kept[0].sequence
        self._kept.append(ClusterEvent(self._last, unix_ms, kind, pool, **fields))  # type: ignore[arg-type]

    def since(self, after: int | None) -> EventBatch:
        """Events after a sequence; None: none, but where to ask from; 0: all that are kept."""
        if after is None:
            return EventBatch((), self._last, False)
        found = tuple(event for event in self._kept if event.sequence > after)
        return EventBatch(found, self._last, 0 < after < self._dropped)
