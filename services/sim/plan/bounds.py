"""What a worker can take at the very most, without a simulation: what decides which ones are simulated at all.

Both bounds are above what a simulation finds: nobody waits, batches are always full, memory is never short twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from services.sim.cost_model import CostModel, StepShape
from services.sim.plan.goodput import Objective, Unit
from services.sim.plan.queueing import pipeline
from services.sim.plan.solo import Phase
from services.sim.plan.workload import Workload

LOOKED_AT = 400
"""Prompts of the sample that are looked at; what they cost is asked one by one."""
MOST_ROWS = 4096
SLACK = 1.2
"""Steps may be that much longer than the bound on the time per token, and half of the requests still be within it."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Upper bounds of one worker.

    Attributes:
        rate: requests a second; 0 when the objective cannot be met by it even without load.
        constraint: what bounds it: ttft, tpot, memory or compute.
        alone_ms: the latency that the constraint is about, of a request that is alone; at the attainment's quantile.
    """

    rate: float
    constraint: str
    alone_ms: float
    start: float


def bound(unit: Unit, workload: Workload, objective: Objective) -> Bound:
    """The bound of a worker in its phase."""
    if unit.phase is Phase.ENCODE:
        return encode_bound(unit, workload, objective)
    if unit.phase is Phase.PREFILL:
        return prefill_bound(unit, workload, objective)
    if unit.phase is Phase.DECODE:
        return decode_bound(unit, workload, objective)
    prompts, tokens = prefill_bound(unit, workload, objective), decode_bound(unit, workload, objective)
    if not prompts.rate or not tokens.rate:
        return prompts if not prompts.rate else tokens
    # One worker does both, one after the other.
    rate = 1 / (1 / prompts.rate + 1 / tokens.rate)
    start = 1 / (1 / prompts.start + 1 / tokens.start)
    first = prompts if prompts.rate < tokens.rate else tokens
    return Bound(rate, first.constraint, first.alone_ms, start)


def prompt_ms(cost: CostModel, tokens: int, budget: int) -> tuple[float, float]:
    """Time that a prompt keeps its worker busy, and until its first token is out; alone, in chunks of `budget`."""
    busy = lag = 0.0
    for start in range(0, tokens, budget):
        count = min(budget, tokens - start)
        time = cost.step(StepShape(1, count, count * (start + (count + 1) / 2), start, 0, 0))
        busy, lag = busy + time.busy_ns / 1e6, time.lag_ns / 1e6
    return busy, busy + lag


def prefill_bound(unit: Unit, workload: Workload, objective: Objective) -> Bound:
    """Prompts one after the other without a gap, the fixed part of a step shared by as many as the budget takes."""
    cost, budget = unit.instance.cost, unit.max_batch_tokens
    lengths = workload.prompts[:LOOKED_AT]
    times = np.array([prompt_ms(cost, int(each), budget) for each in lengths])
    if workload.pictures is not None and not unit.embedded:
        times += np.array([pictures_ms(cost, int(each), workload) for each in workload.pictures[:LOOKED_AT]])[:, None]
    busy_s, alone_ms = float(times[:, 0].mean()) / 1e3, times[:, 1] + objective.overhead_ms
    alone = float(np.quantile(alone_ms, objective.attainment, method="lower"))
    if alone > objective.ttft_ms:
        return Bound(0.0, "ttft", alone, 0.0)
    fixed_s = cost.step(StepShape(1, 1, 1.0, 0, 0, 0)).busy_ns / 1e9
    together = max(1.0, budget / float(lengths.mean()))
    rate = 1 / max(busy_s - fixed_s * (1 - 1 / together), 1e-9)
    stages = unit.instance.stages
    return Bound(rate, "compute", alone, _mean_rate(busy_s, stages, objective.ttft_ms / 1e3, objective.overhead_ms))


def pictures_ms(cost: CostModel, pictures: int, workload: Workload) -> float:
    """Time to encode pictures in one step; 0 for none."""
    shape = StepShape(0, 0, 0.0, 0, 0, 0, pictures, pictures * workload.image_tokens)
    return cost.step(shape).busy_ns / 1e6 if pictures else 0.0


def encode_bound(unit: Unit, workload: Workload, objective: Objective) -> Bound:
    """Pictures one after the other, the tower read once for many."""
    cost = unit.instance.cost
    alone = pictures_ms(cost, 1, workload)
    if alone > objective.ttft_ms:
        return Bound(0.0, "ttft", alone, 0.0)
    each_s = max(pictures_ms(cost, 2, workload) - alone, 1e-6) / 1e3
    most = 1 / (each_s * workload.mean_pictures)
    return Bound(
        most, "compute", alone, _mean_rate(alone / 1e3, 1, objective.ttft_ms / 1e3, 0.0) / workload.mean_pictures
    )


def _mean_rate(busy_s: float, stages: int, ttft_s: float, overhead_ms: float) -> float:
    """Where the mean of the M/D/1 queue meets half of the bound: a rate to begin a search with."""
    low, high = 0.0, 1 / busy_s
    for _ in range(20):
        middle = (low + high) / 2
        waits = pipeline(middle, busy_s * stages, stages) + overhead_ms / 1e3
        low, high = (middle, high) if waits < ttft_s / 2 else (low, middle)
    return max(low, 0.05 / busy_s)


def decode_bound(unit: Unit, workload: Workload, objective: Objective) -> Bound:
    """The most decodes whose steps keep the time per token and whose KV fits, always running."""
    instance = unit.instance
    inputs, outputs = workload.prompts, workload.outputs
    steps = np.maximum(outputs - 1, 0)
    total = float(steps.sum())
    if total == 0:
        return Bound(math.inf, "compute", 0.0, 1.0)
    context = float(((inputs + outputs / 2) * steps).sum() / total)  # of a decode that is picked at any time
    alone = _step_ms(instance.cost, 1, context)
    if alone > objective.tpot_ms:
        return Bound(0.0, "tpot", alone, 0.0)
    low, high = 1, MOST_ROWS
    while low < high:
        middle = (low + high + 1) // 2
        fits = _step_ms(instance.cost, middle, context) <= SLACK * objective.tpot_ms
        low, high = (middle, high) if fits else (low, middle - 1)
    in_memory = max(1, int(instance.tokens / context))
    rows, constraint = (low, "tpot") if low <= in_memory else (in_memory, "memory")
    per_request = total / len(outputs)
    rate = rows / (_step_ms(instance.cost, rows, context) / 1e3 * per_request)
    return Bound(rate, constraint, alone, 0.8 * rate)


def _step_ms(cost: CostModel, rows: int, context: float) -> float:
    return cost.step(StepShape(0, 0, 0.0, 0, rows, int(rows * context))).busy_ns / 1e6
