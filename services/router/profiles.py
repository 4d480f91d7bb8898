"""Filter, score, pick: one decision for one role."""

from __future__ import annotations

from dataclasses import dataclass

from services.core.clock import NS_PER_S
from services.core.request import Request
from services.router.config import RouterConfig
from services.router.filters import FILTERS, Placement
from services.router.pickers import PICKERS
from services.router.scorers import SCORERS
from services.router.view import ClusterView, WorkerView


@dataclass(frozen=True, slots=True)
class NoCandidate:
    """Nobody can take the role; `refused` counts workers by the filter that refused them."""

    role: str
    refused: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} not {name}" for name, count in self.refused) or "no worker has reported"
        return f"no worker can {self.role} now ({reasons})"


class Profile:
    """The configured filters, scorer and picker."""

    def __init__(self, config: RouterConfig) -> None:
        self._filters = [(name, FILTERS.get(name)) for name in config.filters]
        self._score = SCORERS.get(config.scorer)
        self._pick = PICKERS.get(config.picker)
        self._stale_report_ns = int(config.stale_report_s * NS_PER_S)

    def place(self, now: int, view: ClusterView, role: str, request: Request) -> WorkerView | NoCandidate:
        """The worker for one role of a request, or why there is none."""
        question = Placement(now, role, request, self._stale_report_ns)
        candidates = list(view.workers.values())
        refused = []
        for name, passes in self._filters:
            kept = [worker for worker in candidates if passes(question, worker)]
            if len(kept) < len(candidates):
                refused.append((name, len(candidates) - len(kept)))
            candidates = kept
        if not candidates:
            return NoCandidate(role, tuple(refused))
        return self._pick([(self._score(question, worker), worker) for worker in candidates])
