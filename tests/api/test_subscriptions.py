"""Subscriptions over real Ray actors: order, heartbeats, re-opening, gaps, and every way to lose a worker."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import ray

from services.core.actions import Cancel
from services.core.clock import WallClock
from services.core.door import StreamItem
from services.core.errors import UnavailableError
from services.core.request import FinishReason, Request, SamplingParams, WorkerRef
from services.core.wire import NAMESPACE, WorkerInfo, actor_name
from services.frontdoor.subscriptions import Subscriptions
from tests.api.actors import PlainWorker

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("node")]

REQUEST = Request("r1", 1, (1, 2, 3), (b"h" * 16,), SamplingParams(4), "frontdoor-1")
CANCEL = Cancel("frontdoor-1", "r1", FinishReason.CANCELLED, "CLIENT_GONE", 1)


class Rig:
    """A `Subscriptions` with this object as its directory and its sink."""

    def __init__(self, worker_lost_s: float = 30.0) -> None:
        self.infos: list[WorkerInfo] = []
        self.actors: dict[int, Any] = {}
        self.items: list[int] = []
        self.lost: list[tuple[WorkerRef, str]] = []
        self.gaps: list[WorkerRef] = []
        self.directory_error: Exception | None = None
        self.listed = 0
        self.subscriptions = Subscriptions("test", "frontdoor-1", 77, self, worker_lost_s, WallClock())
        self.task = asyncio.create_task(self.subscriptions.run(self))

    async def list_workers(self) -> list[WorkerInfo]:
        self.listed += 1
        if self.directory_error is not None:
            raise self.directory_error
        return self.infos

    def receive(self, item: StreamItem) -> None:
        self.items.append(item.sequence)

    def worker_lost(self, worker: WorkerRef, reason: str) -> None:
        self.lost.append((worker, reason))

    def items_lost(self, worker: WorkerRef) -> None:
        self.gaps.append(worker)

    async def launch(self, incarnation: int, *sequences: int) -> Any:
        """A detached worker that has said something, in the directory alone or in place of an earlier one."""
        worker = WorkerRef("prefill-0", incarnation)
        options = {"name": actor_name("test", "prefill-0"), "namespace": NAMESPACE, "lifetime": "detached"}
        actor = (
            ray.remote(PlainWorker).options(num_cpus=0, max_concurrency=100, **options).remote("prefill-0", incarnation)
        )
        await actor.say.remote(*sequences)
        self.actors[incarnation] = actor
        self.infos = [WorkerInfo(worker, "prefill", ("prefill",), await actor.pid.remote(), "")]
        return actor

    async def until(self, condition: Any) -> None:
        """Wait for what other tasks bring about; the test's own limit bounds it."""
        while not condition():
            assert not self.task.done()
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        for actor in self.actors.values():
            ray.kill(actor)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.close()


async def test_items_come_in_order_and_are_acknowledged(rig: Rig) -> None:
    actor = await rig.launch(5, 1, 2)
    await rig.until(lambda: rig.items == [1, 2])
    await actor.say.remote(*range(3, 200))
    await rig.until(lambda: len(rig.items) == 199)
    assert rig.items == list(range(1, 200))
    while not (acknowledged := (await actor.seen.remote())["acknowledged"]):
        await asyncio.sleep(0.05)
    assert acknowledged[-1] == 199
    assert (rig.lost, rig.gaps) == ([], [])


async def test_calls_reach_the_worker_and_fail_when_it_is_gone(rig: Rig) -> None:
    actor = await rig.launch(5, 1)
    await rig.until(lambda: rig.items)
    worker = WorkerRef("prefill-0", 5)
    await rig.subscriptions.submit(worker, 3, REQUEST, 250)
    await rig.subscriptions.cancel(worker, CANCEL)
    assert (await actor.seen.remote())["calls"] == [
        ("submit", "frontdoor-1", 3, REQUEST, 250),
        ("cancel", CANCEL),
    ]
    with pytest.raises(UnavailableError, match="prefill-0 is gone"):
        await rig.subscriptions.submit(WorkerRef("prefill-0", 6), 1, REQUEST, None)
    os.kill(await actor.pid.remote(), signal.SIGKILL)
    with pytest.raises(UnavailableError, match="prefill-0"):
        await rig.subscriptions.submit(worker, 4, REQUEST, None)


async def test_a_killed_worker_is_lost_at_once_and_its_successor_found(rig: Rig) -> None:
    actor = await rig.launch(5, 1)
    await rig.until(lambda: rig.items)
    os.kill(await actor.pid.remote(), signal.SIGKILL)
    await rig.until(lambda: rig.lost)
    ((worker, reason),) = rig.lost
    assert worker == WorkerRef("prefill-0", 5)
    assert reason.startswith("its process died")
    del rig.actors[5]
    await asyncio.sleep(1.0)  # the directory still lists the dead one: that is no second loss
    await rig.launch(6, 1, 2)
    await rig.until(lambda: rig.items == [1, 1, 2])
    assert len(rig.lost) == 1


async def test_a_stream_that_ends_is_opened_again_where_it_stopped(rig: Rig) -> None:
    actor = await rig.launch(5, 1, 2)
    await rig.until(lambda: rig.items == [1, 2])
    await actor.end_streams.remote()
    await actor.say.remote(3)
    await rig.until(lambda: rig.items == [1, 2, 3])
    assert (await actor.seen.remote())["opened"] == [1, 3]
    assert (rig.lost, rig.gaps) == ([], [])


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_call_whose_connection_breaks_is_said_again_in_order(rig: Rig, where: str) -> None:
    actor = await rig.launch(5, 1)
    await rig.until(lambda: rig.items)
    worker = WorkerRef("prefill-0", 5)
    await actor.cut_next_call.remote(where)
    # One after the other at once, as the performer makes them: the cancel must not overtake the submit.
    await asyncio.gather(rig.subscriptions.submit(worker, 1, REQUEST, None), rig.subscriptions.cancel(worker, CANCEL))
    calls = (await actor.seen.remote())["calls"]
    # This worker keeps no book of what it took; a real one takes a call that is said again once.
    submits = 1 if where == "before" else 2
    assert calls == [("submit", "frontdoor-1", 1, REQUEST, None)] * submits + [("cancel", CANCEL)]
    assert (rig.lost, rig.gaps) == ([], [])


async def test_a_call_to_a_worker_that_dies_with_it_fails(rig: Rig) -> None:
    actor = await rig.launch(5, 1)
    await rig.until(lambda: rig.items)
    pid = await actor.pid.remote()
    os.kill(pid, signal.SIGSTOP)
    call = asyncio.ensure_future(rig.subscriptions.submit(WorkerRef("prefill-0", 5), 1, REQUEST, None))
    await asyncio.sleep(0.05)
    assert not call.done()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(UnavailableError, match="prefill-0 is lost: its process died"):
        await call
    del rig.actors[5]


async def test_a_gap_is_told_and_what_is_sent_twice_is_dropped(rig: Rig) -> None:
    await rig.launch(5, 1, 2, 2, 1, 5, 6)
    await rig.until(lambda: len(rig.items) == 4)
    assert rig.items == [1, 2, 5, 6]
    assert rig.gaps == [WorkerRef("prefill-0", 5)]


async def test_a_dead_controller_does_not_disturb_what_stands(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    actor = await rig.launch(5, 1)
    await rig.until(lambda: rig.items)
    rig.directory_error = ConnectionError("no controller")
    listed = rig.listed
    await rig.until(lambda: rig.listed >= listed + 3)
    await actor.say.remote(2)
    await rig.until(lambda: rig.items == [1, 2])
    rig.directory_error, rig.infos = None, []  # a controller that came back and knows nobody yet
    listed = rig.listed
    await rig.until(lambda: rig.listed >= listed + 2)
    await actor.say.remote(3)
    await rig.until(lambda: rig.items == [1, 2, 3])
    assert rig.lost == []
    assert caplog.text.count("the controller does not answer") == 1


async def test_a_silent_worker_is_lost_and_heard_again_when_it_wakes() -> None:
    rig = Rig(worker_lost_s=1.0)
    actor = await rig.launch(5, 1)
    await rig.until(lambda: rig.items)
    pid = await actor.pid.remote()
    os.kill(pid, signal.SIGSTOP)
    try:
        await rig.until(lambda: rig.lost)
        assert rig.lost[0][1].startswith("it was silent for")
    finally:
        os.kill(pid, signal.SIGCONT)
    speaking = asyncio.create_task(speak(actor, 2))
    await rig.until(lambda: len(rig.items) >= 3)
    speaking.cancel()
    assert rig.items[:3] == [1, 2, 3]
    assert len(rig.lost) == 1
    await rig.close()


async def speak(actor: Any, sequence: int) -> None:
    """An item every 0.1 s, as a worker's reports come."""
    while True:
        await actor.say.remote(sequence)
        sequence += 1
        await asyncio.sleep(0.1)
