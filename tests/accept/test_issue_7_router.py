"""The router against simpler ones in the simulator: goodput, tails, prefix hits, stale reports and steady admission.

The real router, worker and hand-off classes on a virtual clock; OPT-13B on A100s (the coefficients of DistServe's
authors), 64 workers where traces are replayed. Arrivals are a Poisson process over the traces' lengths and prefixes.
`python -m tests.accept.test_issue_7_router` prints the tables without the bounds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadgen.traces import Trace
from services.core.seeds import stream
from services.core.slo import Outcome, RequestSample, Slo
from services.core.workload import WorkloadRow
from services.sim.cluster import SimCluster
from services.sim.config import SimConfig, WireConfig, WiresConfig
from services.sim.cost_model import opt_13b_a100
from services.sim.network import Place
from services.sim.pools import Options, SimPool
from tests.sim.runs import config_of

pytestmark = [pytest.mark.accept, pytest.mark.timeout(7200)]
SAMPLES = Path(__file__).resolve().parents[2] / "loadgen" / "samples"
BLOCK = 128
KV_TOKENS = 1_000_000
TOKEN_BYTES = 131_072
SIMPLER = ("round_robin", "least_requests")


@dataclass(frozen=True, slots=True)
class Case:
    """One trace on one fleet: `rates` in requests a second, in the order in which they are tried."""

    trace: str
    prefill: int
    decode: int
    count: int
    slo: Slo
    rates: tuple[float, ...]
    skip: int = 0


AZURE = Case("azure_2023_conv.csv", 16, 48, 1000, Slo(600.0, 100.0), (66.0, 84.0, 102.0, 118.0, 136.0, 150.0, 165.0))
MOONCAKE = Case(
    "mooncake_conversation.jsonl", 32, 32, 320, Slo(30_000.0, 100.0), (5.0, 6.5, 8.5, 11.0, 14.0, 17.0, 20.0)
)


def router(policy: str, slo: Slo, **more: Any) -> dict[str, Any]:
    """The router's configuration.

    Args:
        policy: `router`, all of it, where who would miss an objective is refused at once; `predicted`, its placement
            alone; or a scorer that looks at each stage by itself.
    """
    if policy in SIMPLER:
        return {"placement": "scored", "scorer": policy}
    admission = {"policy": "predicted", "reject_above": 1.0} if policy == "router" else {"policy": "none"}
    return {"objectives": {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms}, "admission": admission, **more}


def fleet(prefill: int, decode: int) -> list[SimPool]:
    """Workers of both kinds, four of each to a host, joined by 400 Gb/s."""
    made = []
    for name, count, first in (("prefill", prefill, 0), ("decode", decode, 4)):
        places = tuple(Place(host=number // 4, devices=(first + number % 4,)) for number in range(count))
        blocks = KV_TOKENS // BLOCK
        made.append(SimPool(name, (name,), count, opt_13b_a100(), blocks, BLOCK * TOKEN_BYTES, places=places))
    return made


def simulate(rows: Sequence[WorkloadRow], pools: list[SimPool], **keys: Any) -> tuple[RequestSample, ...]:
    """What the clients saw, in order of arrival."""
    config = config_of(cache={"block_size_tokens": BLOCK}, **keys)
    sim = SimConfig(wires=WiresConfig(rack=WireConfig(latency_us=30, gbytes_per_s=50)))
    run = SimCluster(config, pools, sim, Options(gaps=False, nvlink=True)).run(rows)
    assert len(run.samples) == len(rows)
    return tuple(sorted(run.samples, key=lambda sample: sample.index))


def poisson(rows: Sequence[WorkloadRow], rate: float) -> list[WorkloadRow]:
    """The rows' lengths and prefixes at random times."""
    draws, at, found = stream(1, "router"), 0.0, []
    for row in rows:
        at += draws.expovariate(rate)
        found.append(replace(row, arrival_s=at, think_s=None, session=""))
    return found


def rows_of(case: Case) -> list[WorkloadRow]:
    """The trace's rows, again and again where it is an excerpt; prefixes of a repetition are its own."""
    rows = list(islice(Trace(SAMPLES / case.trace), case.skip, None))
    found: list[WorkloadRow] = []
    while len(found) < case.count:
        lap = len(found) // len(rows) << 24
        found += [replace(row, prefix=tuple(lap + each for each in row.prefix)) for row in rows]
    return found[: case.count]


def met(samples: Sequence[RequestSample], slo: Slo) -> float:
    """Share of the requests that kept both objectives; the first tenth, while the router learns, counts too."""
    return sum(slo.met(sample) for sample in samples) / len(samples)


def p99_ms(samples: Sequence[RequestSample]) -> float:
    """Of the time to the first token."""
    return float(np.percentile([sample.ttft_ms() or np.inf for sample in samples], 99, method="nearest"))


def crossing(rates: Sequence[float], shares: Sequence[float]) -> float:
    """The rate at which the share falls to nine tenths, between two that were tried."""
    if shares[0] < 0.9:
        return rates[0] * shares[0] / 0.9  # what it would be if the share rose in proportion: kind to who fails here
    for place in range(1, len(shares)):
        if shares[place] < 0.9:
            part = (shares[place - 1] - 0.9) / (shares[place - 1] - shares[place])
            return rates[place - 1] + part * (rates[place] - rates[place - 1])
    return rates[len(shares) - 1]


def goodput(case: Case, policy: str) -> tuple[float, dict[float, float]]:
    """(requests a second that nine of ten of which keep their objectives, p99 TTFT by rate)."""
    rows, shares, tails = rows_of(case), [], {}
    for rate in case.rates:
        samples = simulate(poisson(rows, rate), fleet(case.prefill, case.decode), router=router(policy, case.slo))
        shares.append(met(samples, case.slo))
        tails[rate] = p99_ms(samples)
        hits = sum(sample.cached_tokens for sample in samples) / sum(sample.input_tokens for sample in samples)
        print(
            f"{case.trace} {policy:15} {rate:5.1f}/s met {shares[-1]:.3f} p99 {tails[rate]:.0f} ms hits {hits:.3f}",
            flush=True,
        )
        if shares[-1] < 0.9:
            break
    return crossing(case.rates, shares), tails


@pytest.mark.parametrize("case", [AZURE, MOONCAKE], ids=["azure", "mooncake"])
def test_goodput_of_64_workers_is_13_tenths_of_simpler_routers_and_tails_are_shorter(case: Case) -> None:
    """Refused requests count as such that missed their objectives; tails are compared where nobody is refused."""
    found = {policy: goodput(case, policy) for policy in ("router", "predicted", *SIMPLER)}
    (best, _), (placed, tails) = found["router"], found["predicted"]
    for policy in SIMPLER:
        rate, theirs = found[policy]
        print(f"{case.trace}: {best:.1f}/s, {placed:.1f}/s without admission, against {rate:.1f}/s of {policy}")
        print(f"{case.trace}: {best / rate:.2f}, {placed / rate:.2f} without admission")
        assert rate < case.rates[-1], "theirs was found, not cut off"
        assert best >= 1.3 * rate, policy
        for each in tails.keys() & theirs.keys():
            assert tails[each] < theirs[each], (policy, each)


def shared(count: int, rate: float, prefixes: int = 48) -> list[WorkloadRow]:
    """Questions of 256 tokens after one of some prefixes of 2,048 tokens."""
    draws, at, rows = stream(2, "shared"), 0.0, []
    for _ in range(count):
        at += draws.expovariate(rate)
        first = draws.randrange(prefixes) * 1000
        rows.append(WorkloadRow(at, 2304, 60, prefix=tuple(range(first, first + 16)), prefix_block_tokens=BLOCK))
    return rows


def test_prefix_hits_survive_a_load_of_four_fifths() -> None:
    """A hit leaves 46 ms of prefill, a miss takes 290; 139 requests a second are 80 % of what 8 workers could hit."""
    hits = {}
    for rate in (10.0, 139.0):
        samples = simulate(shared(1500, rate), fleet(8, 24), router=router("predicted", Slo(1000.0, 100.0)))
        hits[rate] = sum(sample.cached_tokens for sample in samples)
        print(f"{rate}/s: {hits[rate]} tokens found, p99 {p99_ms(samples):.0f} ms")
    assert hits[139.0] >= 0.9 * hits[10.0]


@pytest.mark.parametrize("stale_ms", [50, 200, 500])
def test_stale_reports_make_no_herd(stale_ms: int) -> None:
    rows = [WorkloadRow(number / 60, 900, 40) for number in range(900)]
    found = {}
    for every_s in (0.02, stale_ms / 1000):
        keys = {"worker": {"report_every_s": every_s}, "router": router("predicted", Slo(1000.0, 100.0))}
        found[every_s] = p99_ms(simulate(rows, fleet(8, 8), **keys))
    print(f"p99 with reports of {stale_ms} ms: {found}")
    assert found[stale_ms / 1000] <= 1.5 * found[0.02]


def test_early_rejection_does_not_swing_where_instant_load_does() -> None:
    """Prompts of 2.6 s, and decodes that are the bottleneck: who looks at the decodes of now sees none under way."""
    draws, rate, seconds = stream(3, "lengths"), 72, 33
    rows = [
        WorkloadRow(number / rate, 12_000, max(8, int(draws.expovariate(1 / 40)))) for number in range(rate * seconds)
    ]
    slo, model = Slo(20_000.0, 65.0), opt_13b_a100()
    cost = {
        "prefill_ms": model.prefill.fixed,
        "prefill_token_ms": model.prefill.unit,
        "prefill_pair_ms": model.prefill.context,
        "decode_step_ms": model.decode.fixed,
        "decode_row_ms": model.decode.unit,
        "decode_context_ms": model.decode.context,
    }
    swings, kept = {}, {}
    for policy in ("predicted", "instant"):
        admission = {"policy": policy, "reject_above": 1.0, "hold_ms": 1e9}
        samples = simulate(rows, fleet(192, 16), router=router("predicted", slo, admission=admission, cost=cost))
        taken = np.zeros(seconds + 2)
        for sample in samples:
            taken[int(sample.sent_ns / 1e9)] += sample.outcome is not Outcome.REJECTED
        steady = taken[10 : seconds - 3]  # after the first prompts have reached the decodes
        swings[policy], kept[policy] = float(steady.std() / max(steady.mean(), 1e-9)), met(samples, slo)
        print(f"{policy}: taken each second {steady.astype(int).tolist()}")
        print(f"{policy}: swing {swings[policy]:.2f}, met {kept[policy]:.3f}")
        assert 0.1 * rate < steady.mean() < 0.9 * rate, "there is something to refuse, and something to take"
    assert swings["predicted"] <= 0.6 * swings["instant"]
    assert kept["predicted"] >= kept["instant"]


if __name__ == "__main__":
    for each in [case for case in (AZURE, MOONCAKE) if not sys.argv[1:] or sys.argv[1] in case.trace]:
        for name in ("router", "predicted", *SIMPLER):
            goodput(each, name)
