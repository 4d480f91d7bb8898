"""The gRPC service that operators look at the cluster with."""

from __future__ import annotations

from services.core.clock import NS_PER_MS, Clock
from services.frontdoor.interceptor import Context
from services.frontdoor.performer import Performer
from services.pb import cluster_pb2 as pb
from services.pb import cluster_pb2_grpc
from services.router.view import WorkerView

NEEDED_ROLES = ("prefill", "decode")


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    """ClusterService from one front door's view; asks no worker.

    Args:
        model: name of the served model.
    """

    def __init__(self, performer: Performer, clock: Clock, cluster_id: str, version: str, model: str) -> None:
        self._performer = performer
        self._clock = clock
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

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        """The last reports."""
        workers = self._performer.flow.view.workers
        return pb.GetStatusResponse(
            **self._about,
            ready=self.ready(),
            running_requests=self._performer.num_running,
            counters=self._performer.flow.placements | self._performer.flow.moves,
            workers=[self._worker(workers[worker_id]) for worker_id in sorted(workers)],
        )

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
            report_age_ms=age_ns // NS_PER_MS,
            dispatches=self._performer.dispatches(report.source),
        )
