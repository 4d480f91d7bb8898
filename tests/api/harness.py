"""A real gRPC and HTTP server on free ports, with a fake flow and fake workers behind it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from services.core.clock import WallClock
from services.core.config import ModelConfig
from services.frontdoor.app import load_model
from services.frontdoor.cluster_servicer import ClusterServicer
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.convert import Converter
from services.frontdoor.performer import Performer
from services.frontdoor.server import Servers
from services.frontdoor.servicer import InferenceServicer
from services.pb import cluster_pb2_grpc, inference_pb2_grpc
from services.pb import inference_pb2 as pb
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

    @property
    def inference(self) -> inference_pb2_grpc.InferenceServiceStub:
        return inference_pb2_grpc.InferenceServiceStub(self.channel)

    @property
    def cluster(self) -> cluster_pb2_grpc.ClusterServiceStub:
        return cluster_pb2_grpc.ClusterServiceStub(self.channel)


@contextlib.asynccontextmanager
async def serving(folder: Path, cluster_id: str = "test", **settings: object) -> AsyncIterator[Served]:
    """Servers that are up, with a prefill and a decode worker that have reported."""
    config = FrontDoorConfig(**{"grpc_port": 0, "http_port": 0, **settings})
    clock, flow, workers = WallClock(), FakeFlow(), FakeWorkers()
    performer = Performer(flow, workers, clock, "frontdoor-1", config.max_running_requests)
    workers.performer = performer
    model = load_model(ModelConfig(path="tiny", dtype="float32"), byte_level_folder(folder), 16)
    inference = InferenceServicer(
        performer, Converter(model, config, "frontdoor-1"), model, clock, config.default_deadline_s
    )
    servers = Servers(
        config, inference, ClusterServicer(performer, clock, cluster_id, "1.2.3", model.name), cluster_id, "1.2.3"
    )
    workers.report(*BOTH)
    await servers.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{servers.grpc_port}") as channel:
            yield Served(channel, servers, performer, flow, workers)
    finally:
        await performer.close()
        await servers.stop()


def ask(name: str, prompt: str = "hello", **fields: object) -> pb.GenerateRequest:
    """A right request of that id."""
    return pb.GenerateRequest(**{"request_id": name, "prompt": prompt, **fields})


def details_of(error: grpc.aio.AioRpcError) -> dict[str, object]:
    """The google.rpc details of a status by type name."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    found = {}
    for packed in status.details:
        kind = getattr(error_details_pb2, packed.type_url.rsplit(".", 1)[-1])
        found[kind.DESCRIPTOR.name] = message = kind()
        assert packed.Unpack(message)
    return found
