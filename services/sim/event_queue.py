"""Everything that is to happen, in order of (time, sequence): the virtual clock's engine."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

REPORTS_FROM = 1 << 20
OTHERS_FROM = 1 << 21
"""A worker's step ends before anything else that happens at that time: sequence numbers below REPORTS_FROM belong to
the ends of steps. The next ones belong to reports of quiet periods, and to their arrivals."""


class EventQueue:
    """A heap of calls. Equal times are told apart by sequence, so a run is the same every time.

    A worker's end of step has a sequence of its own, whenever it was filed: steps that are passed over and steps that
    are simulated one by one come in the same order.

    Attributes:
        now: virtual time in ns; moves only in `run`.
        count: calls made.
        stopped: ends a run.
    """

    def __init__(self) -> None:
        self.now = 0
        self.count = 0
        self.stopped = False
        self._filed = OTHERS_FROM
        self._heap: list[tuple[int, int, int, Callable[[Any], None], Any]] = []

    def at(self, time_ns: int, do: Callable[[Any], None], what: Any = None, sequence: int | None = None) -> None:
        """Call `do(what)` at a time that is not past.

        Args:
            sequence: below OTHERS_FROM for what comes first; None: after everything that was filed for that time.
        """
        self._filed += 1
        filed = self._filed
        heapq.heappush(self._heap, (time_ns, filed if sequence is None else sequence, filed, do, what))

    def run(self, until_ns: int | None = None) -> None:
        """Make every call that is due before `until_ns`, until nothing is left or `stopped` is set; calls file more."""
        heap, pop = self._heap, heapq.heappop
        while heap and not self.stopped and (until_ns is None or heap[0][0] < until_ns):
            self.now, _, _, do, what = pop(heap)
            self.count += 1
            do(what)

    def __len__(self) -> int:
        return len(self._heap)
