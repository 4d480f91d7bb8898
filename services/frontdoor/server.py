"""The two servers of a front door, gRPC and HTTP, on ports that replicas of one cluster share."""

from __future__ import annotations

import asyncio

from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.grpc_server import GrpcServer
from services.frontdoor.http_connection import HttpServer, reusable_socket
from services.frontdoor.joining import PROBE_S, check_ports


class Servers:
    """Both servers, started and stopped together.

    Attributes:
        http_port: bound HTTP port, 0 before `start`.
    """

    def __init__(self, config: FrontDoorConfig, grpc_server: GrpcServer, http: HttpServer, cluster_id: str) -> None:
        self.http_port = 0
        self._config = config
        self._cluster_id = cluster_id
        self._grpc = grpc_server
        self._http = http
        self._http_task: asyncio.Task[None] | None = None

    @property
    def grpc_port(self) -> int:
        """Bound gRPC port; 0 before `start`."""
        return self._grpc.port

    async def start(self) -> None:
        """Bind both ports and serve.

        Raises:
            PortBusyError: a port is held by something that is not this cluster.
        """
        config = self._config
        tls = config.tls is not None
        await check_ports(config.host, config.grpc_port, config.http_port, self._cluster_id, tls)
        listener = reusable_socket(config.host, config.http_port)
        self.http_port = listener.getsockname()[1]
        await self._grpc.start()
        listener.listen()  # now, so that whoever waits for this method can connect
        self._http_task = asyncio.create_task(self._http.serve(sockets=[listener]))

    async def show_readiness(self) -> None:
        """Bring gRPC health up to date."""
        await self._grpc.show_readiness()

    async def show_draining(self) -> None:
        """NOT_SERVING for good; new HTTP connections go to the other front doors."""
        await self._grpc.show_draining()
        self._http.stop_accepting()

    async def check(self) -> None:
        """Connect to both sockets.

        Raises:
            OSError or TimeoutError: one of them is not served.
        """
        if self._http_task is None or self._http_task.done():
            raise OSError("the HTTP server ended")
        for port in (self.grpc_port, self.http_port):
            async with asyncio.timeout(PROBE_S):
                _, writer = await asyncio.open_connection(self._config.host, port)
            writer.close()
            await writer.wait_closed()

    async def stop(self) -> None:
        """Close both servers; calls that do not end at once are cancelled."""
        self._http.should_exit = True
        await self._grpc.stop()
        if self._http_task is not None:
            await self._http_task
