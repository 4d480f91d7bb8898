"""The CLI's side of gRPC: where the server is, and calls whose failures are sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import grpc

from services.cluster.supervise import is_running, read_record
from services.core.errors import TriptychError
from services.pb import cluster_pb2, cluster_pb2_grpc, inference_pb2, inference_pb2_grpc

DEFAULT_SERVER = "127.0.0.1:50051"


class ServerError(TriptychError):
    """A call failed; the message says why and what helps.

    Attributes:
        status: the gRPC status name.
    """

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


def find_server(server: str | None, state_folder: Path, name: str) -> str:
    """`host:port` to call: what the user named, else the cluster that runs here, else the default port."""
    if server:
        return server
    record = read_record(state_folder, name)
    if record is not None and is_running(record.pid, record.cluster_id):
        return record.grpc_address
    return DEFAULT_SERVER


@contextmanager
def _calls(server: str) -> Iterator[grpc.Channel]:
    """A channel whose failures are ServerError."""
    try:
        with grpc.insecure_channel(server, options=[("grpc.enable_http_proxy", 0)]) as channel:
            yield channel
    except grpc.RpcError as error:
        call = cast(grpc.Call, error)  # every RpcError that a call raises is also a Call, which has code and details
        status, details = call.code().name, call.details() or ""
        if call.code() is grpc.StatusCode.UNAVAILABLE and "failed to connect" in details.lower():
            details = f"no cluster answers at {server}; start one with `triptych up`, or name another with --server"
        raise ServerError(details or status, status) from error


def get_status(server: str, timeout_s: float = 5.0) -> cluster_pb2.GetStatusResponse:
    """The cluster as the front door at `server` sees it.

    Raises:
        ServerError: it does not answer.
    """
    with _calls(server) as channel:
        stub = cluster_pb2_grpc.ClusterServiceStub(channel)
        answer: cluster_pb2.GetStatusResponse = stub.GetStatus(cluster_pb2.GetStatusRequest(), timeout=timeout_s)
        return answer


def generate(
    server: str, request: inference_pb2.GenerateRequest, timeout_s: float = 600.0
) -> Iterator[inference_pb2.GenerateResponse]:
    """Run one request; leaving the iterator early cancels it.

    Raises:
        ServerError: while iterating, when the request is refused or fails.
    """
    with _calls(server) as channel:
        stream = inference_pb2_grpc.InferenceServiceStub(channel).Generate(request, timeout=timeout_s)
        try:
            yield from stream
        finally:
            stream.cancel()
