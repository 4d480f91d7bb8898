"""What a simulated cluster is made of, and what its run does beside computing a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.cluster.config import ClusterConfig
from services.core.errors import ConfigError
from services.core.slo import NO_SLO, Slo
from services.scheduling.config import SchedulerConfig
from services.sim.cost_model import CostModel
from services.sim.faults import Fault
from services.sim.network import Place
from services.worker.config import WorkerSpec


@dataclass(frozen=True, slots=True)
class SimPool:
    """Equal workers.

    Attributes:
        name: of the launch pool; workers are `<name>-<number>`.
        roles: stages that they host; both: prompts are decoded where they are computed.
        replicas: workers.
        cost: of their steps.
        num_blocks: of the KV pool of one.
        block_bytes: KV of one block, over all ranks.
        tp: ranks of one worker.
        devices: accelerators that one worker takes, for accounts; 0 for CPU workers.
        places: where each worker is; fewer than replicas: the last one's host for the others, too.
        threads: cores that a step uses, where cores are shared.
        scheduler: instead of the configuration's.
    """

    name: str
    roles: tuple[str, ...]
    replicas: int
    cost: CostModel
    num_blocks: int
    block_bytes: int
    tp: int = 1
    devices: int = 0
    places: tuple[Place, ...] = (Place(),)
    threads: int = 1
    scheduler: SchedulerConfig | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What a run does beside computing its result.

    Attributes:
        nvlink: devices of a host are joined by it.
        faults: what goes wrong.
        record: (name of a log) -> where its lines go; None: no decision logs.
        timelines: keep every mark of every request, and what each worker computed when.
        check: assert every invariant after each event.
        gaps: keep the time between any two tokens of each request.
        wishes: that clients tell the server with each request; without any, it takes the configured ones.
    """

    nvlink: bool = False
    faults: tuple[Fault, ...] = ()
    record: Callable[[str], Callable[[str], object]] | None = None
    timelines: bool = False
    check: bool = False
    gaps: bool = True
    wishes: Slo = NO_SLO


def check_pools(pools: Sequence[SimPool], images: bool = False) -> None:
    """Hold that there are workers for both stages, and for `images` where requests may have some.

    Raises:
        ConfigError: a stage that nobody hosts, two pools of one name, or a worker without KV blocks.
    """
    names = [pool.name for pool in pools]
    if len(set(names)) < len(names):
        raise ConfigError("pools", ", ".join(names), "two pools have one name; rename one")
    for role in ("encode", "prefill", "decode") if images else ("prefill", "decode"):
        if not any(role in pool.roles and pool.replicas for pool in pools):
            raise ConfigError("pools", ", ".join(names), f"no worker hosts the {role} stage; add a pool that does")
    for pool in pools:
        if pool.num_blocks < 1:
            raise ConfigError(f"pools.{pool.name}.num_blocks", pool.num_blocks, "the model leaves no memory for KV")


def spec_of(config: ClusterConfig, pool: SimPool, worker_id: str) -> WorkerSpec:
    """What a worker of a pool is told of itself."""
    return WorkerSpec(
        worker_id=worker_id,
        cluster_id=config.cluster.name,
        pool=pool.name,
        roles=pool.roles,
        tp=pool.tp,
        model=config.model,
        model_folder="",
        cache=config.cache,
        transfer=config.transfer,
        scheduler=pool.scheduler or config.scheduler,
        encode=config.encode,
        prefill=config.prefill,
        decode=config.decode,
        worker=config.worker,
    )
