"""Actors that stand for workers and for the controller; in a file that imports little, because each loads it anew."""

import asyncio
import os
from dataclasses import replace
from typing import Any

import ray

from services.core.actions import Cancel, FrontDoorLost, RequestOutput, Submit, WorkerReport
from services.core.clock import WallClock
from services.core.door import Acknowledge, Answer, Call, Dispatched, StreamItem, Subscribe
from services.core.frames import pack_frame
from services.core.request import FinishReason, Request, WorkerRef
from services.core.timeline import Mark, MarkKind
from services.core.wire import NAMESPACE, PeerAddress, WorkerInfo, actor_name
from services.worker.config import WorkerConfig
from services.worker.peer_server import PeerServer
from services.worker.subscriptions import Subscriptions
from tests.unit.frontdoor.reports import report_of


class PlainWorker:
    """The part of a worker that a front door sees; it says what the test tells it to say."""

    def __init__(self, worker_id: str, incarnation: int) -> None:
        self.worker = WorkerRef(worker_id, incarnation)
        self.items: list[StreamItem] = []
        self.opened: list[int] = []
        self.acknowledged: list[int] = []
        self.calls: list[tuple[Any, ...]] = []
        self.connection: asyncio.WriteTransport | None = None
        self.server: PeerServer | None = None
        self.cut = ""

    def pid(self) -> int:
        return os.getpid()

    async def peer_address(self) -> PeerAddress:
        if self.server is None:
            self.server = PeerServer(self.worker, lambda message: None, self)
            await self.server.start("127.0.0.1", (0, 0))
        return PeerAddress(self.worker, self.server.address, self.server.secret)

    def seen(self) -> dict[str, list[Any]]:
        return {"opened": self.opened, "acknowledged": self.acknowledged, "calls": self.calls}

    async def say(self, *sequences: int) -> None:
        for sequence in sequences:
            output = RequestOutput("r1", 1, sequence - 1, (sequence,))
            self.items.append(StreamItem("s", sequence, 0, self.worker, os.getpid(), None, (output,)))
            if self.connection is not None and not self.connection.is_closing():
                self.connection.write(pack_frame(self.items[-1]))

    async def end_streams(self) -> None:
        assert self.connection is not None
        self.connection.abort()

    async def cut_next_call(self, where: str) -> None:
        """Hang up "before" or "after" the next call is taken, without an answer."""
        self.cut = where

    # --- what `PeerServer` asks -----------------------------------------------------------------------------------

    def open(self, hello: Subscribe, connection: asyncio.WriteTransport) -> "PlainWorker":
        self.opened.append(hello.from_sequence)
        self.front_door = hello.front_door
        self.connection = connection
        for item in self.items:
            if item.sequence >= hello.from_sequence:
                connection.write(pack_frame(item))
        return self

    def take(self, message: object) -> None:
        assert self.connection is not None
        if isinstance(message, Acknowledge):
            self.acknowledged.append(message.sequence)
            return
        assert isinstance(message, Call)
        cut, self.cut = self.cut, ""
        if cut == "before":
            raise ConnectionResetError("cut before")
        match message.body:
            case Dispatched(sequence, request, budget_ms):
                self.calls.append(("submit", self.front_door, sequence, request, budget_ms))
            case Cancel() as event:
                self.calls.append(("cancel", event))
        if cut == "after":
            raise ConnectionResetError("cut after")
        self.connection.write(pack_frame(Answer(message.number, "")))

    def close(self) -> None:
        pass


class EchoWorker:
    """A worker of one stage without an engine: the prefill one says a prompt's first token, the decode one the rest.

    Its sockets and subscriptions are a worker's own.
    """

    def __init__(self, worker_id: str, incarnation: int) -> None:
        self.worker = WorkerRef(worker_id, incarnation)
        self.clock = WallClock()
        self.sequence = 0
        self.cancelled: list[str] = []
        self.lost: list[str] = []
        self.taken: list[tuple[str, int]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.server: PeerServer | None = None

    def pid(self) -> int:
        return os.getpid()

    def cancels(self) -> list[str]:
        return self.cancelled

    async def peer_address(self) -> PeerAddress:
        if self.server is None:
            config = WorkerConfig(report_every_s=0.05)
            self.subscriptions = Subscriptions(self.worker, config, self.clock, self.report, self.feed)
            self.server = PeerServer(self.worker, lambda message: None, self.subscriptions)
            await self.server.start("127.0.0.1", (0, 0))
        return PeerAddress(self.worker, self.server.address, self.server.secret)

    def report(self, dispatches: int) -> WorkerReport:
        self.sequence += 1
        found = report_of(self.worker, self.sequence)
        return replace(found, pid=os.getpid(), dispatch_sequence=dispatches, draining=False)

    def feed(self, event: Submit | Cancel | FrontDoorLost) -> None:
        match event:
            case Submit(front_door, request):
                self.taken.append((request.request_id, request.attempt))
                task = asyncio.get_running_loop().create_task(self.prefill(front_door, request))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            case Cancel(request_id=request_id):
                self.cancelled.append(request_id)
            case FrontDoorLost(front_door=front_door):
                self.lost.append(front_door)

    async def prefill(self, front_door: str, request: Request) -> None:
        first = Mark(MarkKind.FIRST_TOKEN, self.clock.now_ns())
        output = RequestOutput(request.request_id, request.attempt, 0, request.prompt[:1], marks=(first,))
        self.subscriptions.push(front_door, (output,))
        assert request.handoff_to is not None
        if request.request_id.startswith("echo"):
            decode = ray.get_actor(actor_name("test", request.handoff_to.worker_id), namespace=NAMESPACE)
            await asyncio.sleep(0.1)  # a hand-off takes longer than the way of the first token
            await decode.decode.remote(front_door, request)

    async def decode(self, front_door: str, request: Request) -> None:
        for index in range(1, len(request.prompt)):
            is_last = index + 1 == len(request.prompt)
            finish = FinishReason.STOP if is_last else None
            tokens = (request.prompt[index],)
            output = RequestOutput(request.request_id, request.attempt, index, tokens, finish)
            self.subscriptions.push(front_door, (output,))
            await asyncio.sleep(0.002)


class Directory:
    """The part of a controller that a front door asks."""

    def __init__(self) -> None:
        self.infos: dict[str, WorkerInfo] = {}

    def add(self, info: WorkerInfo) -> None:
        self.infos[info.worker.worker_id] = info

    async def list_workers(self) -> list[WorkerInfo]:
        return list(self.infos.values())
