"""A Generate call that ends early, at every stage and in every way: its request ends once, everywhere, at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.core.actions import Cancel
from services.core.request import FinishReason
from services.pb import inference_pb2 as pb
from tests.api.harness import Served, ask, details_of, serving, status_of_call

Code = grpc.StatusCode
Status = health_pb2.HealthCheckResponse
STAGES = {"queue": "tokenized", "silent": "dispatched", "hang": "first_token"}
"""Requests of these names get so far; what the timeline says then."""
DEADLINES_S = (0.3, 3, 30)
"""On a machine that stands still, a request may not get to its stage within the first one; then it is asked again."""


async def until_at(served: Served, name: str, stage: str) -> None:
    """Wait until the request is there."""
    while True:
        stream = served.performer._streams.get(name)
        if stream is not None and stream.timeline.entries[-1].kind == stage:
            return
        if stage == "first_token" and stream is not None and stream.timeline.token_times_ns:
            return
        await asyncio.sleep(0.002)


async def give_up(served: Served, way: str, call: grpc.aio.UnaryStreamCall, name: str) -> None:
    """End the call early."""
    if way == "cancel":
        call.cancel()
    elif way == "method":
        await served.inference.CancelGeneration(pb.CancelGenerationRequest(request_id=name))


async def got_there(served: Served, name: str, stage: str, ended: asyncio.Future[Any]) -> bool:
    """Wait until the request is there, or has ended on its way."""
    there = asyncio.create_task(until_at(served, name, stage))
    await asyncio.wait((there, ended), return_when=asyncio.FIRST_COMPLETED)
    if not there.done():
        there.cancel()
        return False
    return True


@pytest.mark.parametrize("way", ["cancel", "method", "deadline"])
@pytest.mark.parametrize("kind", STAGES)
async def test_a_call_that_ends_early_ends_its_request_once(tmp_path: Path, kind: str, way: str) -> None:
    for timeout in DEADLINES_S if way == "deadline" else (30,):
        if await call_that_ends_early(tmp_path, kind, way, timeout):
            return
    pytest.fail(f"a request did not get to {kind!r} in {timeout} s")


async def call_that_ends_early(tmp_path: Path, kind: str, way: str, timeout: float) -> bool:
    """Whether the request got to its stage; then the rest is checked."""
    name = f"{kind}.1"
    async with serving(tmp_path) as served:
        call = served.inference.Generate(ask(name), timeout=timeout)
        ended = asyncio.create_task(read(call))
        if not await got_there(served, name, STAGES[kind], ended):
            return False
        await give_up(served, way, call, name)
        code = await ended
        assert code is (Code.DEADLINE_EXCEEDED if way == "deadline" else Code.CANCELLED)
        while served.performer.num_running:
            await asyncio.sleep(0.002)
        finish = FinishReason.DEADLINE if way == "deadline" else FinishReason.CANCELLED
        assert [event.finish for event in served.flow.of(Cancel)] == [finish]  # type: ignore[attr-defined]
        while kind != "queue" and not served.workers.cancelled:
            await asyncio.sleep(0.002)
        assert [each[1:3] for each in served.workers.cancelled] == ([] if kind == "queue" else [(name, finish)])
        again = served.inference.Generate(ask(name.replace(kind, "echo")))
        assert [message.WhichOneof("event") async for message in again][-1] == "usage"
    return True


async def read(call: grpc.aio.UnaryStreamCall) -> grpc.StatusCode:
    """How a call ended."""
    try:
        async for _ in call:
            pass
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        pass
    return await call.code()


async def test_metadata_of_proxies_wins_over_fields(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        call = served.inference.Generate(ask("echo.1", priority=1), metadata=(("x-priority", "7"),))
        assert [message.WhichOneof("event") async for message in call][-1] == "usage"
        assert served.workers.submitted[0][2].priority == 7
        for name, value in (("x-priority", "101"), ("x-slo-ttft-ms", "soon")):
            code, _, details = await status_of_call(served.inference.Generate(ask("echo.2"), metadata=((name, value),)))
            assert code is Code.INVALID_ARGUMENT
            assert details["BadRequest"].field_violations[0].field == name


async def test_the_servers_bound_of_deadlines_holds_for_patient_clients(tmp_path: Path) -> None:
    async with serving(tmp_path, max_deadline_s=0.2) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in served.inference.Generate(ask("hang.1"), timeout=1000):
                pass
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        assert "stage" in details_of(caught.value)["ErrorInfo"].metadata


async def test_who_watches_health_learns_of_a_drain_at_once(tmp_path: Path) -> None:
    services = ("", "triptych.v1.InferenceService", "triptych.v1.ClusterService")
    async with serving(tmp_path) as served:
        stub = health_pb2_grpc.HealthStub(served.channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=30) for name in services]
        assert [(await anext(aiter(watch))).status for watch in watches] == [Status.SERVING] * 3
        running = served.inference.Generate(ask("hang.1"))
        await anext(aiter(running))
        served.performer.draining = True
        await served.servers.show_draining()
        assert [(await anext(aiter(watch))).status for watch in watches] == [Status.NOT_SERVING] * 3
        assert served.performer.num_running == 1  # what runs may finish
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nothing"), timeout=30)
        assert (await anext(aiter(unknown))).status == Status.SERVICE_UNKNOWN
