"""Scorers: what a placement costs; the lowest is best."""

from __future__ import annotations

from collections.abc import Callable

from services.core.registry import Registry
from services.router.filters import Placement
from services.router.view import WorkerView

Scorer = Callable[[Placement, WorkerView], float]
SCORERS: Registry[Scorer] = Registry("scorer", "router.scorer")


@SCORERS.register("least_work")
def least_work(question: Placement, worker: WorkerView) -> float:
    """Tokens that the worker computes before or beside this request.

    Prefill: queued prompt tokens, reported and reserved. Decode: rows beside which each token is computed, and the
    share of the KV pool in use, which breaks ties and keeps a full pool last.
    """
    report = worker.report
    if question.role == "prefill":
        return float(report.queued_prefill_tokens + worker.reserved_prompt_tokens)
    used_share = report.kv_blocks_used / max(report.kv_blocks_total, 1)
    return report.running_decodes + worker.reserved_decodes + used_share
