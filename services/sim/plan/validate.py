"""A placement as a whole cluster: the real router, stages and hand-off, simulated at the rate that was computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from services.cluster.config import ClusterConfig
from services.core.workload import WorkloadRow
from services.sim.cluster import SimCluster
from services.sim.config import SimConfig
from services.sim.network import Place
from services.sim.plan.goodput import PRECISION, WARM_UP, Objective
from services.sim.plan.instances import Group
from services.sim.plan.placement import Kind, Placement, PlanPool
from services.sim.plan.workload import Workload
from services.sim.pools import Options, SimPool

LEAST_PER_COPY = 2000
FILL_UPS, MOST_TO_FILL_UP = 4, 20_000
MANY_WORKERS = 64
SLOW_REPORT_S = 1.0
ROLES = {
    "encode": ("encode",),
    "prefill": ("prefill",),
    "decode": ("decode",),
    "colocated": ("prefill", "decode"),
    "mixed": ("prefill", "decode"),
}


@dataclass(frozen=True, slots=True)
class PoolUse:
    """What the workers of one pool did: mean share of the time in steps, most of the KV pool in use at once."""

    role: str
    busy: float
    peak_kv_share: float


@dataclass(frozen=True, slots=True)
class Validation:
    """A placement at one rate, request by request.

    Attributes:
        rate: of all copies.
        requests: that were simulated, and `judged` of them after the warm-up.
        copies: equal clusters that were simulated, of those that the placement has.
        attainment: share that kept both bounds jointly.
    """

    rate: float
    requests: int
    judged: int
    copies: int
    attainment: float
    ttft_attainment: float
    tpot_attainment: float
    ttft_p50_ms: float
    ttft_p90_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p90_ms: float
    tpot_p99_ms: float
    failed: int
    pools: tuple[PoolUse, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything beside the placement that a validation needs."""

    groups: tuple[Group, ...]
    workload: Workload
    objective: Objective
    config: ClusterConfig
    sim: SimConfig
    seed: int


def cluster_config(placement: Placement, config: ClusterConfig) -> ClusterConfig:
    """The configuration that a copy of the placement runs with; pools' sizes are not in it."""
    workers = sum(pool.replicas for pool in placement.pools)
    scheduler = config.scheduler.model_copy(update={"max_batch_tokens": placement.max_batch_tokens})
    updates: dict[str, object] = {"scheduler": scheduler}
    if workers > MANY_WORKERS:  # a report of each worker ten times a second is more than one front door needs
        updates["worker"] = config.worker.model_copy(update={"report_every_s": SLOW_REPORT_S})
    return config.model_copy(update=updates)


def sim_pools(
    placement: Placement, groups: tuple[Group, ...], block_tokens: int, pictures: bool = False
) -> list[SimPool]:
    """The pools of one copy, on hosts of their groups; a copy of the kind `in a host` has one host of its own.

    Args:
        pictures: requests have some; where no pool encodes alone, whoever computes prompts encodes.
    """
    encode = pictures and placement.kind is not Kind.ENCODE_APART
    used: dict[int, _Hosts] = {}
    first = 0
    for place, group in enumerate(groups):
        used[place] = _Hosts(first, group.device.per_host)
        first += group.hosts
    return [_pool(pool, used[pool.instance.group], block_tokens, encode) for pool in placement.pools]


class _Hosts:
    """Devices of a group in order, host after host."""

    def __init__(self, first: int, per_host: int) -> None:
        self._next, self._per_host = first * per_host, per_host

    def take(self, devices: int) -> Place:
        """Devices on one host, or from the beginning of one where more are needed; a gap stays free."""
        per_host, inside = self._per_host, min(devices, self._per_host)
        if self._next % per_host + inside > per_host:
            self._next += per_host - self._next % per_host
        begin = self._next
        self._next += devices
        return Place(host=begin // per_host, devices=tuple((begin + each) % per_host for each in range(inside)))


def _pool(pool: PlanPool, hosts: _Hosts, block_tokens: int, encode: bool) -> SimPool:
    instance, roles = pool.instance, ROLES[pool.role]
    return SimPool(
        pool.role,
        ("encode", *roles) if encode and "prefill" in roles else roles,
        pool.replicas,
        instance.cost,
        instance.blocks(block_tokens),
        round(instance.token_bytes * block_tokens),
        instance.tp,
        instance.devices,
        tuple(hosts.take(instance.devices) for _ in range(pool.replicas)),
    )


def validate(placement: Placement, rate: float, requests: int, scene: Scene) -> Validation:
    """Simulate as many copies as the requests suffice for, each with its share of the rate."""
    copies = min(placement.copies, max(1, requests // LEAST_PER_COPY))
    each = max(math.ceil(requests / copies), _to_fill_up(rate / placement.copies, scene))
    config = cluster_config(placement, scene.config)
    columns: list[np.ndarray] = []
    uses: dict[str, list[tuple[float, float]]] = {pool.role: [] for pool in placement.pools}
    for copy in range(copies):
        cluster = SimCluster(
            config,
            sim_pools(placement, scene.groups, config.cache.block_size_tokens, scene.workload.pictures is not None),
            scene.sim,
            Options(gaps=False, nvlink=True),
        )
        seen = np.full((each, 3), np.inf)
        rows = _rows(scene.workload, rate / placement.copies, each, scene.seed + 1 + copy)
        for sample in cluster.samples(rows):
            if sample.outcome.value == "ok":
                seen[sample.index] = sample.ttft_ms() or 0.0, sample.tpot_ms or 0.0, 0.0
        columns.append(seen[int(WARM_UP * each) :])
        run = cluster.outcome()
        length_s = max(run.duration_s, 1e-9)
        for use in run.workers:
            uses[use.pool].append((use.busy_s / length_s, use.peak_kv_share))
    pools = tuple(
        PoolUse(role, float(np.mean([busy for busy, _ in found])), max(share for _, share in found))
        for role, found in uses.items()
    )
    return _judged(rate, copies * each, copies, np.concatenate(columns), scene.objective, pools)


def _to_fill_up(rate: float, scene: Scene) -> int:
    """Requests that arrive while the cluster fills up several times."""
    held = rate * scene.workload.mean_output * min(scene.objective.tpot_ms, 1000.0) / 1000.0
    return int(min(FILL_UPS * held, MOST_TO_FILL_UP))


def _rows(workload: Workload, rate: float, count: int, seed: int) -> Iterator[WorkloadRow]:
    arrivals = workload.arrivals(rate, count, seed)
    pictures = np.zeros(count, dtype=np.int64) if arrivals.images is None else arrivals.images
    for at_ns, prompt, output, images in zip(arrivals.at_ns, arrivals.inputs, arrivals.outputs, pictures, strict=True):
        yield WorkloadRow(float(at_ns) / 1e9, int(prompt), int(output), images=int(images))


def _judged(
    rate: float, requests: int, copies: int, seen: np.ndarray, objective: Objective, pools: tuple[PoolUse, ...]
) -> Validation:
    ttft, tpot = seen[:, 0], seen[:, 1]
    in_ttft, in_tpot = ttft <= objective.ttft_ms, tpot <= objective.tpot_ms
    tails = {
        f"{name}_p{round(100 * q)}_ms": float(np.quantile(each, q, method="higher"))
        for name, each in (("ttft", ttft), ("tpot", tpot))
        for q in (0.5, 0.9, 0.99)
    }
    return Validation(
        rate=rate,
        requests=requests,
        judged=len(seen),
        copies=copies,
        attainment=float((in_ttft & in_tpot).mean()),
        ttft_attainment=float(in_ttft.mean()),
        tpot_attainment=float(in_tpot.mean()),
        failed=int(np.isinf(ttft).sum()),
        pools=pools,
        **tails,
    )


def confirmed(
    placement: Placement, scene: Scene, requests: int, tries: int, exact: bool
) -> tuple[Placement, tuple[Validation, ...]]:
    """The placement at a rate that the whole cluster keeps, and every run that was made for it.

    Args:
        tries: runs at most.
        exact: bisect to the highest rate; else the first of falling rates that keeps the objective.
    """
    target = scene.objective.attainment
    runs: list[Validation] = []
    below, above, rate = 0.0, math.inf, placement.rate
    while len(runs) < tries:
        runs.append(validate(placement, rate, requests, scene))
        if runs[-1].attainment >= target:
            below = rate
        else:
            above = rate
        if below and (not exact or above / below <= 1 + PRECISION):
            break
        if below and math.isfinite(above):
            rate = math.sqrt(below * above)
        else:
            rate = rate * 1.2 if below else rate * (0.9 if len(runs) < 3 else 0.75)
    best = max((run for run in runs if run.attainment >= target), key=lambda run: run.rate, default=None)
    if best is None:
        return _with(placement, 0.0, runs[-1]), tuple(runs)
    return _with(placement, below, best), tuple(runs)


def _with(placement: Placement, rate: float, run: Validation) -> Placement:
    binding = placement.binding
    if rate < placement.rate:  # the cluster keeps less than its parts: say which bound breaks first
        binding = "ttft" if run.ttft_attainment <= run.tpot_attainment else "tpot"
    return replace(placement, rate=rate, binding=binding, ttft_p99_ms=run.ttft_p99_ms, tpot_p99_ms=run.tpot_p99_ms)
