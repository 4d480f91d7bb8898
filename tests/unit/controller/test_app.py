"""The controller's shell on one event loop, with processes that are not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from services.controller.app import Controller
from services.controller.config import ControllerConfig
from services.core.request import WorkerRef
from services.core.wire import WorkerInfo
from tests.api.worker_host import FakeHost, FakeProcess


@pytest.mark.parametrize("turns", range(8))
async def test_closing_ends_it_whatever_its_loop_is_about_to_do(turns: int) -> None:
    controller = Controller("c", {"prefill": ("prefill-0",)}, ControllerConfig(ping_every_s=60.0), FakeHost())
    await controller.start()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (await controller.status()).ready
    await controller.scale_pool("prefill", 2)  # wakes the reconcile loop
    for _ in range(turns):
        await asyncio.sleep(0)
    closing = asyncio.create_task(controller.close())
    for _ in range(50):
        await asyncio.sleep(0)
    assert closing.done()


@dataclass
class ProcessAt(FakeProcess):
    """A worker with an address: prefill workers on one host, decode workers on the other."""

    async def ready(self) -> WorkerInfo:
        """Loaded."""
        return replace(await super().ready(), store_address=f"10.0.0.{1 if self.pool == 'prefill' else 2}:9410")


class HostsOf(FakeHost):
    """`FakeHost` with addresses."""

    def launch(self, worker_id: str, pool: str) -> FakeProcess:
        """A process of a new incarnation."""
        self.launched += 1
        process = self.processes[worker_id] = ProcessAt(WorkerRef(worker_id, self.launched), pool)
        return process


async def turns_until(condition: Callable[[], Awaitable[object]]) -> None:
    """Let the loop turn until it holds."""
    for _ in range(1000):
        if await condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never held")


async def test_workers_of_a_host_that_leaves_finish_and_others_take_their_place() -> None:
    hosts = HostsOf()
    wanted = {"prefill": ("prefill-0",), "decode": ("decode-0", "decode-1")}
    controller = Controller("c", wanted, ControllerConfig(ping_every_s=60.0), hosts)
    await controller.start()

    async def all_live() -> bool:
        return (await controller.status()).ready

    await turns_until(all_live)
    before = {info.worker for info in await controller.list_workers()}
    hosts.processes["decode-1"].busy = True
    assert await controller.replace_workers("10.0.0.2") == ("decode-0", "decode-1")
    assert await controller.replace_workers("10.0.0.3") == ()

    async def one_is_back() -> bool:
        return {info.worker.worker_id for info in await controller.list_workers()} == {"prefill-0", "decode-0"}

    await turns_until(one_is_back)
    assert hosts.processes["decode-1"].draining  # it finishes first, and is still named as one of that host
    assert "decode-1" in await controller.replace_workers("10.0.0.2")
    hosts.processes["decode-1"].busy = False
    await turns_until(all_live)
    after = {info.worker for info in await controller.list_workers()}
    assert {worker.worker_id for worker in after} == {worker.worker_id for worker in before}
    assert {worker.worker_id for worker in after & before} == {"prefill-0"}
    assert controller.wanted() == wanted
    await controller.close()
