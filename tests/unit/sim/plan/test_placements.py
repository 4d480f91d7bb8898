"""Placements from what workers take: counts against brute force, accounts, the front, and what cannot be."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.errors import ConfigError
from services.sim.models import MODELS
from services.sim.plan import reasons
from services.sim.plan.choose import placements
from services.sim.plan.config import GroupConfig, HardwareConfig
from services.sim.plan.goodput import Goodput, Measured, Objective, Unit
from services.sim.plan.instances import Group, Instance, group_of, instances
from services.sim.plan.placement import Aim, Kind, Limits, Placement, colocated, in_a_host, pareto, split
from services.sim.plan.solo import Phase
from services.sim.plan.validate import sim_pools

OBJECTIVE = Objective(250, 100, 0.9)


def group(device: str = "a100-80g", hosts: int = 4, price: float | None = 2.0) -> Group:
    return group_of(GroupConfig(device=device, hosts=hosts, price_per_hour=price))


def worker(tp: int, groups: tuple[Group, ...], place: int = 0) -> Instance:
    found, _ = instances(MODELS["opt-13b"], groups)
    return next(each for each in found if (each.group, each.tp, each.stages) == (place, tp, 1))


def takes(phase: Phase, instance: Instance, rate: float, ttft: float = 100, tpot: float = 50) -> Goodput:
    at = Measured(rate, 0.95, ttft / 2, ttft, tpot / 2, tpot, 0.5, 0.5)
    return Goodput(Unit(phase, instance, 2048), rate, at, "ttft" if phase is Phase.PREFILL else "tpot", ())


def limits(groups: tuple[Group, ...], aim: Aim = Aim.GOODPUT, rate: float | None = None, **more: float) -> Limits:
    return Limits(groups, aim, rate, **{"port_bytes_per_s": 1e12, "handoff_bytes": 1e9, **more})


@given(
    p_tp=st.sampled_from([1, 2, 4, 8]),
    d_tp=st.sampled_from([1, 2, 4, 8]),
    p_rate=st.floats(0.5, 20),
    d_rate=st.floats(0.5, 20),
    hosts=st.integers(1, 3),
)
def test_split_is_the_best_of_all_counts(p_tp: int, d_tp: int, p_rate: float, d_rate: float, hosts: int) -> None:
    groups = (group(hosts=hosts),)
    p, d = takes(Phase.PREFILL, worker(p_tp, groups), p_rate), takes(Phase.DECODE, worker(d_tp, groups), d_rate)
    found = split(p, d, limits(groups))
    best = 0.0
    for count_p, count_d in product(range(1, 8 * hosts + 1), repeat=2):
        hosts_of_d, rest = divmod(count_d, 8 // d_tp)
        room = (hosts - hosts_of_d - (rest > 0)) * (8 // p_tp) + ((8 - rest * d_tp) // p_tp if rest else 0)
        if count_p <= room:
            best = max(best, min(count_p * p_rate, count_d * d_rate))
    assert (found.rate if found else 0.0) == pytest.approx(best)
    if found:
        sim_pools(found, groups, 16)  # every worker has a place
        assert found.devices <= 8 * hosts


def test_a_rate_is_taken_with_as_few_as_suffice() -> None:
    groups = (group(),)
    p, d = takes(Phase.PREFILL, worker(2, groups), 5.0), takes(Phase.DECODE, worker(1, groups), 3.0)
    found = split(p, d, limits(groups, Aim.COST, 9.5))
    assert found and [pool.replicas for pool in found.pools] == [2, 4]
    assert (found.devices, found.price) == (8, 16.0)
    assert split(p, d, limits(groups, Aim.COST, 1000.0)) is None
    twice = split(p, d, limits(groups, Aim.COST, 19.0))
    assert twice and twice.price == 2 * found.price - 2.0


def test_a_port_bounds_what_is_handed_off_and_a_host_does_not() -> None:
    groups = (group(),)
    p, d = takes(Phase.PREFILL, worker(1, groups), 5.0), takes(Phase.DECODE, worker(1, groups), 5.0)
    free, tight = limits(groups), limits(groups, port_bytes_per_s=3e9)
    one, other = split(p, d, free), split(p, d, tight)
    assert one and other and one.rate == 80.0
    assert (other.binding, other.rate < one.rate / 5) == ("network", True)
    inside = in_a_host(p, d, tight)
    assert inside and (inside.rate, inside.devices) == (80.0, 32)
    assert inside.copies * sum(pool.devices for pool in inside.pools) == 32


def test_stages_stand_beside_each_other_where_a_host_is_too_small() -> None:
    groups = (group(hosts=4),)
    found, _ = instances(MODELS["opt-175b"], groups)
    four = next(each for each in found if (each.tp, each.stages) == (4, 4))
    p, d = takes(Phase.PREFILL, four, 3.0), takes(Phase.DECODE, four, 2.0)
    unit = in_a_host(p, d, limits(groups))
    assert unit and (unit.copies, unit.devices, unit.rate) == (1, 32, 2.0)
    assert in_a_host(p, replace(d, unit=replace(d.unit, instance=replace(four, stages=3))), limits(groups)) is None


def test_two_kinds_of_hardware_and_a_mixed_pool() -> None:
    groups = (group("h100-80g", 1, 5.0), group("a100-80g", 2, 2.0))
    prefill = takes(Phase.PREFILL, worker(4, groups, 0), 20.0)
    decode = takes(Phase.DECODE, worker(4, groups, 1), 8.0)
    both = takes(Phase.COLOCATED, worker(4, groups, 1), 3.0)
    found = placements([prefill, decode, both], limits(groups))
    by_kind = {each.kind: each for each in found}
    apart = by_kind[Kind.SPLIT]
    assert [str(pool) for pool in apart.pools] == ["2 prefill h100-80g tp4", "4 decode a100-80g tp4"]
    assert (apart.rate, apart.price, apart.watts) == (32.0, 8 * 5.0 + 16 * 2.0, 8 * 700 + 16 * 400)
    assert by_kind[Kind.COLOCATED].rate == 12.0 and found[0] is apart
    fewer = takes(Phase.DECODE, worker(4, groups, 1), 18.0)
    mixed = next(each for each in placements([prefill, fewer, both], limits(groups)) if each.kind is Kind.MIXED_POOL)
    assert (mixed.rate, str(mixed.pools[2])) == (2 * 20.0 + 3.0, "1 mixed a100-80g tp4")


def test_budgets_are_kept() -> None:
    groups = (group(),)
    each = takes(Phase.COLOCATED, worker(2, groups), 4.0)
    assert colocated(each, limits(groups)) is not None
    capped = colocated(each, limits(groups, max_watts=4500.0))
    assert capped and (capped.devices, capped.watts) == (10, 4000.0)
    assert colocated(each, limits(groups, max_price=3.0)) is None


def test_nothing_on_the_front_is_beaten() -> None:
    groups = (group(),)
    found = [
        colocated(takes(Phase.COLOCATED, worker(tp, groups), rate, ttft, tpot), limits(groups))
        for tp, rate, ttft, tpot in ((1, 2.0, 100, 50), (1, 1.0, 100, 50), (2, 3.0, 80, 50), (4, 9.0, 80, 50))
    ]
    assert pareto([each for each in found if each]) == [False, False, False, True]


def first(found: list[Placement], kind: Kind) -> Placement:
    return next(each for each in found if each.kind is kind)


def test_what_cannot_be_says_what_could() -> None:
    groups = (group("l40s-48g", 1),)
    found, refused = instances(MODELS["opt-175b"], groups)
    with pytest.raises(ConfigError, match=r"memory binds: .* the nearest that can is 9 × l40s-48g .* llama-"):
        reasons.check_fits(MODELS["opt-175b"], groups, found, refused)
    with pytest.raises(ConfigError, match="needs what a l40s-48g costs"):
        reasons.check_prices(Aim.COST, (group("l40s-48g", 1, None),))
    groups = (group(),)
    best = colocated(takes(Phase.COLOCATED, worker(1, groups), 2.0), limits(groups))
    with pytest.raises(ConfigError, match=r"number of devices binds: the highest rate .* 64 .* 1.6 times as much"):
        assert best
        reasons.refuse_rate([best], limits(groups, Aim.COST, 100.0))
    slow = takes(Phase.PREFILL, worker(1, groups), 0.0, ttft=412.0)
    with pytest.raises(
        ConfigError, match=r"first token binds: .* nearest is 412 ms, on a100-80g tp1: write ttft=420ms"
    ):
        reasons.check_phases([slow], [], OBJECTIVE)


@pytest.mark.parametrize(
    ("group_keys", "keys", "said"),
    [
        ({"device": "h1000"}, {}, "known devices are a100-80g"),
        ({"device": "a100-80g", "hosts": 2, "devices": 12}, {}, "2 hosts with 8 each are 16"),
        ({"device": "l40s-48g"}, {"between_hosts": {"gbytes_per_s": 900}}, "faster than all links"),
        ({"device": "a100-80g"}, {"max_price_per_hour": 10}, "needs a price_per_hour"),
    ],
)
def test_contradictory_hardware_is_refused(group_keys: dict[str, object], keys: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HardwareConfig.model_validate({"groups": [group_keys], **keys})
    with pytest.raises(ValueError, match="one group for each device"):
        HardwareConfig.model_validate({"groups": [{"device": "a100-80g"}, {"device": "a100-80g"}]})
