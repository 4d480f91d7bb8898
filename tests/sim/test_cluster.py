"""Whole simulated runs: nothing is lost, the same seed gives the same bytes, and decisions replay."""

import hashlib
import io
import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from services.cluster.replay import build_machine
from services.core.decision_log import replay
from services.core.slo import Outcome, Slo
from services.core.workload import WorkloadRow
from services.scheduling.decode_group import DecodeGroup
from services.sim.chrome_trace import chrome_trace
from services.sim.outcome import SimRun
from tests.sim.runs import config_of, poisson, pools, simulated, some_faults

ROOT = Path(__file__).resolve().parents[2]


def digest(run: SimRun) -> str:
    rows = [sample.to_json() for sample in run.samples]
    return hashlib.sha256(json.dumps([rows, repr(run.workers), run.moves, run.events]).encode()).hexdigest()


def test_every_request_ends_and_nothing_is_held() -> None:
    _, run = simulated(poisson(60, 6))
    assert all(sample.outcome is Outcome.OK for sample in run.samples)
    assert all(sample.output_tokens == sample.wanted_tokens for sample in run.samples)
    assert sum(each.prefill_tokens for each in run.workers) == sum(sample.input_tokens for sample in run.samples)
    decoded = sum(sample.output_tokens - 1 for sample in run.samples)
    assert sum(each.decode_tokens for each in run.workers) == decoded


def test_nothing_is_lost_under_faults() -> None:
    _, run = simulated(poisson(60, 5), faults=some_faults())
    assert all(sample.outcome is Outcome.OK for sample in run.samples)
    assert all(sample.output_tokens == sample.wanted_tokens for sample in run.samples)
    assert any(name.endswith("worker_lost") for name in run.moves)
    _, calm = simulated(poisson(60, 5))
    assert sum(sample.e2e_ms() for sample in calm.samples) < sum(sample.e2e_ms() for sample in run.samples)


def test_faults_with_single_steps_give_the_same() -> None:
    rows = poisson(40, 5)
    _, fast = simulated(rows, faults=some_faults(), check=False)
    _, single = simulated(rows, faults=some_faults(), check=False, fast=False)
    assert fast.samples == single.samples
    assert fast.moves == single.moves


def test_clients_wishes_are_told_to_the_router_which_refuses_what_it_cannot_keep() -> None:
    rows = poisson(120, 60)
    _, patient = simulated(rows, pools(1, 1))
    _, hurried = simulated(rows, pools(1, 1), wishes=Slo(ttft_ms=100.0))
    assert all(sample.outcome is Outcome.OK for sample in patient.samples)
    refused = [sample for sample in hurried.samples if sample.reason == "PREDICTED_TTFT"]
    assert refused
    assert all(sample.outcome is Outcome.REJECTED for sample in refused)
    assert max(sample.ttft_ms() or 0 for sample in hurried.samples) < max(
        sample.ttft_ms() or 0 for sample in patient.samples
    )


def test_a_crowded_pool_preempts_and_still_serves_all() -> None:
    rows = poisson(30, 20, tokens=(200, 500), output=400)
    _, run = simulated(rows, pools(1, 1, blocks=90))
    assert all(sample.outcome is Outcome.OK for sample in run.samples)
    _, roomy = simulated(rows, pools(1, 1, blocks=2000))
    assert sum(each.e2e_ms() for each in roomy.samples) < sum(each.e2e_ms() for each in run.samples)


def test_prompts_that_cannot_fit_and_crowds_are_refused_by_name() -> None:
    rows = [WorkloadRow(0.1 * each, 5000, 4) for each in range(3)]
    _, run = simulated(rows, pools(1, 1, blocks=20))
    assert {(each.outcome, each.reason) for each in run.samples} == {(Outcome.ERROR, "CONTEXT_LENGTH_EXCEEDED")}
    _, run = simulated(poisson(20, 1000), config=config_of(frontdoor={"max_running_requests": 4}))
    assert (Outcome.REJECTED, "TOO_MANY_REQUESTS") in {(each.outcome, each.reason) for each in run.samples}


def test_turns_wait_for_the_turn_before_and_find_its_prefix() -> None:
    rows = [
        WorkloadRow(0.0, 640, 50, "a", 0, prefix=(1, 2), prefix_block_tokens=320),
        WorkloadRow(0.01, 1280, 50, "a", 1, think_s=1.0, prefix=(1, 2, 3), prefix_block_tokens=320),
        WorkloadRow(0.02, 64, 1, "b", 0),
    ]
    _, run = simulated(rows, pools(1, 1))
    first, second = (next(each for each in run.samples if each.index == index) for index in (0, 1))
    assert second.intended_ns >= first.end_ns + 10**9
    assert first.cached_tokens == 0 and second.cached_tokens == 640


PROBE = """
from tests.sim.runs import poisson, simulated, some_faults
from tests.sim.test_cluster import digest
print(digest(simulated(poisson(25, 5), faults=some_faults(), check=False)[1]))
"""


def test_the_same_seed_gives_the_same_bytes_under_any_hash_seed() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", PROBE],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert found == {digest(simulated(poisson(25, 5), faults=some_faults(), check=False)[1]) + "\n"}
    assert found != {digest(simulated(poisson(25, 5, seed=2), faults=some_faults(), check=False)[1]) + "\n"}


@pytest.mark.parametrize("faults", [(), some_faults()], ids=["calm", "faults"])
def test_recorded_decisions_replay_exactly(faults: tuple[object, ...]) -> None:
    logs: dict[str, io.StringIO] = defaultdict(io.StringIO)
    rows = poisson(20, 5, output=120)  # a state of few blocks is soon compared
    simulated(rows, pools(blocks=400), record=lambda name: logs[name].write, faults=faults, check=False)
    assert {"door", "prefill-0.1", "decode-1.1"} <= logs.keys()
    decisions = 0
    for name, log in logs.items():
        result = replay(io.StringIO(log.getvalue()), build_machine)
        assert result.mismatch is None, (name, result.mismatch)
        decisions += result.decisions
    assert decisions > 700
    lines = logs["decode-0.1"].getvalue().splitlines(keepends=True)
    place = next(index for index, line in enumerate(lines) if '"_":"Offer"' in line)
    changed = [*lines[:place], lines[place].replace('"num_tokens":', '"num_tokens":1'), *lines[place + 1 :]]
    mismatch = replay(iter(changed), build_machine).mismatch
    assert mismatch is not None and mismatch.sequence == place


def test_tokens_that_are_counted_and_tokens_that_are_written_give_the_same_decisions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def logs() -> dict[str, str]:
        found: dict[str, io.StringIO] = defaultdict(io.StringIO)
        rows = poisson(16, 8, tokens=(50, 500), output=90)
        # 45 blocks: some requests lose theirs and compute their tokens again.
        simulated(rows, pools(2, 1, blocks=45), record=lambda name: found[name].write, faults=some_faults())
        return {name: log.getvalue() for name, log in found.items()}

    counted = logs()
    monkeypatch.setattr(DecodeGroup, "common", lambda _group, _output: None)
    assert logs() == counted
    assert any("preempted" in log for log in counted.values())


def test_a_grant_that_names_a_broken_link_ends_where_nothing_else_goes_wrong() -> None:
    # Early grants wait for blocks until their leases run out, and links are given up while grants are under way.
    rows = [
        replace(row, prefix=tuple(range(place % 5 * 100, place % 5 * 100 + 1 + place % 7)), prefix_block_tokens=64)
        for place, row in enumerate(poisson(80, 10))
    ]
    _, run = simulated(rows, pools(blocks=900), check=False)
    assert all(sample.outcome is Outcome.OK for sample in run.samples)


def test_a_run_is_drawn_for_perfetto() -> None:
    _, run = simulated(poisson(10, 5), timelines=True, check=False)
    events = json.loads(json.dumps(chrome_trace(run)))["traceEvents"]
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {"requests", "prefill-0", "prefill-1", "decode-0", "decode-1"}
    slices = [event for event in events if event["ph"] == "X"]
    assert {"prefill_start", "decode_start", "prefill", "decode"} <= {event["name"] for event in slices}
    assert all(event["dur"] >= 0 for event in slices)
