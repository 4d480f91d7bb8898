"""A drift is noticed once, in time and not by chance; it makes one plan, which is proposed, or applied when allowed."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from services.controller.replan.app import Replanning
from services.controller.replan.config import ReplanConfig
from services.controller.replan.drift import DriftDetector
from services.controller.replan.launch import PlanCommand
from services.controller.replan.machine import ApplyPlan, MakePlan, Planned, Replanner, TrafficSeen
from services.core.actions import Tick
from services.core.clock import NS_PER_S
from services.core.wire import TrafficRow

NEEDED = {"hardware": "pool.yaml", "slo": "ttft=1s,tpot=100ms", "cooldown_s": 0.0}
CONFIG = ReplanConfig(mode="propose", **NEEDED)


def traffic(seed: int, rate: float, inputs: float, outputs: float, begin_s: float, seconds: float) -> list[TrafficRow]:
    """Poisson arrivals with lengths of exponential shape."""
    chance, at_s, rows = random.Random(seed), begin_s, []
    while (at_s := at_s + chance.expovariate(rate)) < begin_s + seconds:
        lengths = (1 + int(chance.expovariate(1 / mean)) for mean in (inputs, outputs))
        rows.append((int(at_s * 1000), *lengths))
    return rows


def told(rows: list[TrafficRow], seconds: int) -> Iterator[tuple[int, tuple[TrafficRow, ...]]]:
    """What a front door tells every five seconds: when, and the requests since."""
    begin = 0
    for now_s in range(5, seconds + 1, 5):
        end = bisect_left(rows, (now_s * 1000,))
        yield now_s, tuple(rows[begin:end])
        begin = end


def drifts(rows: list[TrafficRow], seconds: int, config: ReplanConfig = CONFIG) -> list[int]:
    """Seconds at which a drift was found, when requests are reported every five seconds."""
    detector, found = DriftDetector(config, 0), []
    for now_s, seen in told(rows, seconds):
        detector.add(seen)
        if detector.tick(now_s * NS_PER_S) is not None:
            found.append(now_s)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_steady_traffic_is_no_drift_however_it_scatters(seed: int) -> None:
    assert drifts(traffic(seed, 1.0, 800, 100, 0, 3600), 3600) == []


@pytest.mark.parametrize(
    ("rate", "inputs", "outputs"), [(2.0, 800, 100), (0.4, 800, 100), (1.0, 1600, 100), (1.0, 800, 250)]
)
def test_a_drift_of_rate_or_lengths_is_found_once_within_five_windows(rate: float, inputs: int, outputs: int) -> None:
    for seed in range(5):
        rows = traffic(seed, 1.0, 800, 100, 0, 900) + traffic(seed + 100, rate, inputs, outputs, 900, 2700)
        found, window = drifts(rows, 3600), max(60.0, 100 / rate) + 10
        assert len(found) == 1 and 900 < found[0] <= 900 + 5 * window, found


def test_traffic_on_the_edge_does_not_flutter() -> None:
    """One busy window among calm ones is no drift, however often it comes."""
    rows: list[TrafficRow] = []
    for minute in range(60):
        rate = 6.0 if minute % 6 == 5 else 2.0
        rows += traffic(minute, rate, 800, 100, 60.0 * minute, 60)
    assert drifts(rows, 3600) == []


def replanner(config: ReplanConfig = CONFIG) -> Replanner:
    return Replanner(config, {"prefill": 1, "decode": 1}, 0)


def drifted(machine: Replanner) -> tuple[int, list[object]]:
    """Twice the traffic after ten minutes; when a plan was asked for, and what."""
    rows = traffic(1, 1.0, 800, 100, 0, 600) + traffic(2, 2.0, 800, 100, 600, 1200)
    for now_s, seen in told(rows, 1800):
        actions = [*machine.handle(now_s * NS_PER_S, TrafficSeen("door", seen))]
        actions += machine.handle(now_s * NS_PER_S, Tick("clock"))
        if actions:
            return now_s, list(actions)
    return 0, []


def test_a_drift_makes_one_plan_on_what_was_seen_and_proposes_it() -> None:
    machine = replanner()
    when, (ask,) = drifted(machine)
    assert isinstance(ask, MakePlan) and ask.rate == pytest.approx(2.0, rel=0.15)
    assert 300 <= len(ask.rows) <= 700, "those of the windows that differed, not of what came before"
    assert machine.handle(when * NS_PER_S, Tick("clock")) == [], "one plan at a time"
    assert machine.proposal == ""
    answer = Planned("planner", (("prefill", 2), ("decode", 1)), "2 prefill, 1 decode")
    assert machine.handle(when * NS_PER_S, answer) == [], "it is proposed, not applied"
    assert "proposed: prefill 1 -> 2 (2 prefill, 1 decode)" in machine.proposal
    assert "traffic drifted from" in machine.proposal and "requests/s of" in machine.proposal


def test_a_plan_is_applied_when_that_is_allowed() -> None:
    machine = replanner(CONFIG.model_copy(update={"mode": "apply"}))
    when, _ = drifted(machine)
    answer = Planned("planner", (("prefill", 2), ("decode", 1)), "2 prefill, 1 decode")
    assert machine.handle(when * NS_PER_S, answer) == [ApplyPlan((("prefill", 2),))]
    assert "applied: prefill 1 -> 2" in machine.proposal


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Planned("planner", (), "no plan: the bound binds"), "no plan: the bound binds"),
        (Planned("planner", (("prefill", 1), ("decode", 1)), "1 + 1"), "the present pools are the best"),
    ],
)
def test_what_needs_no_change_changes_nothing(answer: Planned, said: str) -> None:
    machine = replanner(CONFIG.model_copy(update={"mode": "apply"}))
    when, _ = drifted(machine)
    assert machine.handle(when * NS_PER_S, answer) == []
    assert said in machine.proposal


def document(*pools: tuple[str, int, int]) -> dict[str, object]:
    found = [{"role": role, "replicas": n, "tp": tp, "pp": 1, "device": "a100-80g"} for role, n, tp in pools]
    return {"winner": {"kind": "split", "copies": 1, "pools": found}}


def test_only_numbers_of_workers_can_be_applied() -> None:
    command = PlanCommand(CONFIG, "opt-13b", {"prefill": 1, "decode": 1})
    assert command.read(document(("prefill", 3, 1), ("decode", 2, 1))).replicas == (("prefill", 3), ("decode", 2))
    ranks = command.read(document(("prefill", 3, 2), ("decode", 2, 1)))
    assert ranks.replicas == () and "whose prefill ranks need a restart" in ranks.text
    other = command.read(document(("colocated", 3, 1)))
    assert other.replicas == () and "other pools" in other.text


class Clock:
    """Stands still until it is moved."""

    now = 0

    def now_ns(self) -> int:
        return self.now

    def unix_ms(self) -> int:
        return self.now // 1_000_000


def test_the_shell_scales_the_pools_and_says_what_it_could_not() -> None:
    asked: list[MakePlan] = []

    class Planner:
        async def plan(self, ask: MakePlan) -> Planned:
            asked.append(ask)
            return Planned("planner", (("prefill", 2), ("decode", 4)), "2 + 4")

    present = {"prefill": 1, "decode": 1}

    async def scale(pool: str, replicas: int) -> object:
        if replicas > 3:
            return "no room"
        present[pool] = replicas
        return present

    async def run() -> str:
        clock = Clock()
        config = CONFIG.model_copy(update={"mode": "apply"})
        shell = Replanning(config, Planner(), lambda: present, scale, clock)
        rows = traffic(1, 1.0, 800, 100, 0, 600) + traffic(2, 2.0, 800, 100, 600, 900)
        for now_s, seen in told(rows, 1500):
            clock.now = now_s * NS_PER_S
            shell.hear("door", seen)
            shell.tell(Tick("clock"))
            for _ in range(5):
                await asyncio.sleep(0)
        await shell.close()
        return shell.proposal

    said = asyncio.run(run())
    assert len(asked) == 1 and present == {"prefill": 2, "decode": 1}
    assert "applied: prefill 1 -> 2, decode 1 -> 4" in said and "decode stays: no room" in said


@pytest.mark.parametrize(
    ("keys", "said"),
    [({"mode": "apply"}, "hardware and slo are needed"), ({"ratio": 1.1}, "the first must be lower")],
)
def test_a_configuration_that_cannot_be_is_refused(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ReplanConfig(**keys)


def test_it_is_off_by_default() -> None:
    assert ReplanConfig().mode == "off"


def test_the_best_that_scaling_reaches_is_proposed_and_what_a_restart_would_allow_is_told() -> None:
    command = PlanCommand(CONFIG, "opt-13b", {"prefill": 1, "decode": 1})
    best = document(("colocated", 3, 1))["winner"]
    reached = [
        document(*pools)["winner"]
        for pools in ((("prefill", 1, 2), ("decode", 1, 1)), (("prefill", 1, 1), ("decode", 2, 1)))
    ]
    answer = command.read({"winner": best, "placements": [best, *reached]})
    assert answer.replicas == (("prefill", 1), ("decode", 2))
    assert "a restart would allow 3 colocated" in answer.text


def test_plans_are_counted_by_what_came_of_them_and_pools_that_shrink_come_first() -> None:
    machine = replanner(CONFIG.model_copy(update={"mode": "apply"}))
    machine.scaled({"prefill": 1, "decode": 3})
    when, _ = drifted(machine)
    answer = Planned("planner", (("prefill", 2), ("decode", 2)), "2 + 2")
    assert machine.handle(when * NS_PER_S, answer) == [ApplyPlan((("decode", 2), ("prefill", 2)))]
    assert machine.outcomes == {"applied": 1}
