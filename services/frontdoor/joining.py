"""Whether a port is free, or served by a front door of the same cluster, whose port another replica may join.

A front door answers for its cluster in gRPC health, under a service name made of the cluster's id: that works without
an API key. HTTP has /version.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.core.errors import PortBusyError
from services.frontdoor.holder import port_holder

PROBE_S = 2.0
RETRY_S = 0.5
"""A replica that starts beside this one may hold a port and not answer yet."""


def cluster_service(cluster_id: str) -> str:
    """The name under which health answers for a cluster."""
    return f"triptych.cluster/{cluster_id}"


def address(host: str, port: int) -> str:
    """host:port, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def check_ports(host: str, grpc_port: int, http_port: int, cluster_id: str, tls: bool) -> None:
    """Raises:
    PortBusyError: somebody listens on one of the ports who is not a front door of this cluster.
    """
    if not is_free(host, grpc_port):
        await must_be_ours("grpc_port", grpc_port, lambda: grpc_is_of(host, grpc_port, cluster_id, tls))
    if not is_free(host, http_port):
        await must_be_ours("http_port", http_port, lambda: http_is_of(host, http_port, cluster_id, tls))


async def must_be_ours(key: str, port: int, probe: Callable[[], Awaitable[bool]]) -> None:
    """Raises:
    PortBusyError: the probes say so, or whatever answers there does not speak our protocol.
    """
    for last in (False, False, True):
        try:
            async with asyncio.timeout(PROBE_S):
                ours = await probe()
        except Exception:
            ours = False
        if ours:
            return
        if not last:
            await asyncio.sleep(RETRY_S)
    raise PortBusyError(f"frontdoor.{key} = {port}: held by {port_holder(port)}; stop it or choose another port")


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens on a port; port 0 always is."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not count
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


async def grpc_is_of(host: str, port: int, cluster_id: str, tls: bool) -> bool:
    """Whether a gRPC port is served by a front door of that cluster."""
    request = health_pb2.HealthCheckRequest(service=cluster_service(cluster_id))
    async with await probe_channel(host, port, tls) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        await stub.Check(request, timeout=PROBE_S)
    return True  # a stranger answers NOT_FOUND, which raises


async def probe_channel(host: str, port: int, tls: bool) -> grpc.aio.Channel:
    """A channel that trusts whatever certificate the port shows: what is asked is who listens on our own host."""
    if not tls:
        return grpc.aio.insecure_channel(address(host, port))
    shown, name = await asyncio.to_thread(shown_certificate, host, port)
    options = [("grpc.ssl_target_name_override", name)]
    return grpc.aio.secure_channel(address(host, port), grpc.ssl_channel_credentials(shown), options)


def shown_certificate(host: str, port: int) -> tuple[bytes, str]:
    """The certificate (PEM) that a port shows, and one of the names in it."""
    pem = ssl.get_server_certificate((host, port), timeout=PROBE_S)
    context = ssl.create_default_context(cadata=pem)  # trusted as it is, so that Python shows its names
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    plain = socket.create_connection((host, port), timeout=PROBE_S)
    with plain, context.wrap_socket(plain) as connection:
        found: Any = connection.getpeercert() or {}
    names = [value for _, value in found.get("subjectAltName", ())]
    return pem.encode(), str(names[0]) if names else host


async def http_is_of(host: str, port: int, cluster_id: str, tls: bool) -> bool:
    """Whether an HTTP port is served by a front door of that cluster."""
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    writer.write(b"GET /version HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return bool(json.loads(answer.partition(b"\r\n\r\n")[2])["cluster_id"] == cluster_id)
