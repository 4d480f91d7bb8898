"""Issue 4, the gRPC door alone: idle clients that ping, and 300 hostile inputs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import psutil
import pytest

from services.pb import inference_pb2 as pb
from services.pb import inference_pb2_grpc
from tests.api.harness import Served, serving
from tests.api.test_grpc_errors import survive

pytestmark = [pytest.mark.accept, pytest.mark.timeout(600)]

PINGS = [
    ("grpc.keepalive_time_ms", 300),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
"""A client that pings three times a second, without any call."""


async def stays(served: Served, seconds: float) -> bool:
    """Whether the connection of an idle client that pings stays for so long."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.servers.grpc_port}", options=PINGS) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await stub.ListModels(pb.ListModelsRequest())
        try:
            await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), seconds)
        except TimeoutError:
            await stub.ListModels(pb.ListModelsRequest())
            return True
        return False


async def test_pings_of_an_idle_client_keep_its_connection(tmp_path: Path) -> None:
    async with serving(tmp_path, grpc={"min_client_ping_s": 0.1}) as served:
        assert await stays(served, 6.0)
    async with serving(tmp_path, grpc={"min_client_ping_s": 60.0}) as served:
        assert not await stays(served, 20.0), "faster pings than allowed end a connection: the limit is in force"


async def test_an_old_connection_is_renewed_and_its_stream_goes_on(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, grpc={"max_connection_age_s": 1.0}) as served,
        grpc.aio.insecure_channel(
            f"127.0.0.1:{served.servers.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        stream = stub.Generate(pb.GenerateRequest(request_id="hang.1", prompt="hello"))
        await anext(aiter(stream))
        await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 20)
        assert served.performer.num_running == 1  # the stream lives on its old connection
        await stub.ListModels(pb.ListModelsRequest())  # on a new one
        stream.cancel()


async def test_three_hundred_hostile_inputs(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await survive(served, seed=2, count=20)
        before = psutil.Process().memory_full_info().pss
        await survive(served, seed=3, count=300)
        grown = psutil.Process().memory_full_info().pss - before
        print(f"\n300 hostile requests and 300 hostile sockets: {grown / 2**20:.1f} MB more")
        assert grown <= 300 * 2**20
