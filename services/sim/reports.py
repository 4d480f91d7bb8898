"""Reports of simulated workers: sent with news and at the end of every quiet period, or made when someone reads them.

A front door looks at its workers when it places a request, so a report that another one follows before that is never
read. Where nothing can go wrong, quiet periods file no events: the report at the end of the last one is made before
anything changes on its worker, or when the door reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush, heapreplace
from typing import Any, Protocol

from services.core.actions import WorkerReport
from services.core.clock import NS_PER_S
from services.core.door import OTHERS_TOLD_S
from services.core.request import WorkerRef
from services.scheduling.host import WorkerCore
from services.sim.event_queue import REPORTS_FROM, EventQueue

OTHERS_TOLD_NS = int(OTHERS_TOLD_S * NS_PER_S)


class Reporting(Protocol):
    """A worker as its reports see it."""

    ref: WorkerRef
    number: int
    core: WorkerCore
    alive: bool

    @property
    def stalled(self) -> bool:
        """Whether its process is stopped."""

    def catch_up(self, until_ns: int) -> None:
        """Bring the core to this moment."""

    def send_report(self, report: WorkerReport, door: str) -> None:
        """Send an item of its stream that only reports."""


class Reporter:
    """What one worker says of itself to one front door.

    Attributes:
        dispatches: that the front door made here; `others`: that all other ones did.
        last: made last.
        reported_ns: when that was.
        unread: quiet periods' reports that nobody read, with the times they were made at.
        worker: whose they are.

    Args:
        door: whom it tells.
        pool: launch pool.
        roles: stages of it.
        period_ns: longest time without a report.
    """

    def __init__(
        self, worker: Reporting, queue: EventQueue, door: str, pool: str, roles: tuple[str, ...], period_ns: int
    ) -> None:
        self.dispatches = self.others = 0
        self.last: WorkerReport | None = None
        self.reported_ns = 0
        self.unread: list[tuple[int, WorkerReport]] = []
        self.worker = worker
        self._queue, self._door, self._pool, self._roles = queue, door, pool, roles
        self._period_ns, self._sequence, self._blocks_told = period_ns, 0, -1
        self._mailbox: Mailbox | None = None
        self._soon_ns: int | None = None

    @property
    def due_ns(self) -> int:
        """When the quiet period ends that runs now."""
        return self.reported_ns + self._period_ns

    def begin(self, mailbox: Mailbox | None) -> None:
        """The process reports at once, and from now on; reports of quiet periods are read in `mailbox`, or sent."""
        self._mailbox = mailbox
        if mailbox is None:
            self._keep_on()
        else:
            self.worker.send_report(self._make(self._queue.now), self._door)
            mailbox.watch(self)

    def news(self) -> WorkerReport | None:
        """The report that goes out now, beside something else; None: nobody asked for reports."""
        if self.last is None:
            return None
        now = self._queue.now
        self.before(now)
        return self._make(now)

    def before(self, now: int) -> None:
        """Make the report of the last quiet period that ended before `now`; nothing has changed since then."""
        if self._mailbox is not None and self.reported_ns + self._period_ns < now:
            self._make_up(now - 1)

    def until(self, now: int) -> None:
        """The same, of the last one that ended by `now`."""
        if self._mailbox is not None and self.reported_ns + self._period_ns <= now:
            self._make_up(now)

    def _make_up(self, until_ns: int) -> None:
        periods = (until_ns - self.reported_ns) // self._period_ns
        at_ns = self.reported_ns + periods * self._period_ns
        self.worker.catch_up(at_ns)
        self._sequence += periods - 1  # of those that nobody read
        self.unread.append((at_ns, self._make(at_ns)))

    def _keep_on(self, _: Any = None) -> None:
        """Report when nothing was reported for the report period."""
        worker, now = self.worker, self._queue.now
        if not worker.alive:
            return
        if not worker.stalled and (self.last is None or now >= self.due_ns):
            worker.catch_up(now)
            worker.send_report(self._make(now), self._door)
        due_ns = max(self.reported_ns, now if worker.stalled else 0) + self._period_ns
        self._queue.at(due_ns, self._keep_on, None, REPORTS_FROM + worker.number)

    def soon(self) -> None:
        """Another front door sent a request: report it, as the worker's shell does (`OTHERS_TOLD_S`)."""
        self.others += 1
        now = self._queue.now
        if self.last is not None and (self._soon_ns is None or self._soon_ns < now):
            self._soon_ns = now + OTHERS_TOLD_NS
            self._queue.at(self._soon_ns, self._tell_now, self._soon_ns, REPORTS_FROM + self.worker.number)

    def _tell_now(self, planned: int) -> None:
        worker, now = self.worker, self._queue.now
        if not worker.alive or worker.stalled or self.reported_ns > planned - OTHERS_TOLD_NS:
            return  # an item told it meanwhile
        worker.catch_up(now)
        worker.send_report(self._make(now), self._door)

    def _make(self, at_ns: int) -> WorkerReport:
        self._sequence += 1
        self.reported_ns = at_ns
        worker, core = self.worker, self.worker.core
        load, news = core.load(), core.block_news(self._blocks_told)
        self._blocks_told = self._blocks_told if news is None else news.end
        self.last = WorkerReport(
            source=worker.ref,
            pid=worker.number,
            pool=self._pool,
            roles=self._roles,
            draining=core.draining,
            sequence=self._sequence,
            kv_blocks_total=load.kv_blocks_total,
            kv_blocks_used=load.kv_blocks_used,
            kv_blocks_cached=load.kv_blocks_cached,
            queued_prefill_tokens=load.queued_prefill_tokens,
            running_decodes=load.running_decodes,
            context_tokens=load.context_tokens,
            dispatch_sequence=self.dispatches,
            store_address=worker.ref.worker_id,
            leases=load.leases,
            transfers=load.transfers,
            tasks=load.tasks,
            stages=core.hosted,
            waiting_offers=load.waiting_offers,
            back_pressure=load.back_pressure,
            counters=load.counters,
            blocks=news,
            others_dispatched=self.others,
        )
        return self.last


class Mailbox:
    """Reports of quiet periods that a front door has not read.

    Args:
        stream_ns: from a worker to the door.
    """

    def __init__(self, stream_ns: int) -> None:
        self._stream_ns = stream_ns
        self._due: list[tuple[int, int, Reporter]] = []  # heap: no report of a worker arrives before its time here

    def watch(self, reporter: Reporter) -> None:
        """Read the reports of one more worker."""
        heappush(self._due, (reporter.due_ns + self._stream_ns, reporter.worker.number, reporter))

    @property
    def next_ns(self) -> int | None:
        """Nothing arrives before."""
        return self._due[0][0] if self._due else None

    def read_of(self, reporter: Reporter, now: int) -> list[tuple[int, WorkerReport]]:
        """What arrived from one worker by now, and when; its reports build on one another."""
        reporter.until(now - self._stream_ns)
        unread = reporter.unread
        if not unread:
            return []
        stream_ns = self._stream_ns
        arrived = [(made_ns + stream_ns, each) for made_ns, each in unread if made_ns + stream_ns <= now]
        reporter.unread = unread[len(arrived) :]
        return arrived

    def read(self, now: int) -> Iterator[tuple[int, WorkerReport]]:
        """What arrived by now, and when."""
        due = self._due
        while due and due[0][0] <= now:
            _, number, reporter = due[0]
            if not reporter.worker.alive:
                heappop(due)
                continue
            yield from self.read_of(reporter, now)
            next_ns = reporter.unread[0][0] if reporter.unread else reporter.due_ns
            heapreplace(due, (next_ns + self._stream_ns, number, reporter))
