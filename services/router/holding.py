"""Requests at the gate: judged by their prediction, held in fair order while every worker has enough to do."""

from __future__ import annotations

from services.core.clock import NS_PER_MS
from services.router.admission import ADMISSION, Gate, Refusal
from services.router.config import AdmissionConfig
from services.router.decision import Decision
from services.router.fair_queue import FairQueue, TenantCounters
from services.router.running import Running

NO_OBJECTIVE_MS = 60_000.0
"""What a request without an objective is ordered by."""


class Holding:
    """The gate of one front door.

    Attributes:
        counters: what each tenant was served.
        queue: requests that wait.
        refused: how many were not taken, by reason.
    """

    def __init__(self, config: AdmissionConfig) -> None:
        self._config = config
        self._admit = ADMISSION.get(config.policy)
        self.refused: dict[str, int] = {}
        self.counters = TenantCounters()
        self.queue = FairQueue(self.counters)

    def refusal(self, running: Running, decision: Decision | None, objectives: tuple[float, float]) -> Refusal | None:
        """Why a request is not taken; None: it is."""
        if decision is None:
            return None
        found = self.judge(running.request.priority, decision, objectives)
        if found is not None:
            self.refused[found.reason] = self.refused.get(found.reason, 0) + 1
        return found

    def judge(self, priority: int, decision: Decision, objectives: tuple[float, float]) -> Refusal | None:
        """The same, for whoever only asks."""
        waits_ms = self.waits_ms(priority, decision)
        return self._admit(Gate(decision, waits_ms, *objectives, priority, self._config.reject_above))

    def waits_ms(self, priority: int, decision: Decision) -> float:
        """Predicted wait at the front door before a request could be dispatched."""
        return self.queue.work_before(priority) / max(decision.prefill_candidates, 1) if len(self.queue) else 0.0

    def must_wait(self, decision: Decision | None) -> bool:
        """Whether there is so much at the workers that order matters."""
        return decision is not None and decision.wait_ms > self._config.hold_ms

    def enter(self, running: Running) -> None:
        """A request was taken."""
        self.counters.enter(running.request.tenant)

    def hold(self, now: int, running: Running, decision: Decision | None, ttft_ms: float) -> None:
        """Let it wait."""
        request = running.request
        due_ns = now + int(min(ttft_ms, NO_OBJECTIVE_MS) * NS_PER_MS)
        work_ms = 0.0 if decision is None else decision.prefill_ms
        running.held = True
        self.queue.push(request.request_id, request.priority, request.tenant, due_ns, work_ms)

    def dispatched(self, running: Running) -> None:
        """It goes to its workers."""
        if running.held:
            running.held = False
            self.queue.remove(running.request.request_id)
        self.counters.prompt(running.request.tenant, len(running.request.known_tokens))

    def leave(self, running: Running) -> None:
        """It is over."""
        if running.held:
            self.queue.remove(running.request.request_id)
        self.counters.leave(running.request.tenant)

    def state(self) -> object:
        """Who waits, and who was served what."""
        return [self.counters.state(), self.queue.state(), dict(self.refused)]
