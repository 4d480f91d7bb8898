"""The gRPC server: its services, the layers around them, its limits, and its health."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.core.clock import Clock
from services.frontdoor.auth import Authenticator
from services.frontdoor.cluster_servicer import ClusterServicer
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.interceptor import CallInterceptor
from services.frontdoor.joining import address, cluster_service
from services.frontdoor.layers import Observer, log_end, standard_layers
from services.frontdoor.limits import TenantLimiter
from services.frontdoor.servicer import InferenceServicer
from services.frontdoor.tls import ServerTls
from services.frontdoor.traces import TraceServicer
from services.pb import cluster_pb2, cluster_pb2_grpc, inference_pb2, inference_pb2_grpc, trace_pb2, trace_pb2_grpc

MS_PER_S = 1000
SPARE_CALLS = 256
"""Calls beyond the door's own limit, so that it is the door that refuses, with a reason, and status is always seen."""
SERVICES = tuple(
    service.full_name
    for module in (inference_pb2, cluster_pb2, trace_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)


class GrpcServer:
    """Inference, Cluster, Trace, health and reflection on one port.

    Args:
        authenticator: who calls; shared with the HTTP door.
        limiter: of tenants; shared with the HTTP door.
        tls: certificate, or None for plain text.
        observers: are told the end of every call.

    Attributes:
        port: bound port, 0 before `start`.
    """

    def __init__(
        self,
        config: FrontDoorConfig,
        inference: InferenceServicer,
        cluster: ClusterServicer,
        traces: TraceServicer,
        cluster_id: str,
        authenticator: Authenticator,
        limiter: TenantLimiter,
        clock: Clock,
        tls: ServerTls | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.port = 0
        self._config = config
        self._inference = inference
        self._cluster = cluster
        self._traces = traces
        self._cluster_id = cluster_id
        self._tls = tls
        self._health = health.aio.HealthServicer()
        self._is_serving: bool | None = None
        self._server: grpc.aio.Server | None = None
        layers = standard_layers(authenticator, limiter, clock, (log_end, *observers))
        self._interceptor = CallInterceptor(layers, clock, config.default_deadline_s, config.max_deadline_s)

    async def start(self) -> None:
        """Bind the port and serve."""
        config = self._config
        server = self._server = grpc.aio.server(
            interceptors=[self._interceptor],
            maximum_concurrent_rpcs=config.max_running_requests + SPARE_CALLS,
            options=options(config),
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self._inference, server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(self._cluster, server)
        trace_pb2_grpc.add_TraceServiceServicer_to_server(self._traces, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection:
            names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        where = address(config.host, config.grpc_port)
        if self._tls is None:
            self.port = server.add_insecure_port(where)
        else:
            self.port = server.add_secure_port(where, self._tls.grpc_credentials())
        await self._health.set(cluster_service(self._cluster_id), health_pb2.HealthCheckResponse.SERVING)
        await self.show_readiness()
        await server.start()

    async def show_readiness(self) -> None:
        """Bring the health of "" and of each service up to date."""
        is_serving = self._cluster.ready()
        if is_serving == self._is_serving:
            return
        self._is_serving = is_serving
        statuses = health_pb2.HealthCheckResponse
        for name in ("", *SERVICES):
            await self._health.set(name, statuses.SERVING if is_serving else statuses.NOT_SERVING)

    async def show_draining(self) -> None:
        """NOT_SERVING for good; whoever watches health learns it at once."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Close the server; calls that do not end at once are cancelled."""
        if self._server is not None:
            await self._server.stop(grace=1.0)


def options(config: FrontDoorConfig) -> list[tuple[str, int]]:
    """Channel arguments of gRPC's core."""
    limits = config.grpc
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        # Above the first limit the core refuses at random, up to the second, beyond which it always does; so both.
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
        ("grpc.max_concurrent_streams", limits.max_streams_per_connection),
        ("grpc.keepalive_time_ms", milliseconds(limits.keepalive_s)),
        ("grpc.keepalive_timeout_ms", milliseconds(limits.keepalive_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", milliseconds(limits.min_client_ping_s)),
        ("grpc.max_connection_age_ms", milliseconds(limits.max_connection_age_s)),
        ("grpc.max_connection_age_grace_ms", milliseconds(limits.max_connection_age_grace_s)),
    ]


def milliseconds(seconds: float) -> int:
    """At least one."""
    return max(1, int(seconds * MS_PER_S))
