"""The front door's side of token streams: one connection to each live worker, which Ray only introduces.

The controller is asked who lives, but only to learn of new workers: when it is dead or forgetful, subscriptions that
stand go on. A worker is lost when its process dies or its stream is silent too long, never because a list lacks it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError

from services.core.actions import Cancel, LinkRole
from services.core.clock import NS_PER_S, Clock
from services.core.door import Acknowledge, Answer, Call, Dispatched, StreamItem, Subscribe
from services.core.errors import InternalError, UnavailableError
from services.core.frames import pack_frame
from services.core.request import Request, WorkerRef
from services.core.wire import NAMESPACE, LinkProbe, PeerAddress, WorkerInfo, actor_name
from services.frontdoor.worker_channel import WorkerChannel

logger = logging.getLogger(__name__)

LIST_EVERY_S = 0.5
LIST_TIMEOUT_S = 2.0
ACKNOWLEDGE_EVERY_S = 1.0
CONNECT_S = 5.0
RECONNECT_PAUSE_S = 0.02
LOOK_PAUSE_S = 0.1


class WorkerDirectory(Protocol):
    """Who knows the live workers: the controller, or what stands for it."""

    async def list_workers(self) -> list[WorkerInfo]:
        """All workers that are ready."""


class Sink(Protocol):
    """Who takes what the workers say: the performer."""

    def receive(self, item: StreamItem) -> None:
        """An item, in order, once."""

    def worker_lost(self, worker: WorkerRef, reason: str) -> None:
        """A worker that had spoken is gone or silent."""

    def items_lost(self, worker: WorkerRef) -> None:
        """A worker dropped items for us."""


class LostError(Exception):
    """A subscription ended; the message says why."""


@dataclass(slots=True)
class _Call:
    """What the worker has not answered yet."""

    frame: bytes
    answer: asyncio.Future[None]


class Subscription:
    """One worker process: the connection to it, the place in its stream, and the heartbeat that keeps the lease.

    A connection that breaks is made anew while Ray says that the process lives. The stream goes on where it stopped,
    and calls without an answer are said again: the worker knows them by their numbers and takes each once.

    Attributes:
        worker: which process.
        actor: Ray handle; tells where the worker listens.
        next_sequence: number of the item that comes next.
        has_spoken: an item came over this subscription.
    """

    def __init__(self, owner: Subscriptions, worker: WorkerRef, actor: Any, next_sequence: int) -> None:
        self.worker = worker
        self.actor = actor
        self.next_sequence = next_sequence
        self.has_spoken = False
        self._owner = owner
        self._heard_ns = owner.clock.now_ns()
        self._channel: WorkerChannel | None = None
        self._heard_here = False
        self._calls: dict[int, _Call] = {}

    async def run(self) -> str:
        """Read until the worker is lost; return why."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._keep())]
        reason = "this front door stops"
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            reason = "; ".join(first_line(error) for task in done if (error := task.exception()))
            return reason
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for call in self._calls.values():
                if not call.answer.done():
                    call.answer.set_exception(UnavailableError(f"{self.worker.worker_id} is lost: {reason}"))

    def call(self, body: Dispatched | Cancel) -> asyncio.Future[None]:
        """Say it now, or on the next connection; the answer is that the worker took it.

        Raises:
            ValueError: it is longer than a frame may be.
            UnavailableError: (the answer) the worker was lost first, so it may have taken it or not.
            InternalError: (the answer) the worker failed on it.
        """
        number = self._owner.next_call()
        made = _Call(pack_frame(Call(number, body)), asyncio.get_running_loop().create_future())
        self._calls[number] = made
        if self._channel is not None:
            self._channel.write(made.frame)
        return made.answer

    async def _read(self) -> None:
        """Connect again and again, and read the stream from where it stopped."""
        while True:
            try:
                channel = await self._connect()
                try:
                    self._channel, self._heard_here = channel, False
                    for call in self._calls.values():
                        channel.write(call.frame)
                    while True:
                        self._hear(await channel.read())
                finally:
                    self._channel = None
                    channel.close()
            except OSError as error:  # our lease had run out, it is stopping, or the network broke
                logger.info("the connection to %s ended: %s", self.worker.worker_id, first_line(error))
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _connect(self) -> WorkerChannel:
        """Ask Ray, which knows whether the process lives, where it listens, and go there."""
        try:
            at: PeerAddress = await self.actor.peer_address.remote()
        except RayActorError as error:
            raise LostError(f"its process died: {first_line(error)}") from error
        self._check(at.worker)
        owner = self._owner
        hello = Subscribe(self.worker, owner.front_door, owner.incarnation, self.next_sequence)
        async with asyncio.timeout(CONNECT_S):
            return await WorkerChannel.connect(at, hello)

    def _check(self, worker: WorkerRef) -> None:
        if worker != self.worker:
            raise LostError(f"another process answers to its name, incarnation {worker.incarnation:x}")

    def _hear(self, message: StreamItem | Answer) -> None:
        if isinstance(message, StreamItem):
            self._take(message)
            return
        call = self._calls.pop(message.number, None)
        if call is None or call.answer.done():
            return
        if message.error:
            call.answer.set_exception(InternalError(f"{self.worker.worker_id} failed: {message.error}"))
        else:
            call.answer.set_result(None)

    def _take(self, item: StreamItem) -> None:
        self._check(item.worker)
        self._heard_ns = self._owner.clock.now_ns()
        is_first, self._heard_here = not self._heard_here, True
        if item.sequence != self.next_sequence:
            if not is_first and item.sequence < self.next_sequence:
                return  # sent twice
            logger.warning("%s went from item %d to %d", self.worker, self.next_sequence - 1, item.sequence)
            if self.has_spoken:
                self._owner.sink.items_lost(self.worker)
        self.has_spoken = True
        self.next_sequence = item.sequence + 1
        self._owner.sink.receive(item)

    async def _keep(self) -> None:
        """Acknowledge what was read, which also renews the lease; give up when the worker says nothing."""
        owner = self._owner
        while True:
            await asyncio.sleep(min(ACKNOWLEDGE_EVERY_S, owner.worker_lost_s / 4))
            silent_s = (owner.clock.now_ns() - self._heard_ns) / NS_PER_S
            if silent_s > owner.worker_lost_s:
                raise LostError(f"it was silent for {silent_s:.1f} s")
            if self._channel is not None:
                # A worker that began anew counts from 1: until it has spoken here, our place may not be its.
                self._channel.write(pack_frame(Acknowledge(self.next_sequence - 1 if self._heard_here else 0)))


class Subscriptions:
    """Subscriptions to all live workers, and the calls that go the other way (`WorkerCalls` of performer.py).

    Args:
        cluster_id: prefix of the workers' actor names.
        front_door: id of this front door.
        incarnation: of this process.
        directory: who knows the live workers.
        worker_lost_s: silence after which a worker counts as lost.
    """

    sink: Sink

    def __init__(
        self,
        cluster_id: str,
        front_door: str,
        incarnation: int,
        directory: WorkerDirectory,
        worker_lost_s: float,
        clock: Clock,
    ) -> None:
        self.front_door = front_door
        self.incarnation = incarnation
        self.worker_lost_s = worker_lost_s
        self.clock = clock
        self._cluster_id = cluster_id
        self._directory = directory
        self._live: dict[str, Subscription] = {}
        self._tasks: dict[WorkerRef, asyncio.Task[None]] = {}
        self._places: dict[str, tuple[WorkerRef, int]] = {}
        self._look = asyncio.Event()
        self._directory_failed = False
        self._call_numbers = itertools.count(1)

    async def run(self, sink: Sink) -> None:
        """Follow the directory until cancelled; then end all subscriptions."""
        self.sink = sink
        try:
            while True:
                self._look.clear()
                for info in await self._list():
                    if info.worker not in self._tasks:
                        self._tasks[info.worker] = asyncio.create_task(self._follow(info.worker))
                try:
                    async with asyncio.timeout(LIST_EVERY_S):
                        await self._look.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(LOOK_PAUSE_S)  # a lost worker's successor is not there within microseconds
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def submit(self, to: WorkerRef, dispatch_sequence: int, request: Request, budget_ms: int | None) -> None:
        """Give a request to a worker.

        Raises:
            UnavailableError: the process is gone.
        """
        await self._subscription(to).call(Dispatched(dispatch_sequence, request, budget_ms))

    async def cancel(self, to: WorkerRef, event: Cancel) -> None:
        """Tell a worker that a request, or its attempts up to a number, are over.

        Raises:
            UnavailableError: the process is gone.
        """
        await self._subscription(to).call(event)

    async def probe_link(
        self, worker: WorkerRef, role: LinkRole, name: str, store_address: str, payload_bytes: int
    ) -> LinkProbe:
        """Let a worker take one end of a probe.

        Raises:
            UnavailableError: the process is gone.
        """
        actor = self._subscription(worker).actor
        try:
            found: LinkProbe = await actor.probe_link.remote(role, name, store_address, payload_bytes)
        except RayActorError as error:
            raise UnavailableError(f"{worker.worker_id} died: {first_line(error)}") from error
        return found

    def next_call(self) -> int:
        """The number of a new call; they grow over all workers, and over subscriptions to the same worker."""
        return next(self._call_numbers)

    def _subscription(self, to: WorkerRef) -> Subscription:
        subscription = self._live.get(to.worker_id)
        if subscription is None or subscription.worker != to:
            raise UnavailableError(f"{to.worker_id} is gone")
        return subscription

    async def _list(self) -> list[WorkerInfo]:
        """Who the directory says is live; nobody new while it does not answer."""
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                infos = await self._directory.list_workers()
        except Exception as error:  # whatever fails there must not disturb what stands here
            if not self._directory_failed:
                logger.warning("the controller does not answer; going on with known workers: %s", first_line(error))
            self._directory_failed = True
            return []
        self._directory_failed = False
        return infos

    async def _follow(self, worker: WorkerRef) -> None:
        """One worker from its first listing to its loss."""
        subscription = None
        reason = ""
        try:
            name = actor_name(self._cluster_id, worker.worker_id)
            actor = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
            known, place = self._places.get(worker.worker_id, (worker, 1))
            subscription = Subscription(self, worker, actor, place if known == worker else 1)
            self._live[worker.worker_id] = subscription
            reason = await subscription.run()
        except ValueError:
            logger.debug("%s is listed but has no actor", worker.worker_id)
        finally:
            del self._tasks[worker]
            if subscription is not None:
                self._places[worker.worker_id] = (worker, subscription.next_sequence)
                if self._live.get(worker.worker_id) is subscription:
                    del self._live[worker.worker_id]
        if subscription is not None and subscription.has_spoken:
            logger.warning("lost %s: %s", worker.worker_id, reason)
            self.sink.worker_lost(worker, reason)
            self._look.set()


def first_line(error: BaseException) -> str:
    """The start of Ray's long messages."""
    return (str(error) or type(error).__name__).splitlines()[0]
