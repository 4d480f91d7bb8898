"""The CLI's side of gRPC: where the server is, and calls whose failures are sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc

from services.cluster.supervise import is_running, read_record
from services.core.errors import TriptychError
from services.pb import cluster_pb2, cluster_pb2_grpc, inference_pb2, inference_pb2_grpc, trace_pb2, trace_pb2_grpc

Answer = TypeVar("Answer")
DEFAULT_SERVER = "127.0.0.1:50051"
MAX_TRIES = 40
"""Connections that are made to reach every front door; the system, or a load balancer, chooses which one answers."""
NAME = "triptych"
STATE_FOLDER = Path("~/.triptych")
"""Of a cluster that was started without saying otherwise."""


@dataclass
class Access:
    """How this command calls servers; set once, from the options before the subcommand.

    Attributes:
        api_key: sent with every call; None: no key.
        ca_file: PEM file of the authority that signed the servers' certificates; None: plain text.
    """

    api_key: str | None = None
    ca_file: Path | None = None


access = Access()


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


def open_channel(server: str, fresh: bool = False) -> grpc.Channel:
    """A channel with this command's key and certificate authority.

    Args:
        fresh: make a connection of its own, where channels to one server share theirs otherwise.

    Raises:
        ServerError: the file of the authority cannot be read.
    """
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", int(fresh))]
    if access.ca_file is None:
        channel = grpc.insecure_channel(server, options)
    else:
        try:
            authority = access.ca_file.expanduser().read_bytes()
        except OSError as error:
            raise ServerError(f"--ca-file {access.ca_file} cannot be read: {error.strerror}", "CLIENT") from None
        channel = grpc.secure_channel(server, grpc.ssl_channel_credentials(authority), options)
    return grpc.intercept_channel(channel, SendKey(access.api_key)) if access.api_key else channel


class SendKey(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Adds the API key to every call."""

    def __init__(self, api_key: str) -> None:
        self._entry = ("authorization", f"Bearer {api_key}")

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(self._signed(details), request)

    def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(self._signed(details), request)

    def _signed(self, details: Any) -> Any:
        return details._replace(metadata=[*(details.metadata or ()), self._entry])


@contextmanager
def _calls(server: str, fresh: bool = False) -> Iterator[grpc.Channel]:
    """A channel whose failures are ServerError."""
    try:
        with open_channel(server, fresh) as channel:
            yield channel
    except grpc.RpcError as error:
        call = cast(grpc.Call, error)  # every RpcError that a call raises is also a Call, which has code and details
        status, details = call.code().name, call.details() or ""
        if call.code() is grpc.StatusCode.UNAVAILABLE and "failed to connect" in details.lower():
            details = f"no cluster answers at {server}; start one with `triptych up`, or name another with --server"
        raise ServerError(details or status, status) from error


def get_status(
    server: str, timeout_s: float = 5.0, ttft_slo_ms: float = 0.0, itl_slo_ms: float = 0.0
) -> cluster_pb2.GetStatusResponse:
    """The cluster as the front door at `server` sees it, the last minute judged by these bounds; 0: the server's.

    Raises:
        ServerError: it does not answer.
    """
    with _calls(server) as channel:
        stub = cluster_pb2_grpc.ClusterServiceStub(channel)
        request = cluster_pb2.GetStatusRequest(ttft_slo_ms=ttft_slo_ms, itl_slo_ms=itl_slo_ms)
        answer: cluster_pb2.GetStatusResponse = stub.GetStatus(request, timeout=timeout_s)
        return answer


def find_traces(server: str, name: str, timeout_s: float = 5.0) -> list[trace_pb2.Trace]:
    """Traces of a request id or trace id, newest first; without an id the last ones.

    Front doors share a port and each keeps its own, so connections are made until one knows the id or all were asked.

    Raises:
        ServerError: it does not answer.
    """
    heard: set[str] = set()
    found: dict[str, trace_pb2.Trace] = {}
    for _ in range(MAX_TRIES):
        with _calls(server, fresh=True) as channel:
            stub = trace_pb2_grpc.TraceServiceStub(channel)
            answer: trace_pb2.GetTracesResponse = stub.GetTraces(trace_pb2.GetTracesRequest(id=name), timeout=timeout_s)
        found |= {trace.spans[0].span_id: trace for trace in answer.traces}
        heard.add(answer.front_door)
        if (name and found) or heard.issuperset(answer.front_doors):
            break
    return sorted(found.values(), key=lambda trace: trace.unix_us, reverse=True)


def ask_cluster(server: str, ask: Callable[[cluster_pb2_grpc.ClusterServiceStub], Answer]) -> Answer:
    """One call of ClusterService to whichever front door answers.

    Raises:
        ServerError: it refuses, or does not answer.
    """
    with _calls(server) as channel:
        return ask(cluster_pb2_grpc.ClusterServiceStub(channel))


def ask_front_doors(
    server: str, ask: Callable[[cluster_pb2_grpc.ClusterServiceStub], Answer], everyone: bool = False
) -> list[Answer]:
    """The same call to every front door, one answer each; without `everyone`, one is enough that tells the others.

    Front doors share a port, so connections are made until all that the answers name have answered; one that was not
    reached in many tries is left out, which the answers show.

    Raises:
        ServerError: one refuses, or does not answer.
    """
    heard: dict[str, Answer] = {}
    for _ in range(MAX_TRIES):
        with _calls(server, fresh=True) as channel:
            answer: Any = ask(cluster_pb2_grpc.ClusterServiceStub(channel))
        heard.setdefault(answer.front_door, answer)
        if (answer.shared and not everyone) or heard.keys() >= set(answer.front_doors):
            break
    return list(heard.values())


def drain_worker(server: str, worker_id: str, timeout_s: float = 10.0) -> cluster_pb2.DrainWorkerResponse:
    """Begin to take a worker out of its pool.

    Raises:
        ServerError: there is no such worker, or the cluster does not answer.
    """
    with _calls(server) as channel:
        request = cluster_pb2.DrainWorkerRequest(worker_id=worker_id)
        answer: cluster_pb2.DrainWorkerResponse = cluster_pb2_grpc.ClusterServiceStub(channel).DrainWorker(
            request, timeout=timeout_s
        )
        return answer


def scale_pool(server: str, pool: str, replicas: int, timeout_s: float = 10.0) -> cluster_pb2.ScalePoolResponse:
    """Begin to give a pool another number of workers.

    Raises:
        ServerError: there is no such pool or no room, or the cluster does not answer.
    """
    with _calls(server) as channel:
        request = cluster_pb2.ScalePoolRequest(pool=pool, replicas=replicas)
        answer: cluster_pb2.ScalePoolResponse = cluster_pb2_grpc.ClusterServiceStub(channel).ScalePool(
            request, timeout=timeout_s
        )
        return answer


def probe_links(server: str, timeout_s: float = 120.0) -> Iterator[cluster_pb2.ProbeLinksResponse]:
    """Measure the link of every pair of workers.

    Raises:
        ServerError: while iterating, when the cluster does not answer.
    """
    with _calls(server) as channel:
        stub = cluster_pb2_grpc.ClusterServiceStub(channel)
        yield from stub.ProbeLinks(cluster_pb2.ProbeLinksRequest(), timeout=timeout_s)


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
