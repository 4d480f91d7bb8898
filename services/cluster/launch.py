"""Ray: the local node, and worker actors made, adopted and killed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any, cast

import psutil
import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from services.cluster.config import MAX_RANKS, ClusterConfig
from services.cluster.supervise import SESSIONS_FOLDER, prune_sessions, usable_cores, worker_processes
from services.cluster.topology import placement_of, placements, pool_resources, worker_environment, worker_spec
from services.core.actions import WorkerReport
from services.core.errors import StartupError, UnavailableError
from services.core.wire import NAMESPACE, WorkerInfo, actor_name, rank_name
from services.worker.actor import WorkerActor
from services.worker.rank_actor import RankActor

NODE_ADDRESS = "127.0.0.2"
"""Ray replaces 127.0.0.1 by the machine's own address without a word; this one keeps its traffic on loopback."""

OBJECT_STORE_BYTES = 80 * 2**20
"""Just above Ray's minimum: nothing of ours goes through the object store."""

RAY_OPTIONS = {
    "worker_niceness": 0,  # Ray's 15 would put serving behind everything else on the host
    # Nobody reads these without its dashboard, and every process of an idle cluster would tell them.
    "task_events_report_interval_ms": 0,
    "enable_metrics_collection": False,
}

MAX_CONCURRENCY = 1000
"""Calls that one worker actor may have in progress; most of them wait for a stream."""


def rank_resources(pool: str) -> dict[str, float]:
    """Ray resources that every rank of a pool's workers asks for."""
    return {pool: 1}


def start_ray(config: ClusterConfig) -> Path:
    """Start a Ray node of our own on this machine, never joining one that runs already.

    Returns:
        The folder of Ray's logs.

    Raises:
        StartupError: Ray did not start.
    """
    folder = SESSIONS_FOLDER
    prune_sessions(folder)
    try:
        context = ray.init(
            address="local",
            namespace=NAMESPACE,
            num_cpus=0,  # Ray starts an idle process for each; our actors ask for none
            resources=pool_resources(config),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address=NODE_ADDRESS,
            _temp_dir=str(folder),
            _system_config=RAY_OPTIONS,
        )
    except Exception as error:  # Ray raises plain Exception too, as when its node is slow to start
        raise StartupError(f"Ray did not start: {error}. Its logs are in {folder}/session_latest/logs.") from error
    return Path(cast(Any, context).address_info["session_dir"]) / "logs"


def stop_ray() -> None:
    """End the node and every actor on it."""
    ray.shutdown()


class RayWorker:
    """A worker actor as the controller calls it (`services.controller.app.WorkerHandle`)."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def ready(self) -> WorkerInfo:
        """Wait until the model is loaded.

        Raises:
            UnavailableError: the worker could not start; the message is the worker's own.
        """
        info: WorkerInfo = await self._call("ready")
        return info

    def begin(self) -> None:
        """Make the worker load; its failure is told to whoever awaits `ready`."""
        self._actor.ready.remote()

    async def heartbeat(self, controller_id: str) -> WorkerReport:
        """The worker's report of this moment."""
        report: WorkerReport = await self._call("heartbeat", controller_id)
        return report

    async def drain(self) -> None:
        """Take no new request."""
        await self._call("drain")

    async def stop(self) -> None:
        """End the process."""
        await self._call("stop")

    async def _call(self, method: str, *arguments: object) -> Any:
        try:
            return await getattr(self._actor, method).remote(*arguments)
        except RayError as error:
            raise UnavailableError(explain(error)) from error


class RayWorkerHost:
    """Worker actors of one cluster (`services.controller.app.WorkerHost`).

    Args:
        cluster_id: first part of every actor's name.
        model_folder: prepared model that the workers load.
    """

    def __init__(self, config: ClusterConfig, cluster_id: str, model_folder: str) -> None:
        self._config = config
        self._cluster_id = cluster_id
        self._model_folder = model_folder

    def find(self, worker_id: str) -> RayWorker | None:
        """The worker's actor, whoever made it, or None."""
        actor = self._rank(worker_id, 0)
        return None if actor is None else RayWorker(actor)

    def _rank(self, worker_id: str, rank: int) -> Any:
        """The actor of a worker's rank, or None."""
        try:
            return ray.get_actor(rank_name(self._cluster_id, worker_id, rank), namespace=NAMESPACE)
        except ValueError:
            return None

    def launch(self, worker_id: str, pool: str) -> RayWorker:
        """Make the actor of every rank; they outlive their maker, and the controller decides what is restarted."""
        placement = placement_of(worker_id, pool)
        spec = worker_spec(self._config, self._cluster_id, self._model_folder, placement, usable_cores())
        options: dict[str, Any] = {
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,  # a controller that is being replaced may have made it a moment ago
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": MAX_CONCURRENCY,
            "num_cpus": 0,
            "resources": rank_resources(pool),
            "runtime_env": {"env_vars": worker_environment(self._config, placement)},
        }
        data = spec.model_dump(mode="json")
        if spec.tp > 1:
            group = self._place(worker_id, pool, spec.tp)
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group)
        for rank in range(1, spec.tp):
            name = rank_name(self._cluster_id, worker_id, rank)
            ray.remote(RankActor).options(name=name, **options).remote(data, rank)
        name = actor_name(self._cluster_id, worker_id)
        return RayWorker(ray.remote(WorkerActor).options(name=name, **options).remote(data))

    def _place(self, worker_id: str, pool: str, ranks: int) -> PlacementGroup:
        """Room for all ranks of a worker on one node, or for none of them."""
        for known in self._placed(worker_id):
            return known
        name = actor_name(self._cluster_id, worker_id)
        made: PlacementGroup = placement_group(
            [rank_resources(pool)] * ranks, strategy="STRICT_PACK", name=name, lifetime="detached"
        )
        return made

    def _placed(self, worker_id: str) -> list[PlacementGroup]:
        """The placement group of a worker, whoever made it; none for a worker of one rank."""
        name = actor_name(self._cluster_id, worker_id)
        known = cast("dict[str, dict[str, Any]]", placement_group_table())
        return [
            PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group)))
            for group, row in known.items()
            if row["name"] == name and row["state"] != "REMOVED"
        ]

    def launch_all(self) -> None:
        """Start every worker of the configuration and let it load, without waiting; a controller adopts them later."""
        for placement in placements(self._config):
            self.launch(placement.worker_id, placement.pool).begin()

    async def kill(self, worker_id: str) -> None:
        """Kill the worker's processes, one for each rank, and wait until they are gone and their names are free.

        Ray frees the name of a killed actor before its process ends, and a stopped process (SIGSTOP) never obeys Ray;
        so on this host the process itself is killed.
        """
        processes = worker_processes(self._cluster_id, worker_id)
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        placed = self._placed(worker_id)
        for rank in range(MAX_RANKS if placed else 1):
            while (actor := self._rank(worker_id, rank)) is not None:
                ray.kill(actor)
                await asyncio.sleep(0.02)
        for group in placed:
            remove_placement_group(group)
        while any(process.is_running() for process in processes):
            await asyncio.sleep(0.02)


def explain(error: RayError) -> str:
    """What happened, for people: the message of the worker's own exception where there is one, without a traceback."""
    if isinstance(error, RayTaskError) and error.cause is not None:
        return str(error.cause) or type(error.cause).__name__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Ray's text on a dead actor ends with the cause: the exception of its __init__, or who killed it.
    return lines[-1 if isinstance(error, ActorDiedError) else 0] if lines else type(error).__name__
