"""Actors that stand for workers and for the controller; in a file that imports little, because each loads it anew."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import ray

from services.core.actions import Cancel, RequestOutput, WorkerReport
from services.core.request import FinishReason, Request, WorkerRef
from services.core.timeline import Mark, MarkKind
from services.core.wire import NAMESPACE, StreamItem, WorkerInfo, actor_name, pack, unpack
from tests.unit.frontdoor.reports import report_of


class PlainWorker:
    """The part of a worker that a front door sees; it says what the test tells it to say."""

    def __init__(self, worker_id: str, incarnation: int) -> None:
        self.worker = WorkerRef(worker_id, incarnation)
        self.items: list[StreamItem] = []
        self.opened: list[int] = []
        self.acknowledged: list[int] = []
        self.calls: list[tuple[Any, ...]] = []
        self.news = asyncio.Event()
        self.openings = 0

    def pid(self) -> int:
        return os.getpid()

    def seen(self) -> dict[str, list[Any]]:
        return {"opened": self.opened, "acknowledged": self.acknowledged, "calls": self.calls}

    async def say(self, *sequences: int) -> None:
        for sequence in sequences:
            output = RequestOutput("r1", 1, sequence - 1, (sequence,))
            self.items.append(StreamItem("s", sequence, 0, self.worker, os.getpid(), None, (output,)))
        self.news.set()

    async def end_streams(self) -> None:
        self.openings += 1
        self.news.set()

    async def subscribe(self, front_door: str, incarnation: int, from_sequence: int) -> AsyncIterator[bytes]:
        self.opened.append(from_sequence)
        self.openings += 1
        mine, place = self.openings, 0
        while mine == self.openings:
            while place < len(self.items):
                place += 1
                if self.items[place - 1].sequence >= from_sequence:
                    yield pack(self.items[place - 1])
            self.news.clear()
            await self.news.wait()

    async def acknowledge(self, front_door: str, incarnation: int, sequence: int) -> None:
        self.acknowledged.append(sequence)

    async def submit(self, front_door: str, dispatch: int, packed: bytes, budget_ms: int | None) -> None:
        self.calls.append(("submit", front_door, dispatch, unpack(packed), budget_ms))

    async def cancel(self, event: Cancel) -> None:
        self.calls.append(("cancel", event))


class EchoWorker:
    """A worker of one stage without an engine: the prefill one says a prompt's first token, the decode one the rest.

    It answers any front door, and tells its own report with every item, every 50 ms at least.
    """

    def __init__(self, worker_id: str, incarnation: int) -> None:
        self.worker = WorkerRef(worker_id, incarnation)
        self.outputs: list[RequestOutput] = []
        self.sequence = 0
        self.openings = 0
        self.dispatches = 0
        self.cancelled: list[str] = []
        self.news = asyncio.Event()

    def pid(self) -> int:
        return os.getpid()

    def cancels(self) -> list[str]:
        return self.cancelled

    def report(self) -> WorkerReport:
        return replace(
            report_of(self.worker, self.sequence), pid=os.getpid(), dispatch_sequence=self.dispatches, draining=False
        )

    async def subscribe(self, front_door: str, incarnation: int, from_sequence: int) -> AsyncIterator[bytes]:
        self.openings += 1
        mine = self.openings
        while mine == self.openings:  # a newer opening ends an older one
            outputs, self.outputs = tuple(self.outputs), []
            self.sequence += 1
            yield pack(
                StreamItem("s", self.sequence, time.monotonic_ns(), self.worker, os.getpid(), self.report(), outputs)
            )
            self.news.clear()
            try:
                await asyncio.wait_for(self.news.wait(), 0.05)
            except TimeoutError:
                continue

    async def acknowledge(self, front_door: str, incarnation: int, sequence: int) -> None:
        pass

    async def submit(self, front_door: str, dispatch: int, packed: bytes, budget_ms: int | None) -> None:
        request: Request = unpack(packed)
        self.dispatches = dispatch
        self.say(
            RequestOutput(
                request.request_id,
                request.attempt,
                0,
                request.prompt[:1],
                marks=(Mark(MarkKind.FIRST_TOKEN, time.monotonic_ns()),),
            )
        )
        assert request.handoff_to is not None
        if request.request_id.startswith("echo"):
            decode = ray.get_actor(actor_name("test", request.handoff_to.worker_id), namespace=NAMESPACE)
            await asyncio.sleep(0.1)  # a hand-off takes longer than the way of the first token
            await decode.decode.remote(request)

    async def decode(self, request: Request) -> None:
        for index in range(1, len(request.prompt)):
            is_last = index + 1 == len(request.prompt)
            finish = FinishReason.STOP if is_last else None
            self.say(RequestOutput(request.request_id, request.attempt, index, (request.prompt[index],), finish))
            await asyncio.sleep(0.002)

    async def cancel(self, event: Cancel) -> None:
        self.cancelled.append(event.request_id)

    def say(self, output: RequestOutput) -> None:
        self.outputs.append(output)
        self.news.set()


class Directory:
    """The part of a controller that a front door asks."""

    def __init__(self) -> None:
        self.infos: dict[str, WorkerInfo] = {}

    def add(self, info: WorkerInfo) -> None:
        self.infos[info.worker.worker_id] = info

    async def list_workers(self) -> list[WorkerInfo]:
        return list(self.infos.values())
