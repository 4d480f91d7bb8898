"""The two servers of a front door, gRPC and HTTP, on ports that replicas of one cluster share."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.core.errors import PortBusyError
from services.frontdoor.cluster_servicer import ClusterServicer
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.health_http import make_app, make_server, reusable_socket
from services.frontdoor.holder import port_holder
from services.frontdoor.interceptor import ErrorInterceptor
from services.frontdoor.servicer import InferenceServicer
from services.pb import cluster_pb2, cluster_pb2_grpc, inference_pb2, inference_pb2_grpc

PROBE_S = 2.0
SERVICES = tuple(
    service.full_name
    for module in (inference_pb2, cluster_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)


class Servers:
    """gRPC (Inference, Cluster, health, reflection) and HTTP health, started and stopped together.

    Attributes:
        grpc_port: bound gRPC port, 0 before `start`.
        http_port: bound HTTP port, 0 before `start`.
    """

    def __init__(
        self,
        config: FrontDoorConfig,
        inference: InferenceServicer,
        cluster: ClusterServicer,
        cluster_id: str,
        version: str,
    ) -> None:
        self.grpc_port = 0
        self.http_port = 0
        self._config = config
        self._inference = inference
        self._cluster = cluster
        self._cluster_id = cluster_id
        self._http = make_server(make_app(cluster.ready, cluster_id, version))
        self._http_task: asyncio.Task[None] | None = None
        self._grpc: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._is_serving: bool | None = None

    async def start(self) -> None:
        """Bind both ports and serve.

        Raises:
            PortBusyError: a port is held by something that is not this cluster.
        """
        config = self._config
        await self._check_port("grpc_port", config.grpc_port, cluster_of_grpc)
        await self._check_port("http_port", config.http_port, cluster_of_http)
        server = self._grpc = grpc.aio.server(
            interceptors=[ErrorInterceptor()],
            maximum_concurrent_rpcs=config.max_running_requests + 64,  # so that status is seen when all are taken
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
            ],
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self._inference, server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(self._cluster, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection:
            names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        self.grpc_port = server.add_insecure_port(address(config.host, config.grpc_port))
        listener = reusable_socket(config.host, config.http_port)
        self.http_port = listener.getsockname()[1]
        await self.show_readiness()
        await server.start()
        self._http_task = asyncio.create_task(self._http.serve(sockets=[listener]))

    async def show_readiness(self) -> None:
        """Bring the gRPC health of "" and of each service up to date."""
        is_serving = self._cluster.ready()
        if is_serving == self._is_serving:
            return
        self._is_serving = is_serving
        statuses = health_pb2.HealthCheckResponse
        for name in ("", *SERVICES):
            await self._health.set(name, statuses.SERVING if is_serving else statuses.NOT_SERVING)

    async def check(self) -> None:
        """Connect to both sockets.

        Raises:
            OSError or TimeoutError: one of them is not served.
        """
        if self._http_task is None or self._http_task.done():
            raise OSError("the HTTP server ended")
        for port in (self.grpc_port, self.http_port):
            connection = asyncio.open_connection(self._config.host, port)
            _, writer = await asyncio.wait_for(connection, PROBE_S)
            writer.close()
            await writer.wait_closed()

    async def show_draining(self) -> None:
        """NOT_SERVING for good."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Close both servers; calls that do not end at once are cancelled."""
        self._http.should_exit = True
        if self._grpc is not None:
            await self._grpc.stop(grace=1.0)
        if self._http_task is not None:
            await self._http_task

    async def _check_port(self, key: str, port: int, cluster_of: Callable[[str, int], Awaitable[str]]) -> None:
        """A port that somebody listens on is joined only when it is this cluster's own."""
        if port == 0 or is_free(self._config.host, port):
            return
        try:
            found = await asyncio.wait_for(cluster_of(self._config.host, port), PROBE_S)
        except Exception:  # whatever answers there does not speak our protocol
            found = ""
        if found != self._cluster_id:
            message = f"frontdoor.{key} = {port}: held by {port_holder(port)}; stop it or choose another port"
            raise PortBusyError(message)


def address(host: str, port: int) -> str:
    """host:port, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens on a port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not count
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


async def cluster_of_grpc(host: str, port: int) -> str:
    """Cluster id of the front door that serves a gRPC port."""
    async with grpc.aio.insecure_channel(address(host, port)) as channel:
        stub = cluster_pb2_grpc.ClusterServiceStub(channel)
        answer = await stub.GetStatus(cluster_pb2.GetStatusRequest(), timeout=PROBE_S)
        return str(answer.cluster_id)


async def cluster_of_http(host: str, port: int) -> str:
    """Cluster id of the front door that serves an HTTP port."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /version HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["cluster_id"])
