"""From a drift to a proposal: one plan at a time, on the traffic that was seen last. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from services.controller.replan.config import ReplanConfig
from services.controller.replan.drift import DriftDetector, Level
from services.core.actions import Tick
from services.core.clock import NS_PER_S
from services.core.wire import TrafficRow

KEPT_ROWS = 5000
"""Requests that a plan is made on."""


@dataclass(frozen=True, slots=True)
class TrafficSeen:
    """A front door's requests since it spoke last."""

    source: str
    rows: tuple[TrafficRow, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """The planner answered.

    Attributes:
        replicas: workers by pool; empty when the plan cannot be reached by scaling.
        text: the placement in words, or why there is none.
    """

    source: str
    replicas: tuple[tuple[str, int], ...]
    text: str


@dataclass(frozen=True, slots=True)
class MakePlan:
    """Ask the planner for a cluster that takes `rate` requests a second of these lengths; answered by Planned."""

    rate: float
    rows: tuple[TrafficRow, ...]


@dataclass(frozen=True, slots=True)
class ApplyPlan:
    """Scale the pools."""

    replicas: tuple[tuple[str, int], ...]


ReplanEvent = TrafficSeen | Planned | Tick
ReplanAction = MakePlan | ApplyPlan


class Replanner:
    """Watches for drift, has plans made, and keeps the last proposal.

    Args:
        present: workers by pool when it begins; the caller keeps it up to date with `scaled`.

    Attributes:
        proposal: what `triptych status` shows; "" while there is none.
        outcomes: plans by what came of them: applied, proposed, unchanged (the present pools are the best), refused
            (there is no plan, or none that scaling reaches).
    """

    def __init__(self, config: ReplanConfig, present: Mapping[str, int], began_ns: int) -> None:
        self._config = config
        self._detector = DriftDetector(config, began_ns)
        self._present = dict(present)
        self._rows: deque[TrafficRow] = deque(maxlen=KEPT_ROWS)
        self._drift: tuple[Level, Level] | None = None  # waits for its plan
        self._planning = False
        self._not_before_ns = began_ns
        self.proposal = ""
        self.outcomes: Counter[str] = Counter()

    def handle(self, now: int, event: ReplanEvent) -> list[ReplanAction]:
        """One event in, what is to be done out."""
        match event:
            case TrafficSeen():
                self._rows += event.rows
                self._detector.add(event.rows)
            case Planned():
                return self._planned(event)
            case Tick():
                found = self._detector.tick(now)
                if found is not None:  # a plan for what comes now must not rest on what came before
                    self._rows = deque(self._detector.drifted, maxlen=KEPT_ROWS)
                self._drift = self._merged(found)
        if self._drift is None or self._planning or now < self._not_before_ns or not self._rows:
            return []
        self._planning = True
        self._not_before_ns = now + int(self._config.cooldown_s * NS_PER_S)
        return [MakePlan(self._drift[1].rate, tuple(self._rows))]

    def _merged(self, found: tuple[Level, Level] | None) -> tuple[Level, Level] | None:
        """A drift that came while another one waits goes on from where that began."""
        if found is None or self._drift is None:
            return found or self._drift
        return self._drift[0], found[1]

    def _planned(self, event: Planned) -> list[ReplanAction]:
        drift, self._drift, self._planning = self._drift, None, False
        assert drift is not None
        why = f"traffic drifted from {drift[0]} to {drift[1]}"
        changes = [(pool, count) for pool, count in event.replicas if self._present.get(pool) != count]
        if not event.replicas:
            self.outcomes["refused"] += 1
            self.proposal = f"{why}; {event.text}"
            return []
        if not changes:
            self.outcomes["unchanged"] += 1
            self.proposal = f"{why}; the present pools are the best for it ({event.text})"
            return []
        steps = ", ".join(f"{pool} {self._present.get(pool, 0)} -> {count}" for pool, count in changes)
        applied = self._config.mode == "apply"
        self.outcomes["applied" if applied else "proposed"] += 1
        changes.sort(key=lambda each: each[1] - self._present.get(each[0], 0))  # those that shrink make room
        self.proposal = f"{why}; {'applied' if applied else 'proposed'}: {steps} ({event.text})"
        return [ApplyPlan(tuple(changes))] if applied else []

    def scaled(self, present: Mapping[str, int]) -> None:
        """Pools have other sizes now."""
        self._present = dict(present)

    def next_wake(self, now: int) -> int:
        """When a Tick may do something."""
        return self._detector.next_wake(now)

    def state(self) -> object:
        """Everything that decides."""
        return {
            "detector": self._detector.state(),
            "present": [[pool, count] for pool, count in self._present.items()],
            "rows": len(self._rows),
            "drift": None if self._drift is None else [str(each) for each in self._drift],
            "planning": self._planning,
            "not_before_ns": self._not_before_ns,
            "proposal": self.proposal,
            "outcomes": [[outcome, count] for outcome, count in self.outcomes.items()],
        }
