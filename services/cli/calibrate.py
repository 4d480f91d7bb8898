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
from services.core.errors import ConfigError
from services.sim.cluster import SimCluster
from services.sim.config import SimConfig
from services.sim.machines import pools_of, wires_of

ROUNDS, KEPT = 12, 6
"""How often a simulation is made, and how many of the last ones count, in the mean: queues jump between them."""
PREFILL_POWER, DECODE_POWER = 0.8, 1.6
"""Of the ratio that a slowdown is changed by in a round: queues answer to one by more, lone decodes by less."""
MOST = 4.0
FITTED = ("lent_speedup", "step_ms", "prefill_slowdown", "decode_slowdown")


@dataclass(frozen=True, slots=True)
class Seen:
    """Clients, and what they saw of the cluster in the mean, which is smoother than the median of so few."""

    clients: Callable[[], Iterable[ScheduledRequest]]
    ttft_ms: float
    tpot_ms: float


@dataclass(frozen=True, slots=True)
class Lived:
    """What three kinds of clients saw: one stream, several at once, and requests of all lengths as they come."""

    one: Seen
    many: Seen
    mixed: Seen


def fit_host(config: ClusterConfig, profile: Mapping[str, Any], lived: Lived) -> dict[str, float]:
    """How a profile's host shares its cores, so that its simulation tells what was seen.

    Args:
        profile: with a `lent_speedup` to begin with, as bare processes have it.

    Returns:
        `lent_speedup`, `step_ms`, `prefill_slowdown` and `decode_slowdown`, all as in `sim.config.HostConfig`.
    """
    host = dict(profile["host"]) | {"step_ms": 0.0, "prefill_slowdown": 1.0, "decode_slowdown": 1.0}
    lends = host["cores"] > config.pools.decode.threads
    tried = []
    for _ in range(ROUNDS):
        tried.append({name: host[name] for name in FITTED})
        one, many, mixed = (
            told(config, {**profile, "host": host}, each.clients()) for each in (lived.one, lived.many, lived.mixed)
        )
        # A step of streams alone takes x / lent_speedup + step_ms, with x of one and of many of them.
        steady = [(each[1] - host["step_ms"]) * host["lent_speedup"] for each in (one, many)]
        slope = lived.many.tpot_ms - lived.one.tpot_ms
        if lends and slope > 0:
            host["lent_speedup"] = _within((steady[1] - steady[0]) / slope)
        host["step_ms"] = max(0.0, lived.one.tpot_ms - steady[0] / host["lent_speedup"])
        for name, power, wanted, found in (
            ("prefill_slowdown", PREFILL_POWER, lived.mixed.ttft_ms, mixed[0]),
            ("decode_slowdown", DECODE_POWER, lived.mixed.tpot_ms, mixed[1]),
        ):
            host[name] = _within(host[name] * (wanted / found) ** power)
    return {name: mean(each[name] for each in tried[-KEPT:]) for name in FITTED}


def _within(factor: float) -> float:
    return min(MOST, max(1.0, factor))


def told(
    config: ClusterConfig, profile: Mapping[str, Any], requests: Iterable[ScheduledRequest]
) -> tuple[float, float]:
    """Mean TTFT and TPOT, in milliseconds, that a simulation tells of clients.

    Raises:
        ConfigError: it answers nobody.
    """
    cost = parse(CostConfig, {name: value for name, value in profile.items() if name not in NO_COSTS}, "profile")
    sim = parse(SimConfig, {"host": profile["host"], "delays": profile["delays"]}, "profile")
    pools = pools_of(config, sim.machines, cost)
    cluster = SimCluster(config, pools, wires_of(config, sim, pools, cost))
    samples = list(cluster.samples([row_of(each) for each in requests]))
    ttft_ms = [each.ttft_ms(intended=False) for each in samples]
    tpot_ms = [each.tpot_ms for each in samples]
    found = [[each for each in times if each is not None] for times in (ttft_ms, tpot_ms)]
    if not all(found):
        raise ConfigError("profile", "no answer", "its simulation answers none of the requests that the cluster did")
    return mean(found[0]), mean(found[1])
