"""Which workers a configuration asks for, and what each of them is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.cluster.config import MAX_FRONT_DOORS, MAX_REPLICAS, ClusterConfig, PoolConfig
from services.core.errors import ConfigError
from services.worker.config import WorkerSpec

CLUSTER_VARIABLE = "TRIPTYCH_CLUSTER_ID"
"""Environment variable that every process of a cluster inherits, and by which `down` finds them all."""

WORKER_VARIABLE = "TRIPTYCH_WORKER_ID"
"""Environment variable of worker processes alone."""

FRONT_DOOR = "frontdoor"
"""Ray resource of which every front door takes one unit, as every rank of a worker takes one of its pool's name."""


LAUNCHED = ("prefill", "decode")
"""Pools that a cluster starts."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One worker that should exist: its name, the pool it is launched for and the stages it hosts at first."""

    worker_id: str
    pool: str
    roles: tuple[str, ...]


def pools(config: ClusterConfig) -> dict[str, PoolConfig]:
    """Launch pools by name, in the order of a request's life."""
    return {name: getattr(config.pools, name) for name in LAUNCHED}


def check_roles(config: ClusterConfig) -> None:
    """Hold that the engine can do what the pools are for.

    Raises:
        ConfigError: workers that encode images.
    """
    encoders = config.pools.encode.replicas
    if encoders:
        raise ConfigError(
            "pools.encode.replicas", encoders, "images are only simulated, the engine has no vision tower yet; write 0"
        )


def placement_of(worker_id: str, pool: str) -> Placement:
    """Where a worker of a pool belongs; at first it hosts the stage of its pool's name."""
    return Placement(worker_id, pool, (pool,))


def placements(config: ClusterConfig) -> tuple[Placement, ...]:
    """Every worker of the cluster: `prefill-0`, `prefill-1`, ..., `decode-0`, ...

    Raises:
        ConfigError: workers that the engine has no use for.
    """
    check_roles(config)
    return tuple(
        placement_of(f"{name}-{index}", name) for name, pool in pools(config).items() for index in range(pool.replicas)
    )


def desired(config: ClusterConfig) -> dict[str, tuple[str, ...]]:
    """Worker ids by pool, as the reconciler wants them."""
    return {
        name: tuple(place.worker_id for place in placements(config) if place.pool == name) for name in pools(config)
    }


def pool_resources(config: ClusterConfig) -> dict[str, float]:
    """Ray resources of a node that hosts the whole cluster: a rank of a worker takes one unit of its pool's resource.

    As many units as a pool may have workers, because pools can be scaled; what fits is decided by memory. Front doors
    are replaced by as many new ones before they end.
    """
    workers = {name: float(MAX_REPLICAS * pool.tp) for name, pool in pools(config).items()}
    return {FRONT_DOOR: 2.0 * MAX_FRONT_DOORS, **workers}


def total_threads(config: ClusterConfig) -> int:
    """Compute threads of all workers together."""
    return sum(pool.replicas * pool.tp * pool.threads for pool in pools(config).values())


def check_threads(config: ClusterConfig, cores: int) -> str | None:
    """Hold the rule that a cluster has no more compute threads than its host has cores.

    A worker needs one thread, so more workers than cores are allowed, with a warning: they slow each other down.

    Args:
        cores: that the cluster may use.

    Returns:
        The warning, or None.

    Raises:
        ConfigError: a pool asks for more than one thread a worker and there are too many in all.
    """
    total = total_threads(config)
    if total <= cores:
        return None
    for name, pool in pools(config).items():
        if pool.threads > 1:
            raise ConfigError(
                f"pools.{name}.threads",
                pool.threads,
                f"the workers would compute with {total} threads on {cores} cores; write 1, or start fewer workers",
            )
    return f"the workers compute with {total} threads on {cores} cores and slow each other down; no cores are lent"


def wanted_path(state_folder: Path, cluster_id: str) -> Path:
    """Where the controller notes which workers are wanted, once that is not what the configuration says."""
    return state_folder / "clusters" / f"{cluster_id}.wanted.json"


def ledger_path(state_folder: Path, cluster_id: str) -> Path:
    """Where the workers of a host note which cores they use."""
    return state_folder / "clusters" / f"{cluster_id}.cores"


def core_ledger(config: ClusterConfig, cluster_id: str, cores: int) -> str | None:
    """The ledger of a worker on this host; None where nothing is lent: tensor-parallel ranks keep their own cores."""
    alone = any(pool.tp > 1 for pool in pools(config).values()) or total_threads(config) > cores
    if alone or not config.worker.lend_cores:
        return None
    return str(ledger_path(Path(config.state_folder).expanduser(), cluster_id))


def worker_spec(
    config: ClusterConfig, cluster_id: str, model_folder: str, placement: Placement, cores: int
) -> WorkerSpec:
    """Everything one worker is started with.

    Args:
        cluster_id: of the running cluster; part of the actor's name.
        model_folder: prepared Hugging Face-layout folder.
        cores: of the host.
    """
    return WorkerSpec(
        worker_id=placement.worker_id,
        cluster_id=cluster_id,
        pool=placement.pool,
        roles=placement.roles,
        threads=pools(config)[placement.pool].threads,
        tp=pools(config)[placement.pool].tp,
        core_ledger=core_ledger(config, cluster_id, cores),
        model=config.model,
        model_folder=model_folder,
        cache=config.cache,
        transfer=config.transfer,
        scheduler=config.scheduler,
        encode=config.encode,
        prefill=config.prefill,
        decode=config.decode,
        worker=config.worker,
        telemetry=config.telemetry,
        testing=config.testing,
        decision_log=config.record.folder,
    )


def worker_environment(config: ClusterConfig, placement: Placement) -> dict[str, str]:
    """Environment variables of a worker process.

    Thread counts must be set before torch is imported. The NCCL ones hand timeouts to the link thread, where a dead
    peer costs one link; left alone, NCCL's watchdog kills the process.
    """
    threads = str(pools(config)[placement.pool].threads)
    return {
        WORKER_VARIABLE: placement.worker_id,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # huge pages for weights: a decode step takes 5 % less
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
        "TORCH_NCCL_ENABLE_MONITORING": "0",
    }


def cluster_environment(cluster_id: str) -> dict[str, str]:
    """Environment variables of `up` itself, inherited by every process of the cluster."""
    return {
        CLUSTER_VARIABLE: cluster_id,
        "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves the machine
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # a worker's failure is told by the controller, once
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # Ray would print its news of dead processes to the stdout of `up`
        "HF_HUB_OFFLINE": "1",
        # Ray Serve looks at its few replicas ten times a second, and asks Ray each time: 4 % of a core.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",  # workers set their own
    }
