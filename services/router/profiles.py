"""Filter, score, pick: one decision for one role."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from services.core.clock import NS_PER_S
from services.core.request import Request, WorkerRef
from services.router.config import RouterConfig
from services.router.filters import FILTERS, OF_SHAPE, Placement
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
        self._of_shape = [passes for name, passes in self._filters if name in OF_SHAPE]
        self._of_time = [passes for name, passes in self._filters if name not in OF_SHAPE]
        self._hosts: dict[str, tuple[int, list[str]]] = {}
        self._score = SCORERS.get(config.scorer)
        self._pick = PICKERS.get(config.picker)
        self._cost = config.cost
        self._stale_report_ns = int(config.stale_report_s * NS_PER_S)

    def place(
        self,
        now: int,
        view: ClusterView,
        role: str,
        request: Request,
        refused: Collection[WorkerRef] = (),
        avoided: Collection[WorkerRef] = (),
        near: WorkerRef | None = None,
    ) -> WorkerView | NoCandidate:
        """The worker for one role of a request, or why there is none.

        Args:
            refused: workers that are no candidates.
            avoided: workers that are taken only when there are no others.
            near: a worker that is taken whatever it costs, unless it is refused or avoided.
        """
        question = Placement(now, role, request, self._stale_report_ns, self._cost)
        candidates = self._candidates(question, view)
        if refused:
            candidates = [worker for worker in candidates if worker.worker not in refused]
        if not candidates:
            return self._why_none(question, view, refused)
        if avoided:
            candidates = [worker for worker in candidates if worker.worker not in avoided] or candidates
        if near is not None:
            for worker in candidates:
                if worker.worker == near:
                    return worker
        score = self._score
        return self._pick([(score(question, worker), worker) for worker in candidates])

    def _candidates(self, question: Placement, view: ClusterView) -> list[WorkerView]:
        """Workers that pass every filter; what does not change from request to request is asked once."""
        workers = view.workers
        shape, names = self._hosts.get(question.role, (-1, []))
        if shape != view.shape:
            names = [name for name in workers if all(passes(question, workers[name]) for passes in self._of_shape)]
            self._hosts[question.role] = (view.shape, names)
        candidates = [workers[name] for name in names]
        for passes in self._of_time:
            candidates = [worker for worker in candidates if passes(question, worker)]
        return candidates

    def _why_none(self, question: Placement, view: ClusterView, refused: Collection[WorkerRef]) -> NoCandidate:
        candidates = list(view.workers.values())
        counts = []
        for name, passes in self._filters:
            kept = [worker for worker in candidates if passes(question, worker)]
            if len(kept) < len(candidates):
                counts.append((name, len(candidates) - len(kept)))
            candidates = kept
        willing = sum(worker.worker not in refused for worker in candidates)
        if willing < len(candidates):
            counts.append(("willing", len(candidates) - willing))
        return NoCandidate(question.role, tuple(counts))
