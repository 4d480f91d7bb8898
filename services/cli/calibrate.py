"""Makes a simulation tell what clients of the running cluster saw: what work costs that has others beside it.

A step that has a core of its own is slower beside other work: caches and memory are shared, and short jobs of many
processes take turns with it. No single time shows how much, for clients see it together with queues and batches. So the
very clients that asked the cluster ask the simulated one, and its slowdowns are changed until it tells the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from loadgen.schedule import ScheduledRequest
from services.cli.simulate import NO_COSTS, row_of
from services.cluster.config import ClusterConfig
from services.core.config import CostConfig, parse
from services.sim.cluster import SimCluster
from services.sim.config import SimConfig
from services.sim.machines import pools_of

ROUNDS, KEPT = 12, 6
"""How often a simulation is made, and how many of the last ones count, in the mean: queues jump between them."""
PREFILL_POWER, DECODE_POWER = 0.8, 1.6
"""Of the ratio that a slowdown is changed by in a round: queues answer to one by more, lone decodes by less."""
MOST = 4.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Clients, and what they saw of the cluster in the mean, which is smoother than the median of so few."""

    clients: Callable[[], Iterable[ScheduledRequest]]
    ttft_ms: float
    tpot_ms: float


def fit_slowdowns(config: ClusterConfig, profile: Mapping[str, Any], seen: Seen) -> dict[str, float]:
    """`prefill_slowdown` and `decode_slowdown` of a profile's host with which its simulation tells what was seen."""
    prefill, decode, tried = 1.0, 1.0, []
    for _ in range(ROUNDS):
        tried.append((prefill, decode))
        found = {"prefill_slowdown": prefill, "decode_slowdown": decode}
        ttft_ms, tpot_ms = told(config, {**profile, "host": {**profile["host"], **found}}, seen.clients())
        prefill = min(MOST, max(1.0, prefill * (seen.ttft_ms / ttft_ms) ** PREFILL_POWER))
        decode = min(MOST, max(1.0, decode * (seen.tpot_ms / tpot_ms) ** DECODE_POWER))
    prefill, decode = map(mean, zip(*tried[-KEPT:], strict=True))
    return {"prefill_slowdown": prefill, "decode_slowdown": decode}


def told(
    config: ClusterConfig, profile: Mapping[str, Any], requests: Iterable[ScheduledRequest]
) -> tuple[float, float]:
    """Mean TTFT and TPOT, in milliseconds, that a simulation tells of clients."""
    cost = parse(CostConfig, {name: value for name, value in profile.items() if name not in NO_COSTS}, "profile")
    sim = parse(SimConfig, {"host": profile["host"], "delays": profile["delays"]}, "profile")
    cluster = SimCluster(config, pools_of(config, sim.machines, cost), sim)
    samples = list(cluster.samples([row_of(each) for each in requests]))
    ttft_ms = [each.ttft_ms(intended=False) for each in samples]
    tpot_ms = [each.tpot_ms for each in samples]
    return mean([each for each in ttft_ms if each is not None]), mean([each for each in tpot_ms if each is not None])
