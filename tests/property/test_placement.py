"""Placement by predicted times: the best of all pairs, monotone, and spread while reports are stale."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.actions import Dispatch, Submit
from services.core.request import WorkerRef
from services.router.choose import AVOIDED_MS, Chooser, Question
from services.router.config import RouterConfig
from services.router.fleet import Fleet
from services.router.flow import RequestFlow
from services.router.predict import Predictor
from tests.factories import make_request
from tests.unit.router.test_flow import report

BLOCK = 16
NOW = 10**9
LIMITS = {"queued_prefill_tokens": 5000, "running_decodes": 60, "context_tokens": 60_000, "kv_blocks_used": 3900}
LOADS = st.fixed_dictionaries({name: st.integers(0, most) for name, most in LIMITS.items()})


def fleet_of(loads: list[dict[str, int]], roles: list[tuple[str, ...]], hosts: int = 3) -> Fleet:
    fleet = Fleet("door")
    for number, (load, role) in enumerate(zip(loads, roles, strict=True)):
        ref = WorkerRef(f"w{number:03}", 1)
        fleet.report(NOW, report(ref, role, kv_blocks_total=4000, store_address=f"h{number % hosts}:1", **load))
    return fleet


def predictor_of() -> Predictor:
    predictor = Predictor(RouterConfig().cost)
    for tokens in range(64, 2048, 32):
        predictor.transfers[True].observe((1.0, tokens), 2 + tokens * 0.005)
        predictor.transfers[False].observe((1.0, tokens), 10 + tokens * 0.08)
    return predictor


def question(tokens: int, hits: dict[int, int], ttft_ms: float = math.inf, tpot_ms: float = math.inf) -> Question:
    return Question(tokens, hits, 128, 400, ttft_ms, tpot_ms)


def cost_of_all(
    fleet: Fleet, predictor: Predictor, asked: Question, config: RouterConfig
) -> dict[tuple[int, int], float]:
    """Every pair, looked at alone: all other workers are refused."""
    chooser, found = Chooser(config, BLOCK), {}
    rows = list(fleet.rows.values())
    for first in rows:
        for second in rows:
            if "decode" in first.roles and first is not second:
                continue  # who decodes keeps its own prompts
            refused = frozenset(row.number for row in rows if row not in (first, second))
            alone = replace(asked, refused=refused)
            decision = chooser.choose(NOW, fleet, predictor, alone)
            if decision is not None:
                pair = fleet.rows[decision.prefill.worker_id].number, fleet.rows[decision.decode.worker_id].number
                found[pair] = decision.cost_ms
    return found


ROLES = st.sampled_from([("prefill",), ("decode",), ("prefill", "decode")])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(LOADS, ROLES), min_size=2, max_size=14),
    st.integers(1, 3000),
    st.data(),
)
def test_the_choice_is_the_best_of_all_pairs(
    workers: list[tuple[dict[str, int], tuple[str, ...]]], tokens: int, data: Any
) -> None:
    fleet = fleet_of([load for load, _ in workers], [roles for _, roles in workers])
    hits = {row: data.draw(st.integers(0, (tokens - 1) // BLOCK)) * BLOCK for row in range(0, len(fleet.rows), 2)}
    asked = question(tokens, hits, *data.draw(st.sampled_from([(math.inf, math.inf), (900.0, 120.0)])))
    config, predictor = RouterConfig(), predictor_of()
    decision = Chooser(config, BLOCK).choose(NOW, fleet, predictor, asked)
    every = cost_of_all(fleet, predictor, asked, config)
    if decision is None:
        assert not every
        return
    assert decision.cost_ms <= min(every.values()) + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.lists(LOADS, min_size=4, max_size=4), st.integers(17, 3000), st.sampled_from(sorted(LIMITS)), st.data())
def test_more_load_is_never_more_attractive_and_a_longer_prefix_never_less(
    loads: list[dict[str, int]], tokens: int, grown: str, data: Any
) -> None:
    roles: list[tuple[str, ...]] = [("prefill",), ("prefill",), ("decode",), ("decode",)]
    chooser, predictor = Chooser(RouterConfig(), BLOCK), predictor_of()
    asked = question(tokens, {}, *data.draw(st.sampled_from([(math.inf, math.inf), (900.0, 120.0)])))
    before = chooser.choose(NOW, fleet_of(loads, roles), predictor, asked)
    assert before is not None
    for row, name in enumerate(f"w{number:03}" for number in range(4)):
        if name in (before.prefill.worker_id, before.decode.worker_id):
            continue
        more = [dict(load) for load in loads]
        more[row][grown] = min(more[row][grown] + data.draw(st.integers(1, 3000)), 3999 if "blocks" in grown else 10**6)
        after = chooser.choose(NOW, fleet_of(more, roles), predictor, asked)
        assert after is not None
        assert name not in (after.prefill.worker_id, after.decode.worker_id), (
            "it became busier, and was not chosen before"
        )
    chosen = int(before.prefill.worker_id[1:])
    hit = data.draw(st.integers(0, (tokens - 1) // BLOCK)) * BLOCK
    longer = chooser.choose(
        NOW, fleet_of(loads, roles), predictor, question(tokens, {chosen: hit}, asked.ttft_ms, asked.tpot_ms)
    )
    assert longer is not None
    assert longer.prefill == before.prefill
    assert longer.cost_ms <= before.cost_ms + 1e-6 < AVOIDED_MS


@pytest.mark.parametrize("stale_ms", [50, 200, 500])
def test_requests_spread_while_reports_are_stale(stale_ms: int) -> None:
    """Equal workers, requests of equal size between two reports: nobody gets more than its share and one."""
    flow = RequestFlow("door", RouterConfig.model_validate({"admission": {"hold_ms": 1e9}}), BLOCK)
    workers = [WorkerRef(f"{role}-{number}", 1) for role in ("prefill", "decode") for number in range(8)]
    for worker in workers:
        idle = worker.worker_id.endswith("3")  # one looks idle in the last report
        load = 0 if idle else 40
        flow.handle(0, report(worker, (worker.worker_id.split("-")[0],), queued_prefill_tokens=load))
    counts: dict[str, int] = {}
    for number in range(40):
        now = number * stale_ms * 1_000_000 // 40
        (action,) = flow.handle(
            now, Submit("door", make_request(f"r{number}", tuple(range(1000 * number, 1000 * number + 300))))
        )
        assert isinstance(action, Dispatch) and action.request.handoff_to is not None
        for name in (action.to.worker_id, action.request.handoff_to.worker_id):
            counts[name] = counts.get(name, 0) + 1
        flow.check()
    assert len(counts) == 16
    assert max(counts.values()) <= 40 / 8 + 1
