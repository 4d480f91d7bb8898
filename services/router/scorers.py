"""Scorers: what a placement costs; the lowest is best."""

from __future__ import annotations

from collections.abc import Callable

from services.core.cost import decode_step_ms, prefill_ms
from services.core.registry import Registry
from services.router.filters import Placement
from services.router.view import WorkerView

Scorer = Callable[[Placement, WorkerView], float]
SCORERS: Registry[Scorer] = Registry("scorer", "router.scorer")


@SCORERS.register("least_work")
def least_work(question: Placement, worker: WorkerView) -> float:
    """Milliseconds of work that the worker has before or beside this request, whatever role it is asked for.

    Queued prompts, reported and reserved; and, where the worker decodes, one step of its decodes: a prompt waits for
    the former and shares every step with the latter. The used share of the KV pool keeps a full pool last.
    """
    report, cost = worker.report, question.cost
    work = prefill_ms(cost, report.queued_prefill_tokens + worker.reserved_prompt_tokens)
    if "decode" in report.roles:
        work += decode_step_ms(cost, report.running_decodes + worker.reserved_decodes, report.context_tokens)
    return work + report.kv_blocks_used / max(report.kv_blocks_total, 1)


@SCORERS.register("least_requests")
def least_requests(question: Placement, worker: WorkerView) -> float:
    """Requests on the worker, whatever their lengths: what most load balancers count."""
    waiting = worker.report.tasks - worker.report.running_decodes if question.role == "prefill" else 0
    reserved = worker.reserved_prompts if question.role == "prefill" else worker.reserved_decodes
    return float(worker.report.running_decodes + waiting + reserved)


@SCORERS.register("round_robin")
def round_robin(_question: Placement, worker: WorkerView) -> float:
    """In turn: the worker whose last request lies furthest back."""
    return float(worker.turn)
