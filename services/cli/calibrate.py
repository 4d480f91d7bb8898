"""Makes a simulation tell what clients of the running cluster saw: what work costs that has others beside it.

A step that has a core of its own is slower beside other work: caches and memory are shared, and short jobs of many
processes take turns with it. No single time shows how much, for clients see it together with queues and batches. So the
very clients that asked the cluster ask the simulated one, and its slowdowns are changed until it tells the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from loadgen.schedule import ScheduledRequest
from services.cli.simulate import NO_COSTS, row_of
from services.cluster.config import ClusterConfig
from services.core.config import CostConfig, parse
from services.sim.cluster import SimCluster
from services.sim.config import SimConfig
from services.sim.machines import pools_of

ROUNDS = 8
POWER = 0.7
"""Of the ratio that a slowdown is changed by in a round: a queue answers to it by more than the ratio."""
MOST = 4.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Clients, and what they saw of the cluster in the median."""

    clients: Callable[[], Iterable[ScheduledRequest]]
    ttft_ms: float
    tpot_ms: float


def fit_slowdowns(config: ClusterConfig, profile: Mapping[str, Any], seen: Seen) -> dict[str, float]:
    """`prefill_slowdown` and `decode_slowdown` of a profile's host with which its simulation tells what was seen."""
    prefill = decode = 1.0
    for _ in range(ROUNDS):
        found = {"prefill_slowdown": prefill, "decode_slowdown": decode}
        ttft_ms, tpot_ms = told(config, {**profile, "host": {**profile["host"], **found}}, seen.clients())
        prefill = min(MOST, max(1.0, prefill * (seen.ttft_ms / ttft_ms) ** POWER))
        decode = min(MOST, max(1.0, decode * (seen.tpot_ms / tpot_ms) ** POWER))
    return {"prefill_slowdown": prefill, "decode_slowdown": decode}


def told(
    config: ClusterConfig, profile: Mapping[str, Any], requests: Iterable[ScheduledRequest]
) -> tuple[float, float]:
    """Median TTFT and TPOT, in milliseconds, that a simulation tells of clients."""
    cost = parse(CostConfig, {name: value for name, value in profile.items() if name not in NO_COSTS}, "profile")
    sim = parse(SimConfig, {"host": profile["host"], "delays": profile["delays"]}, "profile")
    cluster = SimCluster(config, pools_of(config, sim.machines, cost), sim)
    samples = list(cluster.samples([row_of(each) for each in requests]))
    ttft_ms = [each.ttft_ms(intended=False) for each in samples]
    tpot_ms = [each.tpot_ms for each in samples]
    return median([each for each in ttft_ms if each]), median([each for each in tpot_ms if each])
