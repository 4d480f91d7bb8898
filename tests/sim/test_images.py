"""Requests with images: encoded apart or beside their prompt, regrouped in order; faults leave nothing behind."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from services.cluster.replay import build_machine
from services.core.decision_log import replay
from services.core.slo import Outcome
from services.core.workload import WorkloadRow
from services.sim.cluster import SimCluster
from services.sim.config import ImagesConfig, SimConfig
from services.sim.cost_model import FittedCost, Linear, WithImages
from services.sim.faults import faults_from
from services.sim.outcome import SimRun
from services.sim.pools import Options, SimPool
from tests.sim.runs import BLOCK_BYTES, NO_DELAYS, config_of, conserved

TOKENS = 640
COST = WithImages(FittedCost(Linear(2.0, 0.1, 0.0), Linear(10.0, 0.1, 0.0)), Linear(5.0, 0.0, 200.0))
ROWS = [WorkloadRow(number * 0.4, 22, 8, images=number % 5) for number in range(15)]


def pool(name: str, workers: int, *roles: str) -> SimPool:
    return SimPool(name, roles or (name,), workers, COST, 2000, BLOCK_BYTES)


APART = [pool("encode", 4), pool("prefill", 2), pool("decode", 1)]
BESIDE = [pool("prefill", 6, "encode", "prefill"), pool("decode", 1)]


def simulated(
    pools: list[SimPool], rows: list[WorkloadRow] = ROWS, **options: Any
) -> tuple[SimCluster, SimRun, list[float]]:
    """The cluster, the run, and each request's time to first token in ms."""
    sim = SimConfig(delays=NO_DELAYS, images=ImagesConfig(tokens=TOKENS))
    cluster = SimCluster(config_of(), pools, sim, Options(**{"check": True, **options}))
    run = cluster.run(rows)
    conserved(cluster, run, len(rows))
    return cluster, run, [sample.ttft_ms() or 0.0 for sample in sorted(run.samples, key=lambda each: each.index)]


def test_images_are_encoded_side_by_side_and_the_prompt_waits_for_the_last() -> None:
    rows = [WorkloadRow(5.0 * images, 22, 2, images=images) for images in range(4)]
    _, _, apart = simulated(APART, rows)
    _, _, beside = simulated(BESIDE, rows)
    prompts = [2.0 + 0.1 * (22 + TOKENS * images) for images in range(4)]
    assert apart[0] == beside[0] == pytest.approx(prompts[0])
    for images in range(1, 4):
        sent = apart[images] - 205.0 - prompts[images]
        assert 0 < sent < 10, "one image of each worker, one hand-off, the prompt"
        # Two images share a step, whose fixed part is 5 ms.
        steps = -(-images // 2)
        assert beside[images] == pytest.approx(5.0 * steps + 200.0 * images + prompts[images])


@pytest.mark.parametrize("pools", [APART, BESIDE, [pool("both", 3, "encode", "prefill", "decode")]])
def test_every_request_is_answered_wherever_its_images_are_encoded(pools: list[SimPool]) -> None:
    cluster, run, _ = simulated(pools)
    assert {sample.outcome for sample in run.samples} == {Outcome.OK}
    encoders = [worker for worker in cluster.workers.values() if "encode" in worker.body.roles]
    assert sum(worker.use.steps > 0 for worker in encoders) > 1, "more than one encodes"


def test_crashes_and_stalls_of_encoders_cost_retries_and_no_blocks() -> None:
    faults = [
        {"kind": "crash", "at_s": 1.05, "target": "encode-0"},
        {"kind": "crash", "at_s": 1.8, "target": "prefill-1"},
        {"kind": "stall", "at_s": 3.3, "target": "encode-2", "lasts_s": 1.5},
        {"kind": "partition", "at_s": 5.2, "target": "encode-3", "other": "prefill-0", "lasts_s": 2.0},
    ]
    _, run, _ = simulated(APART, faults=faults_from(faults))
    assert {sample.outcome for sample in run.samples} == {Outcome.OK}
    assert run.moves


def test_recorded_decisions_with_images_replay_exactly() -> None:
    logs: dict[str, io.StringIO] = {}

    def record(name: str) -> Callable[[str], object]:
        return logs.setdefault(name, io.StringIO()).write

    simulated(APART, ROWS[:8], record=record)
    for name, log in logs.items():
        result = replay(io.StringIO(log.getvalue()), build_machine)
        assert result.entries and result.mismatch is None, name
