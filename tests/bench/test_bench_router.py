"""Processor time of one placement by predicted times, with as many workers as a large fleet has."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from services.core.actions import Dispatch, Outputs, RequestOutput, Submit
from services.core.request import FinishReason, WorkerRef
from services.router.config import RouterConfig
from services.router.flow import RequestFlow
from tests.factories import make_request
from tests.unit.router.test_flow import report

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
P50_MS = {64: 0.3, 1000: 2.0}
ADDITIONS = {64: 1000, 1000: 3000}
"""Most additions of two arrays of 64 numbers that a placement may cost: what a busy machine does not change."""


def addition_ms() -> float:
    """Processor ms of adding two arrays of 64 numbers, here and now."""
    numbers = np.ones(64)
    begun = time.process_time_ns()
    for _ in range(10_000):
        numbers + numbers
    return (time.process_time_ns() - begun) / 1e6 / 10_000


def decision_ms(workers: int, count: int = 400) -> np.ndarray:  # type: ignore[type-arg]
    """Processor ms from a request's arrival to its dispatch: float64, [count].

    Half of the workers compute prompts; a tenth of them reports between two requests. Prompts have 1,024 tokens, of
    which the first half is one of fifty prefixes.
    """
    chance = random.Random(1)
    flow = RequestFlow("door", RouterConfig.model_validate({"admission": {"hold_ms": 1e9}}), 16)
    refs = [WorkerRef(f"{role}-{number}", 1) for role in ("prefill", "decode") for number in range(workers // 2)]

    def tell(ref: WorkerRef, sequence: int) -> None:
        load = {"queued_prefill_tokens": chance.randrange(3000), "running_decodes": chance.randrange(40)}
        more = {"context_tokens": chance.randrange(40_000), "kv_blocks_total": 10_000, "dispatch_sequence": sequence}
        flow.handle(sequence, report(ref, (ref.worker_id.partition("-")[0],), sequence, **load, **more))

    for ref in refs:
        tell(ref, 1)
    prefixes = [tuple(chance.randrange(50_000) for _ in range(512)) for _ in range(50)]
    found = []
    for number in range(count):
        for ref in chance.sample(refs, max(1, workers // 10)):
            tell(ref, number + 2)
        prompt = chance.choice(prefixes) + tuple(chance.randrange(50_000) for _ in range(512))
        event = Submit("door", make_request(f"r{number}", prompt, block_size=16, max_tokens=1))
        begun = time.process_time_ns()
        (action,) = flow.handle(number + 2, event)
        found.append((time.process_time_ns() - begun) / 1e6)
        assert isinstance(action, Dispatch)
        end = RequestOutput(f"r{number}", action.request.attempt, 0, (7,), FinishReason.LENGTH)
        flow.handle(number + 2, Outputs(action.to, (end,)))
    return np.array(found)


@pytest.mark.parametrize("workers", sorted(P50_MS))
def test_a_placement_is_a_small_part_of_a_token(workers: int) -> None:
    took, unit = decision_ms(workers), addition_ms()
    p50, p99 = np.percentile(took, [50, 99])
    print(f"\n{workers} workers: p50 {p50:.3f} ms (asked {P50_MS[workers]}), p99 {p99:.3f} ms of processor time")
    print(f"p50 is that of {p50 / unit:.0f} additions of 64 numbers, {unit * 1000:.2f} us each")
    assert p50 <= ADDITIONS[workers] * unit
