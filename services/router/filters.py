"""Hard filters: which workers may serve a role at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.core.config import CostConfig
from services.core.registry import Registry
from services.core.request import Request
from services.router.view import WorkerView


@dataclass(frozen=True, slots=True)
class Placement:
    """The question that filters and scorers answer: may, and should, `role` of `request` run on a worker?"""

    now: int
    role: str
    request: Request
    stale_report_ns: int
    cost: CostConfig


Filter = Callable[[Placement, WorkerView], bool]
FILTERS: Registry[Filter] = Registry("filter", "router.filters")
OF_SHAPE = frozenset({"has_role", "not_draining"})
"""Filters whose answers are the same as long as `ClusterView.shape` is."""


@FILTERS.register("alive")
def alive(question: Placement, worker: WorkerView) -> bool:
    """It reported lately: a silent worker is never taken for an idle one."""
    return question.now - worker.reported_ns < question.stale_report_ns


@FILTERS.register("has_role")
def has_role(question: Placement, worker: WorkerView) -> bool:
    """It hosts the stage now, whatever pool it was launched for."""
    return question.role in worker.report.roles


@FILTERS.register("not_draining")
def not_draining(question: Placement, worker: WorkerView) -> bool:
    """It takes new requests."""
    return not worker.report.draining
