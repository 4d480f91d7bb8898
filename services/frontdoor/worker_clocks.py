"""Brings what workers' clocks say to this process's clock."""

from __future__ import annotations

from services.core.clock import NS_PER_S
from services.core.door import StreamItem
from services.core.request import WorkerRef

WINDOW_NS = 30 * NS_PER_S
"""Quartz drifts by up to 100 us in a second against another; an old smallest delay is forgotten after two windows."""


class WorkerClocks:
    """One offset for each worker process.

    On the same host it is nothing: all processes read one monotonic clock. Elsewhere it is the smallest time from an
    item's making to its receipt, in which the clocks' difference and the quickest way are the same to an observer; so
    such a worker's marks are late by the quickest way, but they are in order and their distances are right.

    Args:
        domain: this process's `clock_domain`.
    """

    def __init__(self, domain: int) -> None:
        self._domain = domain
        self._windows: dict[WorkerRef, tuple[int, int, int]] = {}

    def offset_ns(self, item: StreamItem, now: int) -> int:
        """What to add to the times in an item that was received at `now`."""
        if item.clock_domain == self._domain != 0:
            return 0
        delay = now - item.sent_ns
        begun, before, smallest = self._windows.get(item.worker, (now, delay, delay))
        if now - begun >= WINDOW_NS:
            begun, before, smallest = now, smallest, delay
        smallest = min(smallest, delay)
        self._windows[item.worker] = (begun, before, smallest)
        return min(before, smallest)

    def forget(self, worker: WorkerRef) -> None:
        """A worker is gone."""
        self._windows.pop(worker, None)
