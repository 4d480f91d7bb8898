"""The gRPC service that operators look at the cluster with, and change its workers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from services.controller.app import ControllerStatus
from services.controller.events import ClusterEvent, EventBatch, EventKind
from services.core.clock import NS_PER_MS, Clock
from services.core.errors import (
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
    UnsupportedError,
)
from services.core.wire import MetricsTargets
from services.frontdoor.cache_calls import CacheCalls
from services.frontdoor.call import REQUEST_ID_KEY, current_call
from services.frontdoor.client_stream import RETRY
from services.frontdoor.interceptor import Context
from services.frontdoor.link_probes import DEFAULT_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES, LinkProbes
from services.frontdoor.performer import Performer
from services.frontdoor.response_cache import ResponseCache
from services.frontdoor.view_calls import ViewCalls
from services.pb import cluster_pb2 as pb
from services.pb import cluster_pb2_grpc
from services.router.view import WorkerView
from services.telemetry.recent import RecentRequests, Spread

logger = logging.getLogger(__name__)

NEEDED_ROLES = ("prefill", "decode")
MAX_REPLICAS = 64
TTFT_MS, ITL_MS = 1000.0, 100.0
"""Bounds that the last minute is judged against where the caller names none."""
MAX_WATCHERS = 32
POLL_S = 1.0
"""How long the controller may hold one question for events."""
EVENT_KINDS = {
    EventKind.STARTING: pb.EVENT_KIND_STARTING,
    EventKind.UP: pb.EVENT_KIND_UP,
    EventKind.DRAINING: pb.EVENT_KIND_DRAINING,
    EventKind.STOPPING: pb.EVENT_KIND_STOPPING,
    EventKind.DOWN: pb.EVENT_KIND_DOWN,
    EventKind.SCALED: pb.EVENT_KIND_SCALED,
    EventKind.PLANNED: pb.EVENT_KIND_PLANNED,
}

Wanted = dict[str, tuple[str, ...]]
"""Worker ids by pool."""


class ControllerCalls(Protocol):
    """The controller as operators' calls need it; every call raises when it cannot be reached."""

    async def status(self) -> ControllerStatus:
        """Every wanted worker and its state."""

    async def drain_worker(self, worker_id: str) -> Wanted:
        """Take a worker out of its pool."""

    async def scale_pool(self, pool: str, replicas: int) -> Wanted | str:
        """Have that many workers in a pool; text says why that cannot be."""

    async def events(self, after: int | None, wait_s: float) -> EventBatch:
        """What happened after a sequence; waits for something to happen."""


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    """ClusterService from one front door's view, and through its controller.

    Args:
        model: name of the served model.
        probes: measures links; None where workers cannot be reached.
        recent: the last minute's requests, where they are kept.
        view: what is told of placement.
        cache: what is told of the response cache.

    Attributes:
        metrics_targets: where the metrics of controller and front doors are, as far as is known.
    """

    def __init__(
        self,
        performer: Performer,
        controller: ControllerCalls,
        clock: Clock,
        cluster_id: str,
        version: str,
        model: str,
        view: ViewCalls,
        cache: CacheCalls,
        probes: LinkProbes | None = None,
        recent: RecentRequests | None = None,
    ) -> None:
        self.metrics_targets = MetricsTargets()
        self._view = view
        self._cache = cache
        self._performer = performer
        self._controller = controller
        self._probes = probes
        self._recent = recent
        self._clock = clock
        self._watchers = 0
        self._about = {
            "cluster_id": cluster_id,
            "version": version,
            "model": model,
            "front_door": performer.front_door,
        }

    def ready(self) -> bool:
        """Whether a request sent now would find workers for all its stages."""
        workers = self._performer.flow.view.workers.values()
        hosted = {role for worker in workers if not worker.report.draining for role in worker.report.roles}
        return not self._performer.draining and hosted.issuperset(NEEDED_ROLES)

    async def ProbeLinks(self, request: pb.ProbeLinksRequest, context: Context) -> AsyncIterator[pb.ProbeLinksResponse]:
        """Every pair, as it is measured."""
        if request.payload_bytes > MAX_PAYLOAD_BYTES:
            raise InvalidRequestError("payload_bytes", f"{request.payload_bytes} is above {MAX_PAYLOAD_BYTES}")
        if self._probes is None:
            raise UnsupportedError("this front door reaches no workers")
        async for sender, receiver, probe in self._probes.run(request.payload_bytes or DEFAULT_PAYLOAD_BYTES):
            yield pb.ProbeLinksResponse(
                sender=sender,
                receiver=receiver,
                error=probe.error,
                open_ms=probe.open_ms,
                latency_us=probe.latency_us,
                bytes_per_s=probe.bytes_per_s,
            )

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        """The last reports."""
        workers = self._performer.flow.view.workers
        return pb.GetStatusResponse(
            **self._about,
            ready=self.ready(),
            running_requests=self._performer.num_running,
            counters=self._performer.flow.placements | self._performer.flow.moves,
            metrics_address=self.metrics_targets.controller,
            proposal=self.metrics_targets.proposal,
            front_doors=[
                pb.FrontDoorStatus(id=front_door, metrics_address=address)
                for front_door, address in self.metrics_targets.front_doors.items()
            ],
            workers=[self._worker(workers[worker_id]) for worker_id in sorted(workers)],
            last_minute=self._last_minute(request.ttft_slo_ms or TTFT_MS, request.itl_slo_ms or ITL_MS),
            response_cache=cache_status(self._performer.lookups.cache),
        )

    def _last_minute(self, ttft_ms: float, itl_ms: float) -> pb.LastMinute:
        if self._recent is None:
            return pb.LastMinute()
        minute = self._recent.minute(self._clock.now_ns(), ttft_ms, itl_ms)
        return pb.LastMinute(
            requests=minute.requests,
            failed=minute.failed,
            prompt_tokens=minute.prompt_tokens,
            cached_tokens=minute.cached_tokens,
            output_tokens=minute.output_tokens,
            ttft=spread_message(minute.ttft, ttft_ms),
            itl=spread_message(minute.itl, itl_ms),
        )

    async def DrainWorker(self, request: pb.DrainWorkerRequest, context: Context) -> pb.DrainWorkerResponse:
        """Take a worker out of its pool for good."""
        with reached():
            status = await self._controller.status()
        refuse_while_ending(status)
        found = next((each for each in status.workers if each.worker_id == request.worker_id), None)
        if found is None:
            known = ", ".join(each.worker_id for each in status.workers)
            message = f"worker_id: there is no worker {request.worker_id[:80]!r}; there are {known}"
            raise NotFoundError(message, kind="worker", name=request.worker_id)
        with reached():
            wanted = await self._controller.drain_worker(request.worker_id)
        logger.info("worker %s drains, asked for by key %s", request.worker_id, current_call.get().identity.key_id)
        return pb.DrainWorkerResponse(replicas=len(wanted[found.pool]))

    async def ScalePool(self, request: pb.ScalePoolRequest, context: Context) -> pb.ScalePoolResponse:
        """Set how many workers a pool has."""
        if request.pool not in NEEDED_ROLES:
            message = f"pool: there is no pool {request.pool[:80]!r}; there are {', '.join(NEEDED_ROLES)}"
            raise NotFoundError(message, kind="pool", name=request.pool)
        if request.replicas > MAX_REPLICAS:
            raise InvalidRequestError("replicas", f"{request.replicas} is above {MAX_REPLICAS}")
        with reached():
            status = await self._controller.status()
        refuse_while_ending(status)
        with reached():
            wanted = await self._controller.scale_pool(request.pool, request.replicas)
        if isinstance(wanted, str):
            raise FailedPreconditionError(f"replicas: {wanted}", reason="NO_ROOM")
        key_id = current_call.get().identity.key_id
        logger.info("pool %s scales to %d, asked for by key %s", request.pool, request.replicas, key_id)
        return pb.ScalePoolResponse(worker_ids=wanted[request.pool])

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """Events as the controller tells them, until this front door drains."""
        if self._watchers >= MAX_WATCHERS:
            message = f"{MAX_WATCHERS} calls watch events here already; end one of them"
            raise OverloadedError(message, reason="TOO_MANY_WATCHERS", metadata=RETRY.copy())
        self._watchers += 1
        try:
            after: int | None = request.after_sequence if request.HasField("after_sequence") else None
            with reached():
                batch = await self._controller.events(after, 0.0)
            await context.send_initial_metadata(((REQUEST_ID_KEY, current_call.get().request_id),))
            while not self._performer.draining:
                if batch.gap:
                    yield pb.WatchEventsResponse(sequence=after, kind=pb.EVENT_KIND_GAP, unix_ms=self._clock.unix_ms())
                for event in batch.events:
                    yield event_message(event)
                after = batch.last
                with reached():
                    batch = await self._controller.events(after, POLL_S)
            raise UnavailableError("this front door is stopping; watch again", reason="DRAINING", metadata=RETRY.copy())
        finally:
            self._watchers -= 1

    async def DumpView(self, request: pb.DumpViewRequest, context: Context) -> pb.DumpViewResponse:
        """All that placement rests on."""
        return self._view.dump(list(self.metrics_targets.front_doors))

    async def ExplainPlacement(
        self, request: pb.ExplainPlacementRequest, context: Context
    ) -> pb.ExplainPlacementResponse:
        """Where a request would go."""
        return await self._view.explain(request)

    async def GetCacheStats(self, request: pb.GetCacheStatsRequest, context: Context) -> pb.GetCacheStatsResponse:
        """What the response cache holds and did."""
        return self._cache.stats(list(self.metrics_targets.front_doors))

    async def ExplainCache(self, request: pb.ExplainCacheRequest, context: Context) -> pb.ExplainCacheResponse:
        """What it would do with a request."""
        return await self._cache.explain(request)

    async def InvalidateCache(self, request: pb.InvalidateCacheRequest, context: Context) -> pb.InvalidateCacheResponse:
        """End answers of it."""
        return self._cache.invalidate(request, list(self.metrics_targets.front_doors))

    async def DeleteCacheEntry(
        self, request: pb.DeleteCacheEntryRequest, context: Context
    ) -> pb.DeleteCacheEntryResponse:
        """End one."""
        return self._cache.delete(request, list(self.metrics_targets.front_doors))

    def _worker(self, worker: WorkerView) -> pb.WorkerStatus:
        report = worker.report
        age_ns = max(self._clock.now_ns() - worker.reported_ns, 0)
        return pb.WorkerStatus(
            id=report.source.worker_id,
            role="+".join(report.roles),
            pool=report.pool,
            pid=report.pid,
            incarnation=report.source.incarnation,
            draining=report.draining,
            kv_blocks_total=report.kv_blocks_total,
            kv_blocks_used=report.kv_blocks_used,
            kv_blocks_cached=report.kv_blocks_cached,
            queued_prefill_tokens=report.queued_prefill_tokens,
            running_decodes=report.running_decodes,
            leases=report.leases,
            transfers=report.transfers,
            tasks=report.tasks,
            waiting_offers=report.waiting_offers,
            back_pressure=report.back_pressure,
            counters=dict(report.counters),
            links=report.links,
            threads=report.threads,
            sockets=report.sockets,
            metrics_address=report.metrics_address,
            report_age_ms=age_ns // NS_PER_MS,
            dispatches=self._performer.dispatches(report.source),
        )


def spread_message(spread: Spread, bound_ms: float) -> pb.LatencySpread:
    """One spread for the wire."""
    p50, p90, p99 = spread.quantiles_ms or (0.0, 0.0, 0.0)
    return pb.LatencySpread(p50_ms=p50, p90_ms=p90, p99_ms=p99, kept=spread.kept, bound_ms=bound_ms)


def cache_status(cache: ResponseCache | None) -> pb.ResponseCacheStatus:
    """The response cache for the wire."""
    if cache is None:
        return pb.ResponseCacheStatus()
    looked, hits = 0, 0
    for (tier, outcome, *_), count in cache.cache.counts.items():
        hits += count if outcome == "hit" else 0
        looked += count if tier == "exact" and outcome in ("hit", "miss") else 0  # every look begins there
    return pb.ResponseCacheStatus(enabled=True, lookups=looked, hits=hits, entries=len(cache.cache.index))


def event_message(event: ClusterEvent) -> pb.WatchEventsResponse:
    """One event for the wire."""
    return pb.WatchEventsResponse(
        sequence=event.sequence,
        unix_ms=event.unix_ms,
        kind=EVENT_KINDS[event.kind],
        pool=event.pool,
        worker_id=event.worker_id,
        incarnation=event.incarnation,
        reason=event.reason,
        replicas=event.replicas,
    )


def refuse_while_ending(status: ControllerStatus) -> None:
    """Raises:
    FailedPreconditionError: the whole cluster drains.
    """
    if status.draining:
        raise FailedPreconditionError("the whole cluster is draining; nothing is scaled any more", reason="DRAINING")


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Calls of the controller in this block.

    Raises:
        UnavailableError: it could not be reached; it may be restarting.
    """
    try:
        yield
    except Exception as error:
        logger.warning("the controller does not answer: %s", error)
        message = "the controller does not answer; it may be restarting, ask again"
        raise UnavailableError(message, reason="CONTROLLER_UNREACHABLE", metadata=RETRY.copy()) from error
