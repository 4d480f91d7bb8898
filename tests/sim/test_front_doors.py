"""Several simulated front doors share a fleet: nothing is lost, decisions replay, steps passed over change nothing."""

import io
from collections import defaultdict

import pytest

from services.cluster.replay import build_machine
from services.core.decision_log import replay
from services.core.slo import Outcome
from services.router import fleet
from services.sim import reports
from tests.sim.runs import config_of, poisson, pools, simulated, some_faults

THREE = config_of(frontdoor={"max_running_requests": 100_000, "replicas": 3})


def test_requests_are_spread_over_all_doors_and_none_is_lost() -> None:
    cluster, run = simulated(poisson(60, 12), config=THREE)
    assert all(sample.outcome is Outcome.OK for sample in run.samples)
    assert all(sample.output_tokens == sample.wanted_tokens for sample in run.samples)
    placed = [sum(door.flow.placements.values()) for door in cluster.doors.by_name.values()]
    assert sum(placed) == sum(run.placements.values()) == 60 and min(placed) >= 10, placed


def test_faults_reach_every_door_and_their_decisions_replay() -> None:
    logs: dict[str, io.StringIO] = defaultdict(io.StringIO)
    rows = poisson(40, 5, output=120)
    _, run = simulated(
        rows, config=THREE, record=lambda name: logs[name].write, faults=some_faults(), check=False, fast=False
    )
    assert all(sample.outcome is Outcome.OK for sample in run.samples)
    for name in ("door", "door-1", "door-2", "prefill-0.1", "decode-1.1"):
        result = replay(io.StringIO(logs[name].getvalue()), build_machine)
        assert result.mismatch is None and result.decisions, (name, result.mismatch)


def test_steps_passed_over_and_single_steps_agree() -> None:
    rows = poisson(40, 30, tokens=(50, 900), output=120)
    _, fast = simulated(rows, pools(2, 3), THREE, check=False)
    _, single = simulated(rows, pools(2, 3), THREE, check=False, fast=False)
    assert fast.samples == single.samples


def test_each_door_counts_its_promises_for_the_others_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where reports are old, prompts wait less than behind doors that each take themselves for the only one."""
    monkeypatch.setattr(reports, "OTHERS_TOLD_NS", 500_000_000)
    config = config_of(
        frontdoor={"max_running_requests": 100_000, "replicas": 4},
        worker={"report_every_s": 0.5},
        router={"admission": {"policy": "none"}},
    )
    found = {"alone": 0.0, "together": 0.0}
    for seed in (1, 2):
        rows = poisson(240, 110, seed=seed, tokens=(100, 900), output=4)
        for name, most in (("alone", 1.0), ("together", 8.0)):
            monkeypatch.setattr(fleet, "MOST_DOORS", most)
            _, run = simulated(rows, pools(8, 4), config, check=False)
            found[name] += sum(sample.ttft_ms() or 0.0 for sample in run.samples)
    assert found["together"] < 0.98 * found["alone"], found
