"""What goes wrong, and when: the schedule of a simulated run's faults."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.core.errors import ConfigError


class FaultKind(StrEnum):
    """What can go wrong."""

    CRASH = "crash"  # the process of `target` dies; the controller starts another one
    STALL = "stall"  # the process of `target` stands still for `lasts_s`
    PARTITION = "partition"  # nothing passes between `target` and `other` for `lasts_s`; "door" is the front door
    SLOW_LINK = "slow_link"  # ports of the link class `target` are `factor` times slower for `lasts_s`


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, `at_s` seconds after the first request may come."""

    kind: FaultKind
    at_s: float
    target: str
    other: str = ""
    lasts_s: float = 0.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        where = f"fault {self.kind.value}"
        if self.at_s < 0:
            raise ConfigError(f"{where}: at_s", self.at_s, "must not be negative")
        if self.kind is not FaultKind.CRASH and self.lasts_s <= 0:
            raise ConfigError(f"{where}: lasts_s", self.lasts_s, "must be above 0: how long it lasts")
        if self.kind is FaultKind.PARTITION and not self.other:
            raise ConfigError(f"{where}: other", self.other, "name the other worker, or door")
        if self.kind is FaultKind.SLOW_LINK and self.factor < 1:
            raise ConfigError(f"{where}: factor", self.factor, "must be at least 1: how many times slower")


def faults_from(rows: object) -> tuple[Fault, ...]:
    """Faults from a list of mappings with the names of `Fault`'s fields.

    Raises:
        ConfigError: not such a list.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError("faults", rows, "write a list of mappings with kind, at_s and target")
    found = []
    for index, row in enumerate(rows):
        try:
            found.append(Fault(**{**row, "kind": FaultKind(row.get("kind", ""))}))
        except (TypeError, ValueError) as error:
            kinds = ", ".join(FaultKind)
            raise ConfigError(f"faults.{index}", row, f"{error}; kinds are {kinds}") from None
    return tuple(sorted(found, key=lambda fault: fault.at_s))
