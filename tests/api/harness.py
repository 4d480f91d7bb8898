"""A real gRPC and HTTP server on free ports, with a fake flow and fake workers behind it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import openai
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from services.controller.app import Controller
from services.controller.config import ControllerConfig
from services.core.clock import WallClock
from services.core.config import ModelConfig
from services.frontdoor.app import load_model
from services.frontdoor.auth import Authenticator
from services.frontdoor.cache_calls import CacheCalls
from services.frontdoor.cluster_servicer import ClusterServicer
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.convert import Converter
from services.frontdoor.grpc_server import GrpcServer
from services.frontdoor.http_app import make_app
from services.frontdoor.http_connection import make_server
from services.frontdoor.http_door import HttpDoor
from services.frontdoor.layers import log_end, standard_layers
from services.frontdoor.limits import TenantLimiter
from services.frontdoor.metrics_http import count_calls, count_limited, front_door_samples
from services.frontdoor.openai_http import OpenAiApi
from services.frontdoor.performer import Performer
from services.frontdoor.response_cache import make_response_cache
from services.frontdoor.server import Servers
from services.frontdoor.servicer import InferenceServicer
from services.frontdoor.tls import ServerTls
from services.frontdoor.traces import Traces, TraceServicer, make_traces
from services.frontdoor.view_calls import ViewCalls
from services.pb import cluster_pb2_grpc, inference_pb2_grpc, trace_pb2_grpc
from services.pb import inference_pb2 as pb
from services.router.flow import RequestFlow
from services.semcache.config import SemcacheConfig
from services.telemetry.config import TelemetryConfig
from services.telemetry.exporter import Exporter
from services.telemetry.requests import RequestMetrics
from tests.api.worker_host import FakeHost
from tests.unit.frontdoor.fakes import BOTH, FakeFlow, FakeWorkers
from tests.unit.frontdoor.vocabularies import byte_level_folder


@dataclass
class Served:
    """Everything a test may look at."""

    channel: grpc.aio.Channel
    servers: Servers
    performer: Performer
    flow: FakeFlow
    workers: FakeWorkers
    authenticator: Authenticator
    limiter: TenantLimiter
    tls: ServerTls | None
    controller: Controller
    host: FakeHost
    traces: Traces

    @property
    def inference(self) -> inference_pb2_grpc.InferenceServiceStub:
        return inference_pb2_grpc.InferenceServiceStub(self.channel)

    @property
    def trace(self) -> trace_pb2_grpc.TraceServiceStub:
        return trace_pb2_grpc.TraceServiceStub(self.channel)

    @property
    def cluster(self) -> cluster_pb2_grpc.ClusterServiceStub:
        return cluster_pb2_grpc.ClusterServiceStub(self.channel)


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    cluster_id: str = "test",
    vocabulary: Callable[[Path], Path] = byte_level_folder,
    real_flow: RequestFlow | None = None,
    semcache: SemcacheConfig | None = None,
    telemetry: TelemetryConfig | None = None,
    **settings: object,
) -> AsyncIterator[Served]:
    """Servers that are up, with a prefill and a decode worker that have reported.

    Args:
        vocabulary: makes the model folder, or names one.
        real_flow: places requests instead of the fake one.
        semcache: of the response cache; None: there is none.
        telemetry: of the traces.
    """
    config = FrontDoorConfig(**{"grpc_port": 0, "http_port": 0, **settings})
    clock, flow, workers = WallClock(), FakeFlow(), FakeWorkers()
    exporter = Exporter("frontdoor")
    observer = RequestMetrics(exporter, "tiny")
    model = load_model(ModelConfig(path="tiny", dtype="float32"), vocabulary(folder), 16)
    cache = make_response_cache(semcache, model, exporter=exporter)
    performer = Performer(
        real_flow or flow,
        workers,
        clock,
        "frontdoor-1",
        config.max_running_requests,
        observer=observer,
        cache=cache,
    )
    exporter.add_source(lambda: front_door_samples(performer, clock))
    exporter.add_source(model.grammars.samples)
    workers.performer = performer
    converter = Converter(model, config, "frontdoor-1")
    inference = InferenceServicer(performer, converter, model, clock, cache)
    host = FakeHost()
    controller = Controller(
        "controller-1",
        {"prefill": ("prefill-0",), "decode": ("decode-0",)},
        ControllerConfig(ping_every_s=0.02, restart_backoff_s=0.02),
        host,
    )
    await controller.start()
    authenticator, limiter = Authenticator(config.auth), TenantLimiter(clock, count_limited(exporter))
    view = ViewCalls(performer, converter, authenticator, clock)
    cache_calls = CacheCalls(cache, converter, authenticator, clock, model.name, "frontdoor-1")
    about = (clock, cluster_id, "1.2.3", model.name, view, cache_calls)
    cluster = ClusterServicer(performer, controller, *about, recent=observer.recent)
    tls = None if config.tls is None else ServerTls(config.tls)
    traces = make_traces(telemetry, "frontdoor-1", cluster_id, model.name, clock)
    services = inference, cluster, TraceServicer(traces, cluster)
    observers = (count_calls(exporter, "grpc"), traces)
    grpc_server = GrpcServer(config, *services, cluster_id, authenticator, limiter, clock, tls, observers)
    api = OpenAiApi(performer, converter, model, clock, config.http, cache)
    layers = standard_layers(authenticator, limiter, clock, (log_end, count_calls(exporter, "http"), traces))
    door = HttpDoor(make_app(cluster.ready, cluster_id, "1.2.3", exporter, api), layers, clock, config)
    http = make_server(door, config.http, tls and tls.ssl_context())
    servers = Servers(config, grpc_server, http, cluster_id)
    workers.report(*BOTH)
    await servers.start()
    parts = (servers, performer, flow, workers, authenticator, limiter, tls, controller, host, traces)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{servers.grpc_port}") as channel:
            yield Served(channel, *parts)
    finally:
        await performer.close()
        await servers.stop()
        await controller.close()
        await asyncio.to_thread(traces.close)


async def status_of_call(call: Any) -> tuple[grpc.StatusCode, str, dict[str, object]]:
    """(code, reason, details) of a call, unary or streaming, that must fail."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        details = details_of(error)
        return error.code(), details["ErrorInfo"].reason if details else "", details
    raise AssertionError("the call succeeded")


def ask(name: str, prompt: str = "hello", **fields: object) -> pb.GenerateRequest:
    """A right request of that id."""
    return pb.GenerateRequest(**{"request_id": name, "prompt": prompt, **fields})


def details_of(error: grpc.aio.AioRpcError) -> dict[str, object]:
    """The google.rpc details of a status by type name."""
    trailing = dict(error.trailing_metadata() or ())
    if "grpc-status-details-bin" not in trailing:  # gRPC itself refused
        return {}
    status = rpc_status.from_call(error)
    assert status is not None, error
    found = {}
    for packed in status.details:
        kind = getattr(error_details_pb2, packed.type_url.rsplit(".", 1)[-1])
        found[kind.DESCRIPTOR.name] = message = kind()
        assert packed.Unpack(message)
    return found


@contextlib.asynccontextmanager
async def client_of(served: Served, **options: object) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, without its retries."""
    base = f"http://127.0.0.1:{served.servers.http_port}/v1"
    options = {"api_key": "none", "max_retries": 0, **options}
    async with openai.AsyncOpenAI(base_url=base, **options) as client:  # type: ignore[arg-type]
        yield client
