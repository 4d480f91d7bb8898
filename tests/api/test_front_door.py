"""A whole front door: real sockets, the real request flow, and Ray actors as controller and worker."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import ray

from services.core.config import ModelConfig
from services.core.decision_log import replay
from services.core.request import WorkerRef
from services.core.wire import NAMESPACE, WorkerInfo, actor_name
from services.frontdoor.app import FrontDoor
from services.frontdoor.config import FrontDoorConfig
from services.pb import cluster_pb2, cluster_pb2_grpc, inference_pb2_grpc
from services.router.config import RouterConfig
from services.router.recorded import flow_from_header
from tests.api.actors import Directory, EchoWorker
from tests.api.harness import ask, details_of
from tests.unit.frontdoor.vocabularies import byte_level_folder

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("node")]


class Rig:
    """A front door, its channel, and what stands around it."""

    def __init__(self, folder: Path, directory: Any) -> None:
        config = FrontDoorConfig(grpc_port=0, http_port=0, worker_lost_s=2.0)
        model = ModelConfig(path="tiny", dtype="float32")
        self.directory = directory
        self.workers: list[Any] = []
        self.log_folder = folder / "log"
        model_folder = str(byte_level_folder(folder))
        router, log = RouterConfig(wait_for_worker_s=0.5), str(self.log_folder)
        self.door = FrontDoor(config, router, "test", model, model_folder, directory, 16, decision_log=log)

    async def launch(self, worker_id: str, incarnation: int) -> Any:
        # Detached, as real workers are: Ray frees the name of a dead actor only then.
        options = {"name": actor_name("test", worker_id), "namespace": NAMESPACE, "lifetime": "detached"}
        factory = ray.remote(EchoWorker).options(num_cpus=0, max_concurrency=100, **options)
        actor = factory.remote(worker_id, incarnation)
        role, ref = worker_id.split("-")[0], WorkerRef(worker_id, incarnation)
        await self.directory.add.remote(WorkerInfo(ref, role, (role,), await actor.pid.remote(), ""))
        self.workers.append(actor)
        return actor

    async def status(self) -> cluster_pb2.GetStatusResponse:
        stub = cluster_pb2_grpc.ClusterServiceStub(self.channel)
        return await stub.GetStatus(cluster_pb2.GetStatusRequest())

    async def until_ready(self, is_ready: bool = True) -> None:
        while (await self.status()).ready is not is_ready:
            await asyncio.sleep(0.02)

    async def until_idle(self) -> None:
        while self.door.num_running:
            await asyncio.sleep(0.005)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, ray.remote(Directory).options(num_cpus=0).remote())
    await rig.door.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.door.grpc_port}") as rig.channel:
        rig.inference = inference_pb2_grpc.InferenceServiceStub(rig.channel)
        yield rig
    await rig.door.stop(0.0)
    for actor in [*rig.workers, rig.directory]:
        ray.kill(actor)


async def read(call: Any) -> tuple[str, list[str]]:
    """Text and timeline of a whole stream."""
    messages = [message async for message in call]
    text = "".join(message.delta.text for message in messages)
    return text, [f"{event.name}@{event.worker}" for event in messages[-2].finished.timeline]


async def test_prompts_travel_through_two_workers_and_back(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(rig.inference.Generate(ask("echo.early")))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert details_of(caught.value)["ErrorInfo"].reason == "NO_WORKERS"
    await rig.launch("prefill-0", 5)
    await rig.launch("decode-0", 6)
    await rig.until_ready()
    text, timeline = await read(rig.inference.Generate(ask("echo.1", "hello é 🙂", include_timeline=True)))
    assert text == "hello é 🙂"
    door = rig.door.front_door_id
    ours = [f"{name}@{door}" for name in ("received", "tokenized", "dispatched")]
    assert timeline == [*ours, "first_token@prefill-0", f"finished@{door}"]
    calls = [read(rig.inference.Generate(ask(f"echo.{n}", f"prompt number {n} is long enough"))) for n in range(20)]
    assert [text for text, _ in await asyncio.gather(*calls)] == [
        f"prompt number {n} is long enough" for n in range(20)
    ]
    status = await rig.status()
    assert [(worker.id, worker.dispatches) for worker in status.workers] == [("decode-0", 0), ("prefill-0", 21)]
    await rig.door.check_health()
    (log,) = rig.log_folder.glob("frontdoor-*.jsonl")
    with log.open(encoding="utf-8") as lines:
        replayed = replay(lines, lambda kind, built_from: {"flow": flow_from_header}[kind](built_from))
    assert replayed.mismatch is None
    assert replayed.decisions > 22  # each request's submission is one; tokens and ends of several may come as one event


async def test_a_cancel_reaches_both_workers(rig: Rig) -> None:
    workers = [await rig.launch("prefill-0", 5), await rig.launch("decode-0", 6)]
    await rig.until_ready()
    call = rig.inference.Generate(ask("hang.1"))
    await anext(aiter(call))
    call.cancel()
    for worker in workers:
        while "hang.1" not in await worker.cancels.remote():
            await asyncio.sleep(0.01)
    assert rig.door.num_running == 0


@pytest.mark.parametrize("victim", ["prefill-0", "decode-0"])
async def test_a_killed_worker_is_a_clean_error_and_its_successor_serves(rig: Rig, victim: str) -> None:
    workers = {name: await rig.launch(name, 5) for name in ("prefill-0", "decode-0")}
    await rig.until_ready()
    call = rig.inference.Generate(ask("hang.1"))
    await anext(aiter(call))
    os.kill(await workers[victim].pid.remote(), signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert {"ErrorInfo", "RetryInfo"} <= set(details_of(caught.value))
    await rig.until_ready(False)
    while True:  # the name is free once Ray has seen the death
        try:
            await rig.launch(victim, 7)
            break
        except ValueError:
            await asyncio.sleep(0.1)
    await rig.until_ready()
    assert (await read(rig.inference.Generate(ask("echo.1"))))[0] == "hello"


async def test_stopping_lets_streams_finish_and_refuses_new_ones(rig: Rig) -> None:
    for name in ("prefill-0", "decode-0"):
        await rig.launch(name, 5)
    await rig.until_ready()
    url = f"http://127.0.0.1:{rig.door.http_port}/readyz"
    async with httpx.AsyncClient() as client:
        assert (
            await client.get(url)
        ).status_code == 200  # new connections go to other front doors once this one drains
        running = rig.inference.Generate(ask("echo.1", "a prompt that takes some steps to be said again " * 2))
        await anext(aiter(running))
        stopping = asyncio.create_task(rig.door.stop(5.0))
        await asyncio.sleep(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(rig.inference.Generate(ask("echo.2")))
        assert details_of(caught.value)["ErrorInfo"].reason == "DRAINING"
        assert (await client.get(url)).status_code == 503
    assert (await read(running))[0] == "a prompt that takes some steps to be said again " * 2
    await stopping
    assert rig.door.num_running == 0


async def test_a_dead_controller_changes_nothing(rig: Rig) -> None:
    for name in ("prefill-0", "decode-0"):
        await rig.launch(name, 5)
    await rig.until_ready()
    ray.kill(rig.directory)
    await asyncio.sleep(1.0)
    assert (await read(rig.inference.Generate(ask("echo.1"))))[0] == "hello"
