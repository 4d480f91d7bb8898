"""Token streams to front doors: ordered, acknowledged, re-openable sequences of items (protocol section 6)."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from services.core.actions import WorkerReport
from services.core.clock import NS_PER_S, Clock, clock_domain
from services.core.output import Output
from services.core.request import WorkerRef
from services.core.wire import StreamItem
from services.worker.config import WorkerConfig


@dataclass(slots=True, eq=False)
class _Subscription:
    """What one front door process is owed.

    Attributes:
        opening: counts openings; a generator of an earlier one ends.
        pending: outputs that no item holds yet.
        unacknowledged: items that were yielded and may have to be sent again.
    """

    front_door: str
    incarnation: int
    heard_ns: int
    opening: int = 0
    sequence: int = 0
    dispatches: int = 0
    pending: list[Output] = field(default_factory=list)
    unacknowledged: deque[StreamItem] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False


class Subscriptions:
    """All front doors of one worker.

    Args:
        report: makes the worker's report; its argument is the number of the front door's dispatches seen here.
        lost: told when a front door is gone, replaced by a new process, or cannot keep up.
    """

    def __init__(
        self,
        me: WorkerRef,
        config: WorkerConfig,
        clock: Clock,
        report: Callable[[int], WorkerReport],
        lost: Callable[[str], None],
    ) -> None:
        self._me = me
        self._config = config
        self._clock = clock
        self._report = report
        self._lost = lost
        self._subscriptions: dict[str, _Subscription] = {}
        self._pid = os.getpid()
        self._clock_domain = clock_domain()
        self._expiry_ns = int(config.subscription_expiry_s * NS_PER_S)

    def __len__(self) -> int:
        return len(self._subscriptions)

    async def open(self, front_door: str, incarnation: int, from_sequence: int) -> AsyncIterator[StreamItem]:
        """The stream from item `from_sequence` on; an earlier opening of the same front door ends."""
        now = self._clock.now_ns()
        subscription = self._subscriptions.get(front_door)
        if subscription is not None and subscription.incarnation != incarnation:
            self._end(subscription)
            subscription = None
        if subscription is None:
            subscription = _Subscription(front_door, incarnation, now)
            self._subscriptions[front_door] = subscription
        subscription.opening += 1
        subscription.heard_ns = now
        subscription.wake.set()
        opening = subscription.opening
        for item in [item for item in subscription.unacknowledged if item.sequence >= from_sequence]:
            yield item
        while not subscription.closed and subscription.opening == opening:
            subscription.wake.clear()
            if subscription.pending or not await self._wait(subscription):
                if subscription.closed or subscription.opening != opening:
                    return
                yield self._next_item(subscription)

    async def _wait(self, subscription: _Subscription) -> bool:
        """Sleep until something happens (True) or a report is due (False)."""
        try:
            async with asyncio.timeout(self._config.report_every_s):
                await subscription.wake.wait()
        except TimeoutError:
            return False
        return True

    def _next_item(self, subscription: _Subscription) -> StreamItem:
        subscription.sequence += 1
        outputs, subscription.pending = tuple(subscription.pending), []
        item = StreamItem(
            subscription=f"{subscription.front_door}#{subscription.opening}",
            sequence=subscription.sequence,
            sent_ns=self._clock.now_ns(),
            worker=self._me,
            pid=self._pid,
            report=self._report(subscription.dispatches),
            outputs=outputs,
            clock_domain=self._clock_domain,
        )
        subscription.unacknowledged.append(item)
        return item

    def push(self, front_door: str, outputs: tuple[Output, ...]) -> None:
        """Queue outputs; a front door that is not there, or is too far behind, is lost."""
        subscription = self._subscriptions.get(front_door)
        if subscription is None:
            self._lost(front_door)
            return
        subscription.pending.extend(outputs)
        owed = len(subscription.pending) + len(subscription.unacknowledged)
        if owed > self._config.max_unacknowledged_items:
            self._end(subscription)
            return
        subscription.wake.set()

    def acknowledge(self, front_door: str, incarnation: int, sequence: int) -> bool:
        """The front door lives and has every item up to `sequence`; False when it must subscribe anew."""
        subscription = self._subscriptions.get(front_door)
        if subscription is None or subscription.incarnation != incarnation:
            return False
        subscription.heard_ns = self._clock.now_ns()
        while subscription.unacknowledged and subscription.unacknowledged[0].sequence <= sequence:
            subscription.unacknowledged.popleft()
        return True

    def dispatched(self, front_door: str, sequence: int) -> None:
        """A dispatch of this front door arrived here."""
        subscription = self._subscriptions.get(front_door)
        if subscription is not None:
            subscription.dispatches = max(subscription.dispatches, sequence)

    def expire(self) -> None:
        """End the subscriptions of front doors that were silent too long."""
        now = self._clock.now_ns()
        for subscription in list(self._subscriptions.values()):
            if now - subscription.heard_ns > self._expiry_ns:
                self._end(subscription)

    def close(self) -> None:
        """End every stream."""
        for subscription in self._subscriptions.values():
            subscription.closed = True
            subscription.wake.set()
        self._subscriptions.clear()

    def _end(self, subscription: _Subscription) -> None:
        subscription.closed = True
        subscription.wake.set()
        del self._subscriptions[subscription.front_door]
        self._lost(subscription.front_door)
