"""Splitwise's table: which machines for which phase, and what that gains at the same power and at the same price.

Patel et al., ISCA 2024, BLOOM-176B, section VI: on the conversation trace, all-A100 (AA) takes 2.15 times what as many
A100 machines of both phases take; H100 for prompts and A100 for tokens (HA) 1.18 times what H100 machines of both
phases take at the same power and 10 % less cost; AA 1.4 times what H100 machines of both phases take at the same cost;
H100 with capped token machines (HHcap) as much as those with 25 % less power, AA with 25 % less cost. On the coding
trace more machines compute prompts (35 of 40, not 25); the paper has no gains of it, so the authors' own simulator was
run on it (`CODING`).

These numbers are those of that simulator: its memory (all of 80 GiB a device beside 329 GB of weights: 89,000 tokens,
where a tenth kept free and 352 GB of weights leave 56,000), prompts computed whole, slow-downs against an A100, and a
step of decodes looked up by the number of its rows in a table of the tokens that rows look at (`AuthorsCost`). With the
same measurements read as they were made, a step slows with what its rows hold: the second half shows by how much.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.sim.plan.solo import Phase
from services.sim.plan.workload import Workload
from tests.accept.splitwise import (
    MACHINES,
    PRECISION,
    PRICE,
    PROMPTS,
    QUANTILES,
    A,
    AuthorsCost,
    H,
    Setting,
    Table,
    _interpolated,
    azure,
    kv_tokens,
    measured,
    pool_rate,
    table,
)

pytestmark = [pytest.mark.accept, pytest.mark.timeout(3600)]
FOLDER = next(
    (p / "shared/data/azure_llm_2023" for p in Path(__file__).parents if (p / "shared/data").exists()), Path("/nowhere")
)
needs_traces = pytest.mark.skipif(
    not FOLDER.exists(), reason="azure_llm_2023 is not beside the checkout: put the public data there"
)
# Requests a second that github.com/Mutinifni/splitwise-sim (9 April 2024) keeps within all nine slow-downs, by its own
# notebooks' clusters and on their grid of ten; lengths of the coding trace, 40 s of Poisson arrivals. By budget.
CODING = {
    "power": {"A": 40, "H": 50, "AA": 70, "HH": 100, "HHcap": 100, "HA": 90},
    "cost": {"H": 50, "AA": 90, "HH": 100, "HA": 90},
}
DESIGNS = ("A", "H", "AA", "HH", "HA", "HHcap")


@cache
def by_authors(trace: str) -> Table:
    return shown(trace, table(Setting(f"{trace}/authors", lambda: azure(trace, FOLDER))))


@cache
def by_measurements(trace: str) -> Table:
    return shown(
        trace,
        table(Setting(f"{trace}/measured", lambda: azure(trace, FOLDER, apart=False), measured, kv_tokens, False)),
    )


def shown(name: str, found: Table) -> Table:
    """Print the table as it is."""
    for (phase, device), pool in found.pools.items():
        print(f"{name}: {phase.value} {device}: {pool.rate:.2f} requests/s of a machine")
    for design in DESIGNS:
        power, cost = found.iso_power(design), found.iso_cost(design)
        print(f"{name} {design}: {power.rate:.1f}/s at the power of 40 H100, {power}; {cost.rate:.1f}/s at their price")
    return found


@needs_traces
def test_gains_on_the_conversation_trace() -> None:
    found = by_authors("conv")
    power = {design: found.iso_power(design) for design in DESIGNS}
    cost = {design: found.iso_cost(design) for design in DESIGNS}
    assert power["AA"].rate / power["A"].rate == pytest.approx(2.15, rel=0.15)
    assert (power["HA"].price or 0) / (power["H"].price or 1) == pytest.approx(0.9, rel=0.05)
    assert cost["AA"].rate / cost["H"].rate == pytest.approx(1.4, rel=0.15)
    # The same traffic with less: what a request costs, and draws.
    assert power["HHcap"].joules / power["H"].joules == pytest.approx(0.75, rel=0.15)
    assert power["H"].per_price / cost["AA"].per_price == pytest.approx(0.75, rel=0.15)


@needs_traces
def test_gain_of_a100_token_machines_at_the_same_power() -> None:
    """Known to fail, 1.40 where the paper has 1.18.

    The authors' simulator takes 120 requests a second with 40 H100 machines of both phases, where a pool of 8, as ours
    is simulated, scales to 111; and their HA has 25 + 26 machines from a grid of five, which take 149 here, ours 26 +
    24: 155. 149 / 120 is 1.24; what is left of the difference is less than their grid of ten requests a second.
    """
    found = by_authors("conv")
    assert found.iso_power("HA").rate / found.iso_power("H").rate == pytest.approx(1.18, rel=0.15)


@needs_traces
@pytest.mark.parametrize("budget", ["power", "cost"])
def test_gains_on_the_coding_trace(budget: str) -> None:
    found, theirs = by_authors("code"), CODING[budget]
    rates = {design: (found.iso_power if budget == "power" else found.iso_cost)(design).rate for design in theirs}
    print(budget, {design: (f"{rate:.1f}", theirs[design]) for design, rate in rates.items()})
    for design in ("AA", "HH", "HA"):
        assert rates[design] / rates["H"] == pytest.approx(theirs[design] / theirs["H"], rel=0.15), design
    assert min(rates["HH"], rates["HA"]) > rates["AA"] > rates["H"]
    if (
        budget == "power"
    ):  # as many machines of each phase as theirs, 55 and 15; the planner's 67 and 3 take a fifth more
        as_theirs = min(55 * found.pools[Phase.PREFILL, A].rate, 15 * found.pools[Phase.DECODE, A].rate)
        assert as_theirs / rates["A"] == pytest.approx(theirs["AA"] / theirs["A"], rel=0.15)
        assert rates["AA"] > as_theirs


@needs_traces
def test_machines_for_70_requests_of_the_coding_trace() -> None:
    """Section IV-D: 27 H100 machines for prompts and 3 for tokens are the cheapest."""
    pools = by_authors("code").pools
    prompts, tokens = (math.ceil(70 / pools[phase, H].rate) for phase in (Phase.PREFILL, Phase.DECODE))
    print(f"{prompts} + {tokens} machines")
    assert prompts + tokens == pytest.approx(30, rel=0.15)
    assert prompts == pytest.approx(27, rel=0.15)


@needs_traces
def test_order_of_the_designs() -> None:
    found = by_authors("conv")
    rates = {design: found.iso_power(design).rate for design in DESIGNS}
    assert rates["HHcap"] > rates["HA"] > rates["HH"] > rates["A"], "capped token machines are the most for the power"
    assert rates["HA"] > rates["AA"] > rates["A"]
    price = {design: found.iso_cost(design).rate for design in DESIGNS}
    assert min(price["AA"], price["HA"]) > price["HH"] > price["A"], "A100 token machines are the most for the money"
    assert price["AA"] > price["H"]
    assert price["HHcap"] == pytest.approx(price["HH"], rel=0.02), "a cap saves power, not money"


@needs_traces
def test_a100_prompt_machines_are_the_most_for_the_money() -> None:
    """Known to fail, 159 and 165 requests a second; the next test has the reason.

    The authors' simulator, run at their notebooks' clusters, does not put AA first either: AA (51 + 35) keeps 140 of a
    grid of ten and not 150, HA (30 + 21) at least 140 and not 160.
    """
    found = by_authors("conv")
    assert found.iso_cost("AA").rate > found.iso_cost("HA").rate


@needs_traces
def test_why_h100_prompt_machines_are_as_good_for_the_money() -> None:
    """Decodes are the same A100 machines'; a price of 2.154 buys 2.11 times the prompts, and a bound twice as wide."""
    found, work = by_authors("conv"), azure("conv", FOLDER)
    busy = {device: float(np.mean([_interpolated(n, PROMPTS[device]) for n in work.inputs])) for device in (A, H)}
    room = {device: queue_rate(work, device, (2.0, 3.0, 6.0)) * busy[device] / 1e3 for device in (A, H)}
    print("prompt ms", busy, "load within the bounds, by the formula", room)
    prompts = (busy[A] / PRICE[H]) / (busy[H] / PRICE[A])
    assert prompts == pytest.approx(1.0, abs=0.03), "by time alone both buy as many prompts"
    assert room[H] > 1.02 * room[A], "waiting is judged by the A100's time, of which an H100 needs half"
    measured_ratio = found.pools[Phase.PREFILL, H].rate / PRICE[H] / (found.pools[Phase.PREFILL, A].rate / PRICE[A])
    assert measured_ratio == pytest.approx(prompts * room[H] / room[A], rel=0.08)


def queue_rate(
    work: Workload, device: str, bounds: tuple[float, ...], machines: int = MACHINES[Phase.PREFILL]
) -> float:
    """Requests a second of one of the prompt machines that take requests from one queue, each prompt a step of its own.

    P(wait > t) = C exp(-(c - a) t 2 / (1 + v) / D), C of Erlang, D the mean time and v its squared variation (Lee and
    Longton's approximation of M/G/c; Kingman's of its tail).
    """
    own, base = (np.array([_interpolated(n, PROMPTS[each]) for n in work.inputs]) / 1e3 for each in (device, A))
    mean, variation = own.mean(), own.var() / own.mean() ** 2

    def keeps(load: float) -> bool:
        offered, blocked = machines * load, 1.0
        for count in range(1, machines + 1):
            blocked = offered * blocked / (count + offered * blocked)
        waits = blocked / (1 - load * (1 - blocked))
        decay = machines * (1 - load) / mean * 2 / (1 + variation)
        over = [
            np.where(bound * base >= own, waits * np.exp(-decay * np.maximum(bound * base - own, 0)), 1.0).mean()
            for bound in bounds
        ]
        return all(share <= 1 - quantile for share, quantile in zip(over, QUANTILES, strict=True))

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return float(low / mean)


@needs_traces
def test_more_machines_compute_prompts_where_outputs_are_short() -> None:
    shares = {}
    for trace in ("code", "conv"):
        prompts, tokens = (pool.replicas for pool in by_authors(trace).iso_power("HH").pools)
        shares[trace] = prompts / (prompts + tokens)
    print(shares)
    assert shares["code"] == pytest.approx(35 / 40, rel=0.15)
    assert shares["conv"] == pytest.approx(25 / 40, rel=0.15)
    assert shares["code"] > shares["conv"] + 0.1


@needs_traces
def test_the_same_measurements_read_as_they_were_made() -> None:
    """Not met: where steps slow with what they hold, a token machine takes less than the authors' simulator says."""
    theirs, ours = by_authors("conv"), by_measurements("conv")
    for device in (A, H):
        assert ours.pools[Phase.DECODE, device].rate < 0.8 * theirs.pools[Phase.DECODE, device].rate
    power = {design: ours.iso_power(design).rate for design in DESIGNS}
    print({name: power[name] / power["A"] for name in power}, {name: power[name] / power["H"] for name in power})
    assert power["AA"] > power["A"], "splitting still gains"
    assert power["HHcap"] > power["HH"], "and so does the cap"


@needs_traces
def test_the_answer_moves_with_lengths_hardware_and_bounds() -> None:
    found = by_authors("conv")

    def rate(name: str, phase: Phase, device: str = A, scale: float = 1.0, **keys: Any) -> float:
        setting = Setting(f"conv/{name}", lambda: azure("conv", FOLDER, scale), **keys)
        return pool_rate(setting, phase, device).rate

    tokens = found.pools[Phase.DECODE, A].rate
    assert rate("longer", Phase.DECODE, scale=2.0) == pytest.approx(tokens / 2, rel=0.2), "outputs twice as long"
    # Machines of both phases live on the bound between tokens: with twice as much room they gain on the split.
    loose = {"tbt": (2.5, 3.0, 10.0), "e2e": (2.5, 3.0, 10.0)}
    assert rate("loose", Phase.COLOCATED, **loose) > 1.3 * found.pools[Phase.COLOCATED, A].rate
    strict, usual = (1.2, 1.5, 3.0), (2.0, 3.0, 6.0)
    costs = rate("strict", Phase.PREFILL, ttft=strict) / found.pools[Phase.PREFILL, A].rate
    work = azure("conv", FOLDER)
    common, alone = (queue_rate(work, A, strict, n) / queue_rate(work, A, usual, n) for n in (40, 1))
    print(f"a strict bound leaves {costs:.2f} of a prompt machine's rate; by the formula {common:.2f} and {alone:.2f}")
    # One queue of all machines is the best that a choice at arrival can do, one for each the worst; prompts that
    # share a step, which the formula has not, take the step's time.
    assert alone < costs < common + PRECISION
    # An A100 as fast as an H100 computes as many prompts.
    quick = rate("quick", Phase.PREFILL, machines={A: AuthorsCost(H)})
    assert quick == pytest.approx(found.pools[Phase.PREFILL, H].rate, rel=0.1)
