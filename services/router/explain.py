"""Where a request would go now, and why; nothing is dispatched, reserved, learned or counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.core.clock import NS_PER_S
from services.core.request import Request, WorkerRef
from services.router.admission import Refusal
from services.router.config import RouterConfig
from services.router.decision import Decision
from services.router.filters import FILTERS, Placement
from services.router.flow import RequestFlow
from services.router.placing import Placed, Placing
from services.router.profiles import NoCandidate
from services.router.running import Running
from services.router.view import WorkerView

STAGES = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker in one stage.

    Attributes:
        excluded_by: the first filter that it does not pass; "" where it passes all.
        decision: the placement on it and on the chosen worker of the other stage; None where there is none.
    """

    worker: WorkerRef
    stage: str
    chosen: bool
    excluded_by: str
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would happen to a request.

    Attributes:
        expected_tokens: output length that placement reckons with.
        placed: where it would go, or why nowhere.
        decision: the numbers of that; None where there are none.
        refusal: why it is not taken; None where it is.
        held: it would wait at the front door, `waits_ms` if others do already.
    """

    candidates: tuple[Candidate, ...]
    expected_tokens: int
    placed: Placed | NoCandidate
    decision: Decision | None
    refusal: Refusal | None
    held: bool
    waits_ms: float


def explain(now: int, request: Request, flow: RequestFlow, most: int) -> Explanation:
    """What would happen to a request that came now.

    Args:
        most: workers that are told of each stage.
    """
    placing, holding, config = flow.placing.aside(), flow.holding, flow.config
    running = Running(request, None)
    placed = placing.place(now, running, [], [])
    decision: Decision | None = None
    if isinstance(placed, Placed):
        decision = placed.decision or _alone(now, running, placing, placed.prefill, placed.decode)
    candidates = tuple(_candidates(now, running, placing, config, placed, most))
    lengths, most_tokens = placing.predictor.lengths, request.sampling.max_tokens
    expected = lengths.quantile(request.tenant, request.category, 0.5, most_tokens)
    if not isinstance(placed, Placed) or placed.decision is None:  # admission needs predictions
        return Explanation(candidates, expected, placed, decision, None, False, 0.0)
    refusal = holding.judge(request.priority, placed.decision, placing.objectives(request))
    held = len(holding.queue) > 0 or holding.must_wait(placed.decision)
    waits_ms = holding.waits_ms(request.priority, placed.decision)
    return Explanation(candidates, expected, placed, decision, refusal, held, waits_ms)


def _candidates(
    now: int, running: Running, placing: Placing, config: RouterConfig, placed: Placed | NoCandidate, most: int
) -> Iterator[Candidate]:
    """Of each stage the chosen worker and others by id, each as if the other stage's choice stood."""
    views = placing.view.snapshot().workers
    for stage in STAGES:
        place = Placement(now, stage, running.request, int(config.stale_report_s * NS_PER_S), config.cost)
        chosen = getattr(placed, stage) if isinstance(placed, Placed) else None
        others = [each.worker for each in views.values() if each.worker != chosen]
        shown = sorted([*([chosen] if chosen else []), *others[: most - (chosen is not None)]], key=_name)
        for worker in shown:
            excluded = "" if worker == chosen else _excluded_by(place, views[worker.worker_id], config)
            decision = None
            if not excluded and isinstance(placed, Placed):
                pair = (worker, placed.decode) if stage == "prefill" else (placed.prefill, worker)
                decision = _alone(now, running, placing, *pair)
            yield Candidate(worker, stage, worker == chosen, excluded, decision)


def _name(worker: WorkerRef) -> str:
    return worker.worker_id


def _alone(now: int, running: Running, placing: Placing, prefill: WorkerRef, decode: WorkerRef) -> Decision | None:
    """The placement if these two were the only workers; None where they cannot do it."""
    refused = [each.worker for each in placing.view.snapshot().workers.values() if each.worker not in (prefill, decode)]
    return placing.predict(now, running, refused, [])


def _excluded_by(place: Placement, worker: WorkerView, config: RouterConfig) -> str:
    return next((name for name in config.filters if not FILTERS.get(name)(place, worker)), "")
