"""Small simulated clusters, workloads and what must hold after every run."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from services.cluster.config import ClusterConfig
from services.core.workload import WorkloadRow
from services.sim.cluster import SimCluster
from services.sim.config import DelaysConfig, SimConfig
from services.sim.cost_model import CostModel, FittedCost, Linear, opt_13b_a100
from services.sim.faults import Fault, faults_from
from services.sim.outcome import SimRun
from services.sim.pools import Options, SimPool

NO_DELAYS = DelaysConfig(door_ms=0, dispatch_ms=0, stream_ms=0, message_ms=0, open_link_ms=0)
BLOCK_BYTES = 16 * 819200


def config_of(**keys: Any) -> ClusterConfig:
    """A configuration that refuses no request for being one too many."""
    scheduler = {"max_batch_tokens": 2048, "max_sequences": 256}
    base = {"scheduler": scheduler, "frontdoor": {"max_running_requests": 100_000}}
    return ClusterConfig.model_validate({**base, **keys})


def pools(
    prefill: int = 2, decode: int = 2, blocks: int = 2000, cost: CostModel | None = None, tp: int = 1
) -> list[SimPool]:
    """OPT-13B on A100s unless another cost is given."""
    cost = cost or opt_13b_a100()
    return [
        SimPool("prefill", ("prefill",), prefill, cost, blocks, BLOCK_BYTES, tp),
        SimPool("decode", ("decode",), decode, cost, blocks, BLOCK_BYTES, tp),
    ]


def poisson(
    count: int, rate: float, seed: int = 1, tokens: tuple[int, int] = (50, 2000), output: int = 300
) -> list[WorkloadRow]:
    """Rows that come at random, of uniform lengths."""
    chance, at, rows = random.Random(seed), 0.0, []
    for _ in range(count):
        at += chance.expovariate(rate)
        rows.append(WorkloadRow(at, chance.randint(*tokens), chance.randint(1, output)))
    return rows


def simulated(
    rows: Iterable[WorkloadRow],
    given: list[SimPool] | None = None,
    config: ClusterConfig | None = None,
    delays: DelaysConfig | None = None,
    fast: bool = True,
    **options: Any,
) -> tuple[SimCluster, SimRun]:
    """A finished run, with every invariant looked at after every event, and what must hold after it."""
    sim = SimConfig(fast_forward=fast, delays=delays or DelaysConfig())
    cluster = SimCluster(config or config_of(), given or pools(), sim, Options(**{"check": True, **options}))
    rows = list(rows)
    run = cluster.run(rows)
    conserved(cluster, run, len(rows))
    return cluster, run


def conserved(cluster: SimCluster, run: SimRun, requests: int) -> None:
    """Every request ended once, and nothing is held for any of them."""
    assert sorted(sample.index for sample in run.samples) == list(range(requests))
    cluster.queue.stopped = False
    cluster.queue.run(cluster.queue.now + 30 * 10**9)  # leases of those that died run out
    for worker in cluster.workers.values():
        worker.core.check()
        assert worker.core.idle, (worker.ref, worker.core.request_ids())
        assert worker.core.blocks_used == 0, worker.ref
    assert not cluster.network.flows
    for door in cluster.doors.by_name.values():
        assert not door.clients
        door.flow.check()
        state: Any = door.flow.state()
        assert not state["running"]
        assert all(count == 0 for *_, count in state["view"]["decodes"])


def some_faults() -> tuple[Fault, ...]:
    """One of each kind, and a second crash."""
    return faults_from(
        [
            {"kind": "crash", "at_s": 2.0, "target": "decode-0"},
            {"kind": "stall", "at_s": 3.0, "target": "decode-1", "lasts_s": 1.0},
            {"kind": "partition", "at_s": 4.5, "target": "prefill-1", "other": "door", "lasts_s": 3.0},
            {"kind": "partition", "at_s": 5.0, "target": "prefill-0", "other": "decode-1", "lasts_s": 1.5},
            {"kind": "slow_link", "at_s": 6.0, "target": "host", "factor": 50, "lasts_s": 2.0},
            {"kind": "crash", "at_s": 7.0, "target": "prefill-1"},
        ]
    )


def constant(seconds: float, tokens: int, speedup: float = 1.0, stages: int = 1) -> FittedCost:
    """A prompt of so many tokens takes that long; decodes take 1 ms."""
    return FittedCost(Linear(0.0, 1000 * seconds / tokens / speedup, 0.0), Linear(1.0, 0.0, 0.0), stages=stages)
