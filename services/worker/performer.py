"""Runs a worker's core on one event loop: feeds it events, performs its actions, keeps its timer."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from services.core.actions import (
    Action,
    CloseLink,
    Emit,
    Event,
    OpenLink,
    PeerMessage,
    PostReceive,
    PostSend,
    RunStep,
    SendPeer,
    Tick,
)
from services.core.batch import ScheduledBatch
from services.core.clock import NS_PER_S, Clock
from services.core.decision_log import DecisionLog
from services.core.output import Output, StepTokens
from services.core.peer import Abort, Ack, Commit, Grant, Offer, PeerBody
from services.core.request import WorkerRef
from services.scheduling.host import WorkerCore

logger = logging.getLogger(__name__)

FAULT_POINT_OF = {Offer: "offered", Grant: "granted", Commit: "committed", Ack: "released", Abort: "aborted"}
"""At which transfer state a message of that type is sent or received, for fault injection."""


class Steps(Protocol):
    """Where batches go."""

    def submit(self, batch: ScheduledBatch) -> None:
        """Queue a batch; StepDone comes back as an event."""


class LinkActions(Protocol):
    """Where link actions go; every post comes back as one event."""

    def open(self, action: OpenLink) -> None:
        """Make a group."""

    def close(self, action: CloseLink) -> None:
        """Condemn a group."""

    def send(self, action: PostSend) -> None:
        """Queue a send."""

    def receive(self, action: PostReceive) -> None:
        """Queue a receive."""


class PeerQueue(Protocol):
    """Where control messages go."""

    def send(self, to: WorkerRef, body: PeerBody) -> None:
        """Queue a message."""


class TokenStreams(Protocol):
    """Where outputs go."""

    def push(self, front_door: str, outputs: tuple[Output, ...]) -> None:
        """Queue outputs."""


class FaultHook(Protocol):
    """Fault injection; does nothing unless armed."""

    def hit(self, point: str, value: int | None = None) -> str | None:
        """A point was passed; the name of the fault that the caller must perform, or None."""


class WorkerPerformer:
    """One worker's core and everything that performs for it.

    Args:
        core: decides.
        log: decision log, or None.
        check: assert every invariant after each event (tests).
    """

    def __init__(
        self,
        core: WorkerCore,
        clock: Clock,
        worker_id: str,
        faults: FaultHook,
        log: DecisionLog | None,
        check: bool,
    ) -> None:
        self.core = core
        self._clock = clock
        self._worker_id = worker_id
        self._faults = faults
        self._log = log
        self._check = check
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None

    def connect(self, steps: Steps, links: LinkActions, peers: PeerQueue, streams: TokenStreams) -> None:
        """Name the parts that perform; they need `feed`, so they are made after this object."""
        self._steps = steps
        self._links = links
        self._peers = peers
        self._streams = streams

    def feed_threadsafe(self, event: Event) -> None:
        """`feed` from another thread; nothing when the loop is gone."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.feed, event)

    def feed(self, event: Event) -> None:
        """Handle an event; one that an action causes at once waits for its turn."""
        self._inbox.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._inbox:
                self._handle(self._inbox.popleft())
        finally:
            self._handling = False
        self._set_timer()

    def _handle(self, event: Event) -> None:
        now = self._clock.now_ns()
        actions = self.core.handle(now, event)
        if self._log is not None:
            self._log.record(now, event, actions)
        if self._check:
            self.core.check()
        if isinstance(event, PeerMessage):
            self._hit(event.body)
        self._perform(actions)

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case RunStep(batch=batch):
                    self._faults.hit("step", batch.step_id)
                    self._steps.submit(batch)
                case Emit():
                    self._emit(action)
                case SendPeer():
                    if self._hit(action.body) != "drop":
                        self._peers.send(action.to, action.body)
                case OpenLink():
                    self._links.open(action)
                case CloseLink():
                    self._links.close(action)
                case PostSend():
                    self._links.send(action)
                case PostReceive():
                    self._links.receive(action)
                case _:
                    raise AssertionError(f"a worker cannot perform {action}")

    def _emit(self, action: Emit) -> None:
        for output in action.outputs:
            if isinstance(output, StepTokens):
                indices: Iterable[int] = output.indices
            else:
                indices = range(output.index, output.index + len(output.token_ids))
            for index in indices:
                self._faults.hit("token", index)
        self._streams.push(action.destination, action.outputs)

    def _hit(self, body: PeerBody) -> str | None:
        point = FAULT_POINT_OF.get(type(body))
        return self._faults.hit(point) if point else None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = self.core.next_wake()
        if wake is not None:
            wait_s = max((wake - self._clock.now_ns()) / NS_PER_S, 0.0005)
            self._timer = self._loop.call_later(wait_s, self.feed, Tick(self._worker_id))
