"""What front doors are owed and what they ask for: ordered, acknowledged, re-openable streams (protocol section 6)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from services.core.actions import Cancel, FrontDoorLost, Submit, WorkerReport
from services.core.block_news import BlockNews
from services.core.clock import NS_PER_S, Clock, clock_domain
from services.core.door import OTHERS_TOLD_S, Acknowledge, Answer, Call, Dispatched, StreamItem, Subscribe
from services.core.frames import pack_frame
from services.core.output import Output
from services.core.request import WorkerRef
from services.worker.config import WorkerConfig

logger = logging.getLogger(__name__)

MAX_BUFFERED_BYTES = 8 << 20
"""A connection that has this much unsent gets no new item until it is read; outputs wait, up to their own bound."""
MAX_FAILURES = 256
"""Answers of failed calls that are kept for a front door that says them again."""
Feed = Callable[[Submit | Cancel | FrontDoorLost], None]


@dataclass(slots=True, eq=False)
class _Subscription:
    """What one front door process is owed.

    Attributes:
        connection: where it is told; None between two connections.
        opening: counts openings.
        calls: highest number of a call that was taken.
        failures: what the last failed calls were answered with, by their numbers.
        pending: outputs that no item holds yet.
        unacknowledged: frames of items that were made and may have to be sent again, by their sequence.
        flush: when the next item is due.
        news_due: an item is planned because another front door sent a request.
        blocks_told: events of the prefix cache that it was told of; below 0: it gets a snapshot.
    """

    front_door: str
    incarnation: int
    heard_ns: int
    connection: asyncio.WriteTransport | None = None
    opening: int = 0
    sequence: int = 0
    dispatches: int = 0
    calls: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    pending: list[Output] = field(default_factory=list)
    unacknowledged: deque[tuple[int, bytes]] = field(default_factory=deque)
    flush: asyncio.Handle | None = None
    flush_soon: bool = False
    news_due: bool = False
    blocks_told: int = -1

    def set_flush(self, handle: asyncio.Handle | None, soon: bool = False) -> None:
        """Replace the plan for the next item."""
        if self.flush is not None:
            self.flush.cancel()
        self.flush, self.flush_soon = handle, soon


class Subscriptions:
    """All front doors of one worker; made and used on its event loop.

    Args:
        report: makes the worker's report; its argument is the number of the front door's dispatches seen here.
        feed: takes what front doors ask for, and that one is gone, replaced by a new process, or cannot keep up.
        blocks: gives news of the prefix cache since a number of events.
    """

    def __init__(
        self,
        me: WorkerRef,
        config: WorkerConfig,
        clock: Clock,
        report: Callable[[int], WorkerReport],
        feed: Feed,
        blocks: Callable[[int], BlockNews | None] = lambda _: None,
    ) -> None:
        self._me = me
        self._config = config
        self._clock = clock
        self._report = report
        self._feed = feed
        self._blocks = blocks
        self._subscriptions: dict[str, _Subscription] = {}
        self._pid = os.getpid()
        self._clock_domain = clock_domain()
        self._expiry_ns = int(config.subscription_expiry_s * NS_PER_S)

    def __len__(self) -> int:
        return len(self._subscriptions)

    def open(self, hello: Subscribe, connection: asyncio.WriteTransport) -> Line:
        """Go on with the stream from an item on, and begin with a report; the front door's earlier connection ends."""
        subscription = self._subscriptions.get(hello.front_door)
        if subscription is not None and subscription.incarnation != hello.incarnation:
            self._end(subscription, "a new process bears its name")
            subscription = None
        if subscription is None:
            subscription = _Subscription(hello.front_door, hello.incarnation, 0)
            self._subscriptions[hello.front_door] = subscription
        if subscription.connection is not None:
            subscription.connection.abort()
        subscription.connection = connection
        subscription.opening += 1
        subscription.blocks_told = -1  # what was told on the earlier connection may not have been read
        subscription.heard_ns = self._clock.now_ns()
        for sequence, frame in subscription.unacknowledged:
            if sequence >= hello.from_sequence and not connection.is_closing():
                connection.write(frame)
        self._flush(subscription)
        return Line(self, subscription, connection)

    def take(self, subscription: _Subscription, message: object) -> None:
        """What a front door said on its connection.

        Raises:
            ValueError: nothing that a front door says.
        """
        match message:
            case Acknowledge(sequence):
                subscription.heard_ns = self._clock.now_ns()
                while subscription.unacknowledged and subscription.unacknowledged[0][0] <= sequence:
                    subscription.unacknowledged.popleft()
            case Call(number, Dispatched() | Cancel() as body):
                # A call that was taken on an earlier connection, where its answer was lost, is answered alone.
                if number > subscription.calls:
                    subscription.calls = number
                    self._perform(subscription, number, body)
                error = subscription.failures.get(number, "")
                connection = subscription.connection
                if connection is not None and not connection.is_closing():
                    connection.write(pack_frame(Answer(number, error)))
            case _:
                raise ValueError(f"a front door does not say {type(message).__name__}")

    def _perform(self, subscription: _Subscription, number: int, body: Dispatched | Cancel) -> None:
        try:
            if isinstance(body, Dispatched):
                subscription.dispatches = max(subscription.dispatches, body.sequence)
                self._feed(Submit(subscription.front_door, body.request))
                self._tell_others(subscription)
            else:
                self._feed(body)
        except Exception as error:  # a bug that one request hits must not end the streams of all others
            logger.exception("a %s of front door %s failed", type(body).__name__, subscription.front_door)
            subscription.failures[number] = f"{type(error).__name__}: {error}"
            if len(subscription.failures) > MAX_FAILURES:
                del subscription.failures[next(iter(subscription.failures))]

    def _tell_others(self, sender: _Subscription) -> None:
        """Report to the other front doors soon, unless something is planned sooner."""
        for each in self._subscriptions.values():
            if each is not sender and each.connection is not None and not each.flush_soon and not each.news_due:
                each.news_due = True
                each.set_flush(asyncio.get_running_loop().call_later(OTHERS_TOLD_S, self._flush, each))

    def detach(self, subscription: _Subscription, connection: asyncio.WriteTransport) -> None:
        """A connection ended; its subscription lives on until its lease ends."""
        if subscription.connection is connection:
            subscription.connection = None
            subscription.set_flush(None)

    def push(self, front_door: str, outputs: tuple[Output, ...]) -> None:
        """Queue outputs; a front door that is not there, or is too far behind, is lost."""
        subscription = self._subscriptions.get(front_door)
        if subscription is None:
            self._feed(FrontDoorLost(self._me.worker_id, front_door))
            return
        subscription.pending.extend(outputs)
        owed = len(subscription.pending) + len(subscription.unacknowledged)
        if owed > self._config.max_unacknowledged_items:
            self._end(subscription, f"it is {owed} items behind")
        elif not subscription.flush_soon and subscription.connection is not None:
            # Not at once: a step may have more to tell to the same front door, and one item holds it all.
            subscription.set_flush(asyncio.get_running_loop().call_soon(self._flush, subscription), soon=True)

    def _flush(self, subscription: _Subscription) -> None:
        """Send what is pending, a report at least, and plan the next report."""
        connection = subscription.connection
        if connection is None or connection.is_closing():
            return
        later = asyncio.get_running_loop().call_later(self._config.report_every_s, self._flush, subscription)
        subscription.set_flush(later)
        if connection.get_write_buffer_size() <= MAX_BUFFERED_BYTES:
            frame = pack_frame(self._next_item(subscription))
            subscription.unacknowledged.append((subscription.sequence, frame))
            connection.write(frame)

    def _next_item(self, subscription: _Subscription) -> StreamItem:
        subscription.sequence += 1
        subscription.news_due = False
        outputs, subscription.pending = tuple(subscription.pending), []
        return StreamItem(
            subscription=f"{subscription.front_door}#{subscription.opening}",
            sequence=subscription.sequence,
            sent_ns=self._clock.now_ns(),
            worker=self._me,
            pid=self._pid,
            report=self._report_to(subscription),
            outputs=outputs,
            clock_domain=self._clock_domain,
        )

    def _report_to(self, subscription: _Subscription) -> WorkerReport:
        report, news = self._report(subscription.dispatches), self._blocks(subscription.blocks_told)
        if len(self._subscriptions) > 1:
            others = sum([each.dispatches for each in self._subscriptions.values() if each is not subscription])
            report = replace(report, others_dispatched=others)
        if news is None:
            return report
        subscription.blocks_told = news.end
        return replace(report, blocks=news)

    def expire(self) -> None:
        """End the subscriptions of front doors that were silent too long."""
        now = self._clock.now_ns()
        for subscription in list(self._subscriptions.values()):
            if now - subscription.heard_ns > self._expiry_ns:
                self._end(subscription, f"silent for {(now - subscription.heard_ns) / NS_PER_S:.1f} s")

    def close(self) -> None:
        """End every stream."""
        for subscription in self._subscriptions.values():
            subscription.set_flush(None)
            if subscription.connection is not None:
                subscription.connection.close()
        self._subscriptions.clear()

    def _end(self, subscription: _Subscription, reason: str) -> None:
        logger.info("front door %s is lost: %s", subscription.front_door, reason)
        subscription.set_flush(None)
        if subscription.connection is not None:
            subscription.connection.abort()  # what it has not read belongs to nothing any more
            subscription.connection = None
        del self._subscriptions[subscription.front_door]
        self._feed(FrontDoorLost(self._me.worker_id, subscription.front_door))


class Line:
    """One connection of a front door."""

    def __init__(self, owner: Subscriptions, subscription: _Subscription, connection: asyncio.WriteTransport) -> None:
        self._owner = owner
        self._subscription = subscription
        self._connection = connection

    def take(self, message: object) -> None:
        """A message arrived on it.

        Raises:
            ConnectionError: a newer connection took its place; what is still read here was said again there.
            ValueError: nothing that a front door says.
        """
        if self._subscription.connection is not self._connection:
            raise ConnectionResetError("replaced")
        self._owner.take(self._subscription, message)

    def close(self) -> None:
        """It ended."""
        self._owner.detach(self._subscription, self._connection)
