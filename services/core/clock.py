"""Time as an argument: the clocks that shells read, so that nothing else has to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


class Clock(Protocol):
    """What a shell asks for the time."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds of this process; comparable only inside it."""

    def unix_ms(self) -> int:
        """Unix time in milliseconds; used for clients' deadlines and log stamps alone."""


BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def clock_domain() -> int:
    """Equal in all processes whose monotonic clocks agree, which are those of one booted host; 0 where unknown."""
    try:
        return int(BOOT_ID.read_text(encoding="ascii").replace("-", ""), 16) >> 65
    except (OSError, ValueError):
        return 0


class WallClock:
    """The clock of the real cluster."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def unix_ms(self) -> int:
        return time.time_ns() // NS_PER_MS


class VirtualClock:
    """A clock that moves only when told to: simulator and unit tests.

    Args:
        start_ns: first value of `now_ns`.
        unix_start_ms: Unix time that corresponds to `start_ns = 0`.
    """

    def __init__(self, start_ns: int = 0, unix_start_ms: int = 1_700_000_000_000) -> None:
        self._now_ns = start_ns
        self._unix_start_ms = unix_start_ms

    def now_ns(self) -> int:
        return self._now_ns

    def unix_ms(self) -> int:
        return self._unix_start_ms + self._now_ns // NS_PER_MS

    def advance_to(self, now_ns: int) -> None:
        """Move forward to `now_ns`; moving back is a bug of the caller."""
        assert now_ns >= self._now_ns, (now_ns, self._now_ns)
        self._now_ns = now_ns
