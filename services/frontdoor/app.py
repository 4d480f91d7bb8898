"""One front door replica, put together: what the composition root wraps in a Ray Serve deployment."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import threading
from pathlib import Path
from typing import Any

from services.controller.app import ControllerStatus
from services.controller.events import EventBatch
from services.controller.front_doors import HEARD_EVERY_S
from services.core.clock import NS_PER_S, WallClock
from services.core.config import ModelConfig
from services.core.decision_log import DecisionLog
from services.core.heap import freeze_heap
from services.core.seeds import new_incarnation
from services.core.wire import MetricsTargets, TrafficRow, WorkerInfo
from services.engine.checkpoint import model_digest, read_shape
from services.frontdoor.auth import Authenticator
from services.frontdoor.cache_calls import CacheCalls
from services.frontdoor.categories import Categories
from services.frontdoor.cluster_servicer import ClusterServicer, Wanted
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.convert import Converter, ServedModel
from services.frontdoor.grpc_server import GrpcServer
from services.frontdoor.http_app import make_app
from services.frontdoor.http_connection import make_server
from services.frontdoor.http_door import HttpDoor
from services.frontdoor.layers import log_end, standard_layers
from services.frontdoor.limits import TenantLimiter
from services.frontdoor.link_probes import LinkProbes
from services.frontdoor.metrics_http import count_calls, count_limited, front_door_samples
from services.frontdoor.openai_http import OpenAiApi
from services.frontdoor.performer import Performer
from services.frontdoor.response_cache import make_response_cache
from services.frontdoor.server import Servers
from services.frontdoor.servicer import InferenceServicer
from services.frontdoor.structured import GrammarChecker
from services.frontdoor.subscriptions import Subscriptions
from services.frontdoor.tls import ServerTls
from services.frontdoor.tokenizer import Tokenizer
from services.frontdoor.traces import TraceServicer, make_traces
from services.frontdoor.view_calls import ViewCalls
from services.kvcache.block import root_hash
from services.router.config import RouterConfig
from services.router.recorded import flow_from_header, flow_header
from services.semcache.config import RedisConfig, SemcacheConfig
from services.telemetry.config import TelemetryConfig
from services.telemetry.decisions import open_log
from services.telemetry.exporter import Exporter, Sample
from services.telemetry.loop_lag import watch_loop
from services.telemetry.requests import RequestMetrics, TrafficNotes

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 0.25
SCRAPE_S = 5.0


class FrontDoor:
    """The gRPC and HTTP edge of a cluster, with the request flow and the subscriptions in the same process.

    Make it and call every method on one event loop. It installs no signal handler and needs Ray connected.

    Args:
        config: ports and limits.
        router: placement.
        cluster_id: of this cluster; a port held by another cluster's front door is refused.
        model: which model is served, under which name.
        model_folder: its Hugging Face-layout folder.
        controller: Ray handle of the controller, whose `list_workers` names the live workers.
        block_size: tokens in one KV block, as the workers have it.
        decision_log: folder for the request flow's decision log; None: off.
        telemetry: ports of /metrics that no other front door shares, and traces; None: no such port, no export.
        semcache: the response cache; None: off.
        redis: where answers are shared with other front doors; None: nowhere.

    Raises:
        ModelError: a file of the model folder is missing or not understood.
    """

    def __init__(
        self,
        config: FrontDoorConfig,
        router: RouterConfig,
        cluster_id: str,
        model: ModelConfig,
        model_folder: str,
        controller: Any,
        block_size: int,
        decision_log: str | None = None,
        telemetry: TelemetryConfig | None = None,
        semcache: SemcacheConfig | None = None,
        tell_traffic: bool = False,
        redis: RedisConfig | None = None,
    ) -> None:
        clock = self._clock = WallClock()
        served = load_model(model, Path(model_folder), block_size)
        self.front_door_id = f"frontdoor-{(incarnation := new_incarnation()):x}"
        handle = self._controller = ControllerHandle(controller)
        about_us = (cluster_id, self.front_door_id, incarnation)
        self._subscriptions = Subscriptions(*about_us, handle, config.worker_lost_s, clock)
        built = flow_header(self.front_door_id, router, block_size)
        flow = flow_from_header(built)
        self._log_file = None if decision_log is None else open_log(Path(decision_log), self.front_door_id)
        log = None if self._log_file is None else DecisionLog(self._log_file.write, flow, "flow", built)
        exporter = Exporter("frontdoor")
        cache = make_response_cache(semcache, served, redis, clock, exporter)
        self._exporter, self._cache, self._traffic = exporter, cache, TrafficNotes(clock) if tell_traffic else None
        observer, most = RequestMetrics(exporter, served.name, self._traffic), config.max_running_requests
        self._performer = Performer(flow, self._subscriptions, clock, self.front_door_id, most, log, observer, cache)
        exporter.add_source(self._samples)
        exporter.add_source(served.grammars.samples)
        ports = None if telemetry is None else telemetry.metrics_ports
        self._metrics_at = None if ports is None else (config.host, ports)
        converter = Converter(served, config, self.front_door_id)
        self._reload_every_s = config.reload_every_s
        self._authenticator, limiter = Authenticator(config.auth), TenantLimiter(clock, count_limited(exporter))
        self._tls = None if config.tls is None else ServerTls(config.tls)
        probes = LinkProbes(self._subscriptions, lambda: self._performer.flow.view.workers)
        version = importlib.metadata.version("triptych")
        view = ViewCalls(self._performer, converter, self._authenticator, clock)
        about_cache = (self._authenticator, clock, served.name, self.front_door_id)
        about = (clock, cluster_id, version, served.name, view, CacheCalls(cache, converter, *about_cache))
        cluster = self._cluster = ClusterServicer(self._performer, handle, *about, probes, observer.recent)
        about_what = Categories(semcache)
        traces = self._traces = make_traces(telemetry, self.front_door_id, cluster_id, served.name, clock)
        inference = InferenceServicer(self._performer, converter, served, clock, cache, about_what)
        kept = (cluster_id, self._authenticator, limiter, clock, self._tls)
        told = (count_calls(exporter, "grpc"), traces)
        grpc_server = GrpcServer(config, inference, cluster, TraceServicer(traces, cluster), *kept, told)
        api = OpenAiApi(self._performer, converter, served, clock, config.http, cache, about_what)
        door = HttpDoor(
            make_app(cluster.ready, cluster_id, version, exporter, api),
            standard_layers(self._authenticator, limiter, clock, (log_end, count_calls(exporter, "http"), traces)),
            clock,
            config,
        )
        http = make_server(door, config.http, None if self._tls is None else self._tls.ssl_context())
        self._servers = Servers(config, grpc_server, http, cluster_id)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def grpc_port(self) -> int:
        """Bound gRPC port; 0 before `start`."""
        return self._servers.grpc_port

    @property
    def http_port(self) -> int:
        """Bound HTTP port; 0 before `start`."""
        return self._servers.http_port

    @property
    def ready(self) -> bool:
        """Whether a request sent now would find workers for all its stages."""
        return self._cluster.ready()

    @property
    def num_workers(self) -> int:
        """Workers that have reported."""
        return len(self._performer.flow.view.workers)

    @property
    def num_running(self) -> int:
        """Requests in flight, for autoscaling."""
        return self._performer.num_running

    async def start(self) -> None:
        """Bind both ports and subscribe to workers; returns before any worker is there (see /readyz).

        Raises:
            PortBusyError: a port is held by something that is not this cluster.
        """
        if self._cache is not None:
            self._cache.start()
        await self._servers.start()
        self._loop, self._thread = asyncio.get_running_loop(), threading.current_thread()
        self._metrics = None if self._metrics_at is None else self._exporter.serve(*self._metrics_at)
        freeze_heap()
        self._tasks = [
            asyncio.create_task(self._subscriptions.run(self._performer)),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._reload()),
            asyncio.create_task(self._watch_controller()),
            asyncio.create_task(watch_loop(self._exporter, self._clock)),
        ]

    async def check_health(self) -> None:
        """Raise when this replica does not serve any more, so that it is replaced."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError(f"a task of the front door ended: {task.exception()}")
        await self._servers.check()

    async def stop(self, drain_s: float) -> None:
        """Refuse new requests, let streams finish for at most `drain_s`, then close everything."""
        self._performer.draining = True
        await self._servers.show_draining()
        give_up_ns = self._clock.now_ns() + int(drain_s * NS_PER_S)
        while self._performer.num_running and self._clock.now_ns() < give_up_ns:
            await asyncio.sleep(0.05)
        await self._performer.close()
        await self._servers.stop()
        if self._cache is not None:
            await self._cache.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        await asyncio.to_thread(self._traces.close)
        if self._log_file is not None:
            self._log_file.close()

    async def _watch(self) -> None:
        """Keep the shown health true."""
        while not self._performer.draining:
            await self._servers.show_readiness()
            await asyncio.sleep(WATCH_EVERY_S)
        await asyncio.Event().wait()

    async def _reload(self) -> None:
        """Take over keys and certificates that were changed; files are read beside the loop."""
        while True:
            await asyncio.sleep(self._reload_every_s)
            await asyncio.to_thread(self._authenticator.reload)
            if self._tls is not None:
                await asyncio.to_thread(self._tls.reload)

    async def _watch_controller(self) -> None:
        """Keep known where everybody's metrics are; a controller that is gone has its own elsewhere later."""
        mine = "" if self._metrics is None else self._metrics.address
        while True:
            with contextlib.suppress(Exception):  # one that does not answer is told by whoever needs it
                rows = () if self._traffic is None else self._traffic.take()
                self._cluster.metrics_targets = await self._controller.metrics_targets(self.front_door_id, mine, rows)
            await asyncio.sleep(HEARD_EVERY_S)

    def _samples(self) -> list[Sample]:
        """What this front door sees, for a scraper on the event loop or in a thread of its own."""

        async def look() -> list[Sample]:
            return list(front_door_samples(self._performer, self._clock))

        if threading.current_thread() is self._thread:
            return list(front_door_samples(self._performer, self._clock))
        return asyncio.run_coroutine_threadsafe(look(), self._loop).result(timeout=SCRAPE_S)


class ControllerHandle:
    """The controller through any Ray handle to it (Serve deployment or actor): who works, and operators' wishes."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def list_workers(self) -> list[WorkerInfo]:
        """All workers that are ready."""
        found: list[WorkerInfo] = await self._handle.list_workers.remote()
        return found

    async def metrics_targets(
        self, front_door: str, metrics_address: str, rows: tuple[TrafficRow, ...]
    ) -> MetricsTargets:
        """Say where this front door's /metrics are and what was asked; where the controller's and all others' are."""
        targets: MetricsTargets = await self._handle.metrics_targets.remote(front_door, metrics_address, rows)
        return targets

    async def status(self) -> ControllerStatus:
        """Every wanted worker and its state."""
        status: ControllerStatus = await self._handle.status.remote()
        return status

    async def drain_worker(self, worker_id: str) -> Wanted:
        """Take a worker out of its pool."""
        wanted: Wanted = await self._handle.drain_worker.remote(worker_id)
        return wanted

    async def scale_pool(self, pool: str, replicas: int) -> Wanted | str:
        """Have that many workers in a pool; text says why that cannot be."""
        wanted: Wanted | str = await self._handle.scale_pool.remote(pool, replicas)
        return wanted

    async def events(self, after: int | None, wait_s: float) -> EventBatch:
        """What happened to workers after a sequence."""
        batch: EventBatch = await self._handle.events.remote(after, wait_s)
        return batch


def load_model(config: ModelConfig, folder: Path, block_size: int) -> ServedModel:
    """What the front door needs of a model folder; loads no weights.

    Raises:
        ModelError: a file is missing or not understood.
    """
    shape = read_shape(folder)
    tokenizer = Tokenizer(folder)
    named = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    digest, eos_token_ids = model_digest(folder), shape.eos_token_ids or named

    def root_of(salt: bytes) -> bytes:
        rope = str(shape.rope)
        return root_hash(model_digest=digest, dtype=config.dtype, rope=rope, block_size=block_size, salt=salt)

    return ServedModel(
        name=config.served_name,
        dtype=config.dtype,
        max_len_tokens=min(shape.max_position, config.max_model_len_tokens or shape.max_position),
        vocab_size=shape.vocab,
        eos_token_ids=eos_token_ids,
        tokenizer=tokenizer,
        root_of=root_of,
        block_size=block_size,
        grammars=GrammarChecker(folder, shape.vocab, eos_token_ids),
    )
