"""The simulated front door: hosts the real request flow, and keeps for each client what it read and when."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.core.actions import (
    Action,
    Cancel,
    CancelRemote,
    Dispatch,
    Emit,
    Event,
    Outputs,
    Reject,
    RequestOutput,
    StreamGap,
    Submit,
    Tick,
    WorkerLost,
    WorkerReport,
)
from services.core.decision_log import DecisionLog
from services.core.output import Output, by_request
from services.core.request import Request, WorkerRef
from services.core.slo import Outcome
from services.core.timeline import MarkKind
from services.core.workload import WorkloadRow
from services.frontdoor.stream import GOOD_ENDS, TokenStream
from services.router.flow import RequestFlow
from services.sim.event_queue import REPORTS_FROM, EventQueue
from services.sim.reports import Mailbox
from services.sim.workers import TOKEN, SimWorker

OUTCOMES = {"OverloadedError": Outcome.REJECTED, "DeadlineError": Outcome.DEADLINE}
"""What clients see of errors; all others are errors of the server."""

NO_FAILURE = (None, *GOOD_ENDS)
Item = tuple[SimWorker, tuple[tuple[Output, Sequence[int]], ...], WorkerReport | None]
"""Outputs of a worker, each with the times of the plain tokens that came before it, and its report."""


class Calls(Protocol):
    """What the front door asks of workers."""

    def dispatch(self, to: WorkerRef, request: Request) -> None:
        """Give a request to a worker."""

    def cancel(self, to: WorkerRef, event: Cancel) -> None:
        """Tell a worker that a request is over."""


@dataclass(slots=True, eq=False)
class Client:
    """One request as its client sees it.

    Attributes:
        number: place in the workload.
        sent_ns: when its client sent it.
        row, request: what it asks for.
        times: when each token was read.
        marks: first mark of each kind.
        attempt: the highest that a worker spoke of.
        worker: whose plain tokens it gets; those from entry `start` of its times on are not counted yet.
        index: output index of the first of them.
        ended_ns: when it was over; None while it runs.
    """

    number: int
    sent_ns: int
    row: WorkloadRow
    request: Request
    stream: TokenStream = field(default_factory=TokenStream)
    times: array[int] = field(default_factory=lambda: array("q"))
    marks: dict[MarkKind, int] = field(default_factory=dict)
    events: list[tuple[MarkKind, int, str]] | None = None
    attempt: int = 0
    worker: SimWorker | None = None
    start: int = 0
    index: int = 0
    ended_ns: int | None = None
    outcome: Outcome = Outcome.UNFINISHED
    reason: str = ""

    def follow(self, worker: SimWorker, output: RequestOutput) -> Sequence[int]:
        """Times of the plain tokens before an output that a worker sends now; those after it are counted from here."""
        if output.attempt < self.attempt:
            return ()
        times: Sequence[int] = ()
        if self.worker is worker and output.attempt == self.attempt and output.index > self.index:
            times = worker.times[self.start : self.start + output.index - self.index]
        self.attempt, self.worker, self.start = output.attempt, worker, len(worker.times)
        self.index = output.index + len(output.token_ids)
        return times

    def mark(self, kind: MarkKind, at_ns: int, where: str) -> None:
        """Note something that happened to it."""
        self.marks.setdefault(kind, at_ns)
        if self.events is not None:
            self.events.append((kind, at_ns, where))


class SimDoor:
    """One front door.

    Attributes:
        clients: requests in flight, by id.
        restless: faults may happen, so that the flow may need every client's tokens at any time.

    Args:
        name: its id.
        flow: decides.
        calls: reaches workers.
        mailbox: reports that are read when the flow looks; None: they come as items.
        max_running: requests in flight before new ones are refused.
        ended: told of each request that is over.
        timelines: keep all marks, not only the first of each kind.
    """

    def __init__(
        self,
        name: str,
        flow: RequestFlow,
        queue: EventQueue,
        calls: Calls,
        mailbox: Mailbox | None,
        max_running: int,
        ended: Callable[[Client], None],
        log: DecisionLog | None,
        timelines: bool,
        check: bool,
    ) -> None:
        self.name, self.flow = name, flow
        self.clients: dict[str, Client] = {}
        self.restless = False
        self._queue, self._calls, self._log = queue, calls, log
        self._max_running = max_running
        self._ended = ended
        self._timelines = timelines
        self._check = check
        self._times: Sequence[int] = ()
        self._timer: int | None = None
        self._looking = False
        self._mailbox = mailbox

    # --- clients ------------------------------------------------------------------------------------------------

    def submit(self, client: Client) -> None:
        """A request arrives from its client."""
        request_id, now = client.request.request_id, self._queue.now
        if self._timelines:
            client.events = []
        self.clients[request_id] = client
        client.mark(MarkKind.RECEIVED, now, self.name)
        if len(self.clients) > self._max_running:
            self._end(client, Outcome.REJECTED, "TOO_MANY_REQUESTS")
            return
        self.feed(Submit(self.name, client.request, client.request.deadline_ns(0)))

    def _end(self, client: Client, outcome: Outcome, reason: str) -> None:
        del self.clients[client.request.request_id]
        client.ended_ns, client.outcome, client.reason = self._queue.now, outcome, reason
        client.mark(MarkKind.FINISHED, self._queue.now, self.name)
        self._ended(client)

    # --- workers' streams ---------------------------------------------------------------------------------------

    def item(self, worker: SimWorker, outputs: Sequence[Output], report: WorkerReport | None) -> Item:
        """What a worker says, put together where it says it; the plain tokens before it are looked up."""
        found = []
        for output in outputs:
            times: Sequence[int] = ()
            client = self.clients.get(output.request_id) if isinstance(output, RequestOutput) else None
            if client is not None and isinstance(output, RequestOutput) and worker.fast:
                times = client.follow(worker, output)
            found.append((output, times))
        return worker, tuple(found), report

    def receive(self, item: Item) -> None:
        """An item arrives."""
        worker, found, report = item
        if report is not None:
            if self._mailbox is not None:  # news of a worker's blocks come one after the other
                self._take(self._mailbox.read_of(worker.reporter, self._queue.now))
            self.feed(report)
        for output, times in found:
            if times:
                assert isinstance(output, RequestOutput)
                if self.restless:  # a partition may have held them back until now
                    times = [min(each, self._queue.now) for each in times]
                self._plain(worker, output, times)
            each = (output,) if isinstance(output, RequestOutput) else by_request((output,))
            for told in each:
                if told.marks:
                    self._note_marks(worker, told)
            self.feed(Outputs(worker.ref, each))

    def _note_marks(self, worker: SimWorker, output: RequestOutput) -> None:
        client = self.clients.get(output.request_id)
        if client is not None:
            for mark in output.marks:
                client.mark(mark.kind, mark.at_ns, worker.ref.worker_id)

    def _plain(self, worker: SimWorker, before: RequestOutput, times: Sequence[int]) -> None:
        """Plain tokens that came since the last output, up to the one at `before`."""
        count = len(times)
        tokens = (TOKEN,) * count
        self._times = times
        output = RequestOutput(before.request_id, before.attempt, before.index - count, tokens)
        self._handle(Outputs(worker.ref, (output,)))
        self._times = ()

    def settle(self) -> None:
        """Count every plain token that arrived by now; done before the flow may need to know which a client has."""
        now = self._queue.now
        for client in list(self.clients.values()):
            worker = client.worker
            if worker is None or not worker.alive:
                continue
            worker.catch_up(now)
            known = worker.core.outputs_of(client.request.request_id)
            if known is None or known[0] != client.attempt:
                continue
            times = worker.times[client.start : client.start + max(0, known[1] - client.index)]
            arrived = sum(1 for each in times if each <= now)
            if arrived:
                after = RequestOutput(client.request.request_id, known[0], client.index + arrived, ())
                client.start, client.index = client.start + arrived, client.index + arrived
                self._plain(worker, after, times[:arrived])

    # --- the flow -----------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Let the flow handle an event."""
        if self.restless and not isinstance(event, Submit):
            self.settle()
        if self._mailbox is not None and looks(event):
            self._read()
        self._handle(event)

    def _read(self, _: object = None) -> None:
        """Let the flow have the reports that arrived by now; while a request waits for a worker, each as it arrives."""
        assert self._mailbox is not None
        self._take(self._mailbox.read(self._queue.now))

    def _take(self, reports: Iterable[tuple[int, WorkerReport]]) -> None:
        for at_ns, report in reports:
            for action in self.flow.handle(at_ns, report):
                self._perform(action, self._queue.now)

    def _look_again(self, _: object) -> None:
        """A report arrives that a request may be waiting for."""
        self._looking = False
        self._read()
        self._keep_looking()

    def _keep_looking(self) -> None:
        if self._mailbox is None or self._looking or not self.flow.waits:
            return
        next_ns = self._mailbox.next_ns
        if next_ns is not None:
            self._looking = True
            self._queue.at(max(next_ns, self._queue.now), self._look_again, None, REPORTS_FROM)

    def _handle(self, event: Event) -> None:
        now = self._queue.now
        actions = self.flow.handle(now, event)
        if self._log is not None:
            self._log.record(now, event, actions)
        if self._check:
            self.flow.check()
        for action in actions:
            self._perform(action, now)
        if actions or not isinstance(event, WorkerReport):
            self._set_timer()
        self._keep_looking()

    def _perform(self, action: Action, now: int) -> None:
        match action:
            case Emit():
                self._emit(action, now)
            case Dispatch():
                client = self.clients.get(action.request.request_id)
                if client is not None:
                    kind = MarkKind.DISPATCHED
                    if MarkKind.DISPATCHED in client.marks:
                        kind = MarkKind.CONTINUED if action.request.resume else MarkKind.RETRIED
                    client.mark(kind, now, self.name)
                self._calls.dispatch(action.to, action.request)
            case CancelRemote():
                event = Cancel(self.name, action.request_id, action.finish, action.reason, action.attempt)
                self._calls.cancel(action.to, event)
            case Reject():
                client = self.clients.get(action.request_id)
                if client is not None:
                    self._end(client, OUTCOMES.get(action.error, Outcome.ERROR), action.reason)
            case _:
                raise AssertionError(f"a front door cannot perform {action}")

    def _emit(self, action: Emit, now: int) -> None:
        client = self.clients.get(action.destination)
        if client is None:
            return
        for output in action.outputs:
            assert isinstance(output, RequestOutput), "the flow has no others"
            ready = client.stream.push(output)
            if ready:
                in_order = len(ready) == len(self._times)
                client.times.extend(self._times if in_order else [now] * len(ready))
                client.marks.setdefault(MarkKind.FIRST_TOKEN, now)
        end = client.stream.end
        if end is not None:
            good = end.finish in GOOD_ENDS
            self._end(client, Outcome.OK if good else Outcome.ERROR, "" if good else end.reason)

    def lost(self, worker: WorkerRef, reason: str) -> None:
        """A worker's process is gone."""
        self.feed(WorkerLost(self.name, worker, reason))

    def gap(self, worker: WorkerRef) -> None:
        """Items of a worker's stream were lost."""
        self.feed(StreamGap(self.name, worker))

    def _set_timer(self) -> None:
        wake = self.flow.next_wake()
        if wake is not None and (self._timer is None or wake < self._timer):
            self._timer = max(wake, self._queue.now)
            self._queue.at(self._timer, self._tick, self._timer)

    def _tick(self, planned: int) -> None:
        if planned != self._timer:
            return
        self._timer = None
        wake = self.flow.next_wake()
        if wake is not None and wake <= self._queue.now:
            self.feed(Tick(self.name))
        else:
            self._set_timer()


def looks(event: Event) -> bool:
    """Whether the flow may look at its workers now: it places a request, or looks for those that are silent."""
    if isinstance(event, Outputs):
        return bool([output for output in event.outputs if output.finish not in NO_FAILURE])
    return not isinstance(event, WorkerReport)
