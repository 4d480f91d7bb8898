"""Which front doors there are: they share their ports, so nobody outside can tell them apart or find a certain one."""

from __future__ import annotations

from services.core.clock import NS_PER_S

HEARD_EVERY_S = 5.0
FORGET_NS = int(3 * HEARD_EVERY_S * NS_PER_S)


class FrontDoors:
    """What front doors said of themselves, each every `HEARD_EVERY_S`."""

    def __init__(self) -> None:
        self._doors: dict[str, tuple[int, str]] = {}

    def hear(self, now: int, front_door: str, metrics_address: str) -> dict[str, str]:
        """Note one; all of which something was heard lately: host:port of their /metrics by id, in order of ids."""
        self._doors[front_door] = (now, metrics_address)
        self._doors = {door: heard for door, heard in self._doors.items() if now - heard[0] <= FORGET_NS}
        return {door: self._doors[door][1] for door in sorted(self._doors)}
