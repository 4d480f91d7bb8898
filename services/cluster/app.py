"""What `up` starts: one Ray Serve application of a controller and a front door, without Serve's own proxy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.handle import DeploymentHandle

from services.cluster.config import ClusterConfig
from services.cluster.launch import RayWorkerHost
from services.cluster.supervise import Wanted, check_room, read_wanted, write_wanted
from services.cluster.topology import FRONT_DOOR, desired, pools, wanted_path
from services.controller.app import Controller, ControllerStatus
from services.controller.events import EventBatch
from services.controller.front_doors import FrontDoors
from services.controller.replan.app import Replanning
from services.controller.replan.launch import PlanCommand
from services.core.clock import WallClock
from services.core.config import parse
from services.core.errors import StartupError
from services.core.seeds import new_incarnation
from services.core.wire import MetricsTargets, TrafficRow, WorkerInfo
from services.engine.checkpoint import prepare_model, read_shape
from services.frontdoor.app import FrontDoor
from services.frontdoor.metrics_http import current_request
from services.telemetry import metrics
from services.telemetry.decisions import open_log
from services.telemetry.exporter import Exporter, Sample
from services.telemetry.logs import configure as configure_logs
from services.telemetry.workers import pool_samples
from services.worker.host import address_here

APPLICATION = "triptych"
CONTROL_APPLICATION = "control"
"""The controller is an application of its own, so that a rolling update of front doors leaves it alone."""
CONTROLLER = "controller"

HEALTH_CHECK_PERIOD_S = 2.0
COMMON: dict[str, Any] = {
    "max_ongoing_requests": 1000,
    "health_check_period_s": HEALTH_CHECK_PERIOD_S,
}
CONTROLLER_OPTIONS: dict[str, Any] = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
"""The controller stands on Ray's head, without which there is no cluster anyway."""
FRONT_DOOR_OPTIONS: dict[str, Any] = {"num_cpus": 0, "resources": {FRONT_DOOR: 1}}
SCRAPE_S = 5.0
DRAIN_SLACK_S = 5.0
"""Serve kills a replica that takes longer to end than its drain bound plus this."""


class ControllerReplica:
    """The controller in its Serve replica.

    Args:
        config: a `ClusterConfig` as plain data.
        cluster_id: of this start of the cluster.
        model_folder: prepared model.
    """

    async def __init__(self, config: dict[str, Any], cluster_id: str, model_folder: str) -> None:  # type: ignore[misc]
        complete = parse(ClusterConfig, config)
        self._config, self._model_folder = complete, model_folder
        self._shape = read_shape(Path(model_folder))
        self._wanted_file = wanted_path(Path(complete.state_folder).expanduser(), cluster_id)
        controller_id, folder = f"controller-{new_incarnation():x}", complete.record.folder
        self._controller = Controller(
            controller_id=controller_id,
            desired=read_wanted(self._wanted_file, desired(complete)),
            config=complete.controller,
            host=RayWorkerHost(complete, cluster_id, model_folder),
            log_file=None if folder is None else open_log(Path(folder), controller_id),
        )
        await self._controller.start()
        configure_logs(complete.telemetry, CONTROLLER, CONTROLLER)
        self._loop = asyncio.get_running_loop()
        self._clock = WallClock()
        self._front_doors = FrontDoors()
        self._replanning = self._make_replanning() if complete.controller.replan.mode != "off" else None
        ports = complete.telemetry.metrics_ports
        exporter = Exporter(CONTROLLER)
        exporter.add_source(self._samples)
        self._metrics = None if ports is None else exporter.serve(address_here(complete.worker.host), ports)

    def _samples(self) -> Iterator[Sample]:
        """Every wanted worker; called by the scraper's thread."""
        asked = asyncio.run_coroutine_threadsafe(self._controller.status(), self._loop)
        rows = asked.result(timeout=SCRAPE_S).workers
        yield from pool_samples((row.worker_id, row.pool, row.state, row.failures) for row in rows)
        for outcome, count in ({} if self._replanning is None else self._replanning.outcomes).items():
            yield Sample(metrics.REPLANS, (outcome,), count)

    def _make_replanning(self) -> Replanning:
        """Watch the traffic, and plan anew when it drifts."""
        config = self._config
        ranks = {name: pool.tp for name, pool in pools(config).items()}
        replan = config.controller.replan
        command = PlanCommand(replan, replan.model or self._model_folder, ranks)

        def present() -> dict[str, int]:
            return {pool: len(worker_ids) for pool, worker_ids in self._controller.wanted().items()}

        note = self._controller.note_plan
        made = Replanning(replan, command, present, self.scale_pool, self._clock, note)
        made.start()
        return made

    async def metrics_targets(
        self, front_door: str, metrics_address: str, rows: tuple[TrafficRow, ...] = ()
    ) -> MetricsTargets:
        """A front door says where its /metrics are and what it was asked; it is told where all others are."""
        front_doors = self._front_doors.hear(self._clock.now_ns(), front_door, metrics_address)
        proposal = ""
        if self._replanning is not None:
            self._replanning.hear(front_door, rows)
            proposal = self._replanning.proposal
        return MetricsTargets("" if self._metrics is None else self._metrics.address, front_doors, proposal)

    async def list_workers(self) -> list[WorkerInfo]:
        """Live workers."""
        return await self._controller.list_workers()

    async def status(self) -> ControllerStatus:
        """Every wanted worker and its state."""
        return await self._controller.status()

    async def drain_all(self) -> ControllerStatus:
        """End every worker once its requests are finished."""
        return await self._controller.drain_all()

    async def drain_worker(self, worker_id: str) -> Wanted:
        """Take a worker out of its pool; returns all worker ids by pool, as they are wanted now."""
        return self._remember(await self._controller.drain_worker(worker_id))

    async def scale_pool(self, pool: str, replicas: int) -> Wanted | str:
        """Have that many workers in a pool; returns worker ids by pool, or why that cannot be."""
        more = replicas - len(self._controller.wanted()[pool])
        # On many hosts the room is elsewhere; a worker without any waits until a host joins that has its resource.
        if not self._config.many_hosts and (reason := check_room(self._config, self._shape, pool, more)):
            return reason
        return self._remember(await self._controller.scale_pool(pool, replicas))

    async def replace_workers(self, host: str) -> tuple[str, ...]:
        """Have the workers of a host finish and start again elsewhere; returns those that are still there."""
        return await self._controller.replace_workers(host)

    async def events(self, after: int | None, wait_s: float) -> EventBatch:
        """What happened to workers after a sequence."""
        return await self._controller.events(after, wait_s)

    def _remember(self, wanted: Wanted) -> Wanted:
        """For the controller that comes after this one, if it dies."""
        write_wanted(self._wanted_file, desired(self._config), wanted)
        return wanted

    def check_health(self) -> None:
        """Called by Serve; an exception replaces this replica."""
        self._controller.check_health()


class FrontDoorReplica:
    """The front door in its Serve replica. Serve cannot see its requests, so it drains itself.

    Args:
        config: a `ClusterConfig` as plain data.
        cluster_id: of this start of the cluster.
        model_folder: prepared model.
    """

    async def __init__(self, config: dict[str, Any], cluster_id: str, model_folder: str) -> None:  # type: ignore[misc]
        complete = parse(ClusterConfig, config)
        self._drain_s = complete.frontdoor.drain_s
        self._stopped = False
        host = address_here(complete.frontdoor.host)
        self._door = FrontDoor(
            config=complete.frontdoor.model_copy(update={"host": host}),
            router=complete.router,
            cluster_id=cluster_id,
            model=complete.model,
            model_folder=model_folder,
            controller=serve.get_deployment_handle(CONTROLLER, CONTROL_APPLICATION),
            block_size=complete.cache.block_size_tokens,
            decision_log=complete.record.folder,
            telemetry=complete.telemetry,
            semcache=complete.semcache,
            tell_traffic=complete.controller.replan.mode != "off",
            redis=complete.redis,
        )
        configure_logs(complete.telemetry, FRONT_DOOR, self._door.front_door_id, context=current_request)
        await self._door.start()

    async def ready_workers(self) -> int:
        """Workers that have reported; 0 until a request would find workers for all its stages."""
        return self._door.num_workers if self._door.ready else 0

    async def drain(self) -> None:
        """Refuse new requests, wait for open streams, close both ports. Idempotent."""
        if not self._stopped:
            self._stopped = True
            await self._door.stop(self._drain_s)

    async def check_health(self) -> None:
        """Called by Serve; an exception replaces this replica. One that drains is not to be replaced."""
        if not self._stopped:
            await self._door.check_health()

    async def __del__(self) -> None:
        """Called by Serve before it ends the replica."""
        await self.drain()


class RunningCluster:
    """Handles of a deployed cluster, for the process that deployed it."""

    def __init__(self, config: ClusterConfig, cluster_id: str, model_folder: str) -> None:
        self._config = config
        self._cluster_id = cluster_id
        self._model_folder = model_folder
        self._controller: DeploymentHandle[Any] = serve.get_deployment_handle(CONTROLLER, CONTROL_APPLICATION)
        self._front_door: DeploymentHandle[Any] = serve.get_deployment_handle(FRONT_DOOR, APPLICATION)

    def status(self, timeout_s: float = 30.0) -> ControllerStatus:
        """What the controller knows of every worker."""
        status: ControllerStatus = self._controller.status.remote().result(timeout_s=timeout_s)
        return status

    def ready_workers(self, timeout_s: float = 5.0) -> int:
        """Workers that the front door has heard of; 0 until it can serve."""
        return int(self._front_door.ready_workers.remote().result(timeout_s=timeout_s))

    def replace_front_doors(self, config: ClusterConfig) -> None:
        """Start new front doors, then let the old ones finish their streams and end; returns when the new ones serve.

        Args:
            config: of the new ones; only what concerns front doors counts, and their ports stay.

        Raises:
            StartupError: they could not start; the old ones serve on.
        """
        front_doors = front_door_application(config, self._cluster_id, self._model_folder)
        try:
            serve.run(front_doors, name=APPLICATION, route_prefix=None)
        except RuntimeError as error:
            raise StartupError(f"the new front doors did not start: {error}") from error
        self._config = config

    def drain(self) -> None:
        """Let open streams finish, then end the workers; both are bounded by their `drain_s`."""
        self._front_door.broadcast("drain").results(timeout_s=self._config.frontdoor.drain_s + DRAIN_SLACK_S)
        self._controller.drain_all.remote().result(timeout_s=self._config.controller.drain_s + DRAIN_SLACK_S)


def deploy(config: ClusterConfig, cluster_id: str, model_folder: Path) -> RunningCluster:
    """Put controller and front door on a running Ray node; returns when both answer, with workers still starting.

    Raises:
        StartupError: one of them could not start; the message has its reason.
    """
    quiet = logging.getLogger("ray.serve")
    # Workers load while Serve starts; the controller finds them by name.
    RayWorkerHost(config, cluster_id, str(model_folder)).launch_all()
    bound = controller_application(config, cluster_id, str(model_folder))
    front_doors = front_door_application(config, cluster_id, str(model_folder))
    targets = [
        serve.RunTarget(bound, name=CONTROL_APPLICATION, route_prefix=None),
        serve.RunTarget(front_doors, name=APPLICATION, route_prefix=None),
    ]
    try:
        quiet.disabled = True  # its start tells of itself, whatever the level
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING", "enable_access_log": False})
        quiet.setLevel(logging.ERROR)  # after start, which sets it
        quiet.disabled = False
        serve.run_many(targets)
    except RuntimeError as error:
        raise StartupError(f"controller or front door did not start: {error}") from error
    return RunningCluster(config, cluster_id, str(model_folder))


def controller_application(config: ClusterConfig, cluster_id: str, model_folder: str) -> Application:
    """The controller as Serve runs it."""
    controller = cast("Deployment", serve.deployment(ControllerReplica)).options(
        name=CONTROLLER,
        num_replicas=1,
        graceful_shutdown_timeout_s=config.controller.drain_s + DRAIN_SLACK_S,
        ray_actor_options=CONTROLLER_OPTIONS,
        **COMMON,
    )
    return controller.bind(config.model_dump(mode="json"), cluster_id, model_folder)


def front_door_application(config: ClusterConfig, cluster_id: str, model_folder: str) -> Application:
    """Front doors as Serve runs them; running it again replaces those that run, new ones first."""
    front_door = cast("Deployment", serve.deployment(FrontDoorReplica)).options(
        name=FRONT_DOOR,
        num_replicas=config.frontdoor.replicas,
        # Where a host has room for one front door, the old one must end before the new one can begin.
        max_surge_percent=0 if config.many_hosts else 100,
        graceful_shutdown_timeout_s=config.frontdoor.drain_s + DRAIN_SLACK_S,
        ray_actor_options=FRONT_DOOR_OPTIONS,
        **COMMON,
    )
    return front_door.bind(config.model_dump(mode="json"), cluster_id, model_folder)


# --- the same two applications for Serve's own configuration file (the Helm chart's RayService, `serve deploy`) -----


def serve_config(config: Mapping[str, Any], cluster_id: str) -> dict[str, Any]:
    """What `serve deploy` takes, as plain data.

    Args:
        config: a `ClusterConfig` as plain data, defaults left out or not.
    """
    args = {"cluster_id": cluster_id, "config": dict(config)}
    builders = {CONTROL_APPLICATION: control, APPLICATION: front_doors}
    applications = [
        {"name": name, "import_path": f"{__name__}:{builder.__name__}", "route_prefix": None, "args": args}
        for name, builder in builders.items()
    ]
    logging_config = {"log_level": "WARNING", "enable_access_log": False}
    return {"proxy_location": "Disabled", "logging_config": logging_config, "applications": applications}


def control(args: dict[str, Any]) -> Application:
    """The controller; `args` as of `front_doors`."""
    return controller_application(*_built_from(args))


def front_doors(args: dict[str, Any]) -> Application:
    """The front doors.

    Args:
        args: `config`, a `ClusterConfig` as plain data, and `cluster_id`, equal in both applications.

    Raises:
        ConfigError, ModelError: shown by Serve as the reason why the application could not be built.
    """
    return front_door_application(*_built_from(args))


def _built_from(args: dict[str, Any]) -> tuple[ClusterConfig, str, str]:
    """Configuration, cluster id and prepared model, whose folder has the same name on every host."""
    config = parse(ClusterConfig, args.get("config", {}), "config")
    folder = prepare_model(config.model.path, Path(config.state_folder).expanduser() / "models")
    return config, str(args.get("cluster_id") or config.cluster.name), str(folder)
