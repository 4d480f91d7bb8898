"""What the process holds of the operating system: counts for leak checks."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from services.core.clock import NS_PER_S, Clock

COUNT_EVERY_NS = NS_PER_S
"""Counting opens a folder and reads a link for each open file, which is too much for every report."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of the whole process."""

    threads: int
    sockets: int


class Usage:
    """Threads and sockets of this process, counted once a second at most; zeros where there is no /proc."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counted_ns: int | None = None
        self._counts = Counts(0, 0)

    def counts(self) -> Counts:
        """The last counts."""
        now = self._clock.now_ns()
        if self._counted_ns is None or now - self._counted_ns >= COUNT_EVERY_NS:
            self._counted_ns = now
            with contextlib.suppress(OSError):
                self._counts = Counts(len(os.listdir("/proc/self/task")), count_sockets())
        return self._counts


def count_sockets() -> int:
    """Open sockets of this process."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed since
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found
