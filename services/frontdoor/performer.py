"""Hosts the router's request flow: feeds it events, performs its actions, and keeps one stream per client's request.

Everything runs on one event loop. The flow decides and is synchronous; what an action sets off (a call to a worker, a
timer) comes back to it as an event.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import Any, Protocol

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
)
from services.core.clock import NS_PER_MS, NS_PER_S, Clock, clock_domain
from services.core.decision_log import DecisionLog
from services.core.door import StreamItem
from services.core.errors import (
    CancelledError,
    DuplicateRequestError,
    InternalError,
    OverloadedError,
    TriptychError,
    UnavailableError,
)
from services.core.lookup import CacheResult, LookupCache, StoreCache
from services.core.output import by_request
from services.core.request import FinishReason, Request, WorkerRef
from services.core.timeline import MarkKind
from services.frontdoor.call import CLIENT_TIMER_NS, Call
from services.frontdoor.client_stream import (
    MAX_PENDING_TOKENS,
    RETRY,
    STOP_STRING,
    ClientStream,
    deadline_error,
    output_error,
    rejection,
)
from services.frontdoor.lookups import Lookups
from services.frontdoor.response_cache import ResponseCache
from services.frontdoor.sampling import MAX_CHOICES, choice_ids
from services.frontdoor.stream import GOOD_ENDS
from services.frontdoor.worker_clocks import WorkerClocks
from services.router.flow import RequestFlow
from services.semcache.gate import Asked
from services.telemetry.requests import RequestMetrics

logger = logging.getLogger(__name__)

DEADLINE_GRACE_NS = 250 * NS_PER_MS
"""The flow ends a late request; this long after the deadline the stream ends even if it did not."""


class WorkerCalls(Protocol):
    """Calls to worker processes. They raise UnavailableError when the process is gone."""

    async def submit(self, to: WorkerRef, dispatch_sequence: int, request: Request, budget_ms: int | None) -> None:
        """Give a request to a worker; the budget is what is left until the client's deadline."""

    async def cancel(self, to: WorkerRef, event: Cancel) -> None:
        """Tell a worker that a request, or its attempts up to a number, are over."""


class Performer:
    """Runs one request flow.

    Args:
        flow: decides.
        calls: reaches workers.
        front_door: id of this front door; the source of local events.
        max_running: requests in flight before new ones are refused.
        log: decision log, or None.
        observer: is told of requests that ended or were refused, or None.
        cache: answers to requests that came before, or None.
    """

    def __init__(
        self,
        flow: RequestFlow,
        calls: WorkerCalls,
        clock: Clock,
        front_door: str,
        max_running: int,
        log: DecisionLog | None = None,
        observer: RequestMetrics | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        self.flow = flow
        self.front_door = front_door
        self.draining = False
        self.lookups = Lookups(
            cache, front_door, clock, self._spawn, self._looked_up, partial(self.submit, hidden=True)
        )
        self._calls = calls
        self._clock = clock
        self._max_running = max_running
        self._log = log
        self._observer = observer
        self._pid = os.getpid()
        self._clocks = WorkerClocks(clock_domain())
        self._streams: dict[str, ClientStream] = {}
        self._dispatches: dict[WorkerRef, int] = {}
        self._inbox: deque[Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what clients do ----------------------------------------------------------------------------------------

    @property
    def num_running(self) -> int:
        """Requests in flight."""
        return len(self._streams)

    def submit(
        self,
        request: Request,
        received_ns: int,
        deadline_ns: int,
        news: asyncio.Event | None = None,
        asked: Asked | None = None,
        call: Call | None = None,
        hidden: bool = False,
    ) -> ClientStream:
        """Take a request in.

        Args:
            news: set when there is something to read.
            asked: what to ask the cache; None: it is not asked.
            call: the client's, which is told its outputs.
            hidden: it is no client's, and no metric tells of it.

        Raises:
            UnavailableError: this front door drains.
            OverloadedError: too many requests are in flight.
            DuplicateRequestError: a request of this id is running.
        """
        try:
            self._check_room(request)
        except TriptychError as error:
            if not hidden:
                self._refused(error.reason)
            raise
        trace_id = call.trace.trace_id if call else ""
        stream = ClientStream(request, deadline_ns, self._abandon, news, asked, trace_id, hidden)
        stream.timeline.add(MarkKind.RECEIVED, received_ns, self.front_door, self._pid)
        if call is not None:
            call.streams.append(stream)
            stream.timeline.add(MarkKind.TOKENIZED, call.tokenized_ns or received_ns, self.front_door, self._pid)
        self._streams[request.request_id] = stream
        wait_s = (deadline_ns + DEADLINE_GRACE_NS - self._clock.now_ns()) / NS_PER_S
        stream.overdue = asyncio.get_running_loop().call_later(max(wait_s, 0.0), self._overdue, stream)
        if asked is not None:
            self.lookups.expect(request.request_id, asked)
        self._feed(Submit(self.front_door, request, deadline_ns, cached=asked is not None))
        return stream

    def _check_room(self, request: Request) -> None:
        if self.draining:
            raise UnavailableError("this front door is stopping; send again", reason="DRAINING", metadata=RETRY.copy())
        if any(name in self._streams for name in choice_ids(request.request_id, MAX_CHOICES)):
            raise DuplicateRequestError(f"request_id {request.request_id} is running; choose another id")
        if len(self._streams) >= self._max_running:
            message = f"{self._max_running} requests are in flight here; send again later"
            raise OverloadedError(message, reason="TOO_MANY_REQUESTS", metadata=RETRY.copy())

    def cancel(self, request_id: str, tenant: str | None = None) -> bool:
        """End all outputs of a running request; they raise CancelledError. False when there is no such request.

        Args:
            tenant: whose request it must be; None: anybody's.
        """
        names = choice_ids(request_id, MAX_CHOICES)
        running = [self._streams[name] for name in names if name in self._streams]
        found = [stream for stream in running if tenant is None or stream.request.tenant == tenant]
        for stream in found:
            error = CancelledError("the request was cancelled by CancelGeneration", reason="CANCEL_GENERATION")
            self._give_up(stream, FinishReason.CANCELLED, error)
        return bool(found)

    def _abandon(self, stream: ClientStream) -> None:
        """The client's call ended, or a stop string ended its output: nobody reads this stream any more."""
        end = stream.tokens.end
        if end is not None and end.reason == STOP_STRING:
            if self._end(stream.request.request_id, None, stream):
                self._feed(Cancel(self.front_door, stream.request.request_id, FinishReason.STOP, STOP_STRING))
        elif self._clock.now_ns() >= stream.deadline_ns - CLIENT_TIMER_NS:
            self._give_up(stream, FinishReason.DEADLINE, deadline_error(stream))
        else:
            self._give_up(stream, FinishReason.CANCELLED, CancelledError("the client went away", reason="CLIENT_GONE"))

    def dispatches(self, worker: WorkerRef) -> int:
        """Requests given to this worker process so far."""
        return self._dispatches.get(worker, 0)

    # --- what workers say ---------------------------------------------------------------------------------------

    def receive(self, item: StreamItem) -> None:
        """One item of a subscription; its marks are brought to this process's clock."""
        offset_ns = self._clocks.offset_ns(item, self._clock.now_ns())
        for output in item.outputs:
            if isinstance(output, RequestOutput) and (stream := self._streams.get(output.request_id)) is not None:
                for mark in output.marks:
                    stream.timeline.add(mark.kind, mark.at_ns + offset_ns, item.worker.worker_id, item.pid)
        outputs = by_request(item.outputs)
        if item.report is not None:
            self._feed(item.report)
            self.lookups.observe(self.flow)
        if outputs:
            self._feed(Outputs(item.worker, outputs))

    def worker_lost(self, worker: WorkerRef, reason: str) -> None:
        """A worker's process is gone or silent."""
        self._clocks.forget(worker)
        self._feed(WorkerLost(self.front_door, worker, reason))

    def items_lost(self, worker: WorkerRef) -> None:
        """Items of a worker were dropped: the requests that it has a part in may miss tokens."""
        self._feed(StreamGap(self.front_door, worker))

    async def close(self) -> None:
        """Stop timers and calls; streams that still run end with an error."""
        for stream in list(self._streams.values()):
            error = UnavailableError("this front door stopped; send again", reason="DRAINING", metadata=RETRY.copy())
            self._give_up(stream, FinishReason.CANCELLED, error)
        if self._timer is not None:
            self._timer.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)  # the cancels above should reach their workers

    # --- the machine --------------------------------------------------------------------------------------------

    def _feed(self, event: Event) -> None:
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
        try:
            actions = self.flow.handle(now, event)
        except Exception:  # a bug of the flow must not end the loop that serves everyone else
            logger.exception("the request flow failed on %s", type(event).__name__)
            if isinstance(event, Submit):
                self._end(event.request.request_id, InternalError(f"request {event.request.request_id} failed"))
            return
        if self._log is not None:
            self._log.record(now, event, actions)
        for action in actions:
            self._perform(action, now)

    def _perform(self, action: Action, now: int) -> None:
        match action:
            case Dispatch():
                self._dispatch(action, now)
            case Emit():
                self._emit(action, now)
            case CancelRemote():
                self._spawn(self._cancel_remote(action))
            case LookupCache():
                self.lookups.look_up(action.request_id, self._streams.get(action.request_id), now)
            case StoreCache():
                self.lookups.keep(action, self._streams.get(action.request_id), now)
            case Reject():
                if not self._is_hidden(action.request_id):
                    self._refused(action.reason)
                self._end(action.request_id, rejection(action))
            case _:
                raise AssertionError(f"a front door cannot perform {action}")

    def _looked_up(self, result: CacheResult) -> None:
        stream = self._streams.get(result.request_id)
        if stream is not None and stream.timeline.at_ns(MarkKind.CACHE_ANSWERED) is None:
            stream.timeline.add(MarkKind.CACHE_ANSWERED, self._clock.now_ns(), self.front_door, self._pid)
        self._feed(result)

    def _dispatch(self, action: Dispatch, now: int) -> None:
        count = self._dispatches[action.to] = self.dispatches(action.to) + 1
        stream = self._streams.get(action.request.request_id)
        if stream is not None:
            stream.timeline.add(stream.dispatch_kind(action.request), now, self.front_door, self._pid)
            stream.decision = self.flow.explain(action.request.request_id)
            stream.dispatch(action.to, action.request)
        self._spawn(self._submit_remote(action, count))

    async def _submit_remote(self, action: Dispatch, count: int) -> None:
        request = action.request
        deadline = request.deadline_unix_ms
        budget_ms = None if deadline is None else max(deadline - self._clock.unix_ms(), 0)
        try:
            await self._calls.submit(action.to, count, request, budget_ms)
        except UnavailableError as error:
            self.worker_lost(action.to, error.message)
        except Exception as error:  # the worker lives but refused: this request's error, not the worker's
            logger.exception("%s did not take request %s", action.to.worker_id, request.request_id)
            end = FinishReason.ERROR
            failed = RequestOutput(request.request_id, request.attempt, 0, (), end, "SUBMIT_FAILED", str(error))
            self._feed(Outputs(action.to, (failed,)))

    async def _cancel_remote(self, action: CancelRemote) -> None:
        try:
            event = Cancel(self.front_door, action.request_id, action.finish, action.reason, action.attempt)
            await self._calls.cancel(action.to, event)
        except UnavailableError as error:
            self.worker_lost(action.to, error.message)
        except Exception:
            logger.exception("%s did not cancel request %s", action.to.worker_id, action.request_id)

    def _emit(self, action: Emit, now: int) -> None:
        stream = self._streams.get(action.destination)
        if stream is None:  # the client went away first
            return
        for output in action.outputs:
            assert isinstance(output, RequestOutput), "the flow tells outputs apart by request"
            if not stream.push(output, now):
                message = f"the client left {MAX_PENDING_TOKENS} tokens unread"
                self._give_up(stream, FinishReason.CANCELLED, OverloadedError(message, reason="SLOW_CLIENT"))
                return
        end = stream.tokens.end
        if end is not None:
            self._end(stream.request.request_id, None if end.finish in GOOD_ENDS else output_error(end))

    # --- ends ---------------------------------------------------------------------------------------------------

    def _overdue(self, stream: ClientStream) -> None:
        self._give_up(stream, FinishReason.DEADLINE, deadline_error(stream))

    def _give_up(self, stream: ClientStream, finish: FinishReason, error: TriptychError) -> None:
        """End a stream from this side and tell the flow; nothing when it ended before."""
        if self._end(stream.request.request_id, error, stream):
            self._feed(Cancel(self.front_door, stream.request.request_id, finish, error.reason))

    def _end(self, request_id: str, error: TriptychError | None, only: ClientStream | None = None) -> bool:
        """Close a stream's books; False when it is not running, or another one of the same id is."""
        stream = self._streams.get(request_id)
        if stream is None or (only is not None and stream is not only):
            return False
        del self._streams[request_id]
        self.lookups.forget(request_id)
        if stream.overdue is not None:
            stream.overdue.cancel()
        if stream.timeline.at_ns(MarkKind.FINISHED) is None:
            stream.timeline.add(MarkKind.FINISHED, self._clock.now_ns(), self.front_door, self._pid)
        if error is not None:
            stream.fail(error)
        if self._observer is not None and not stream.hidden:
            self._observer.ended(stream.ended(error))
        return True

    def _is_hidden(self, request_id: str) -> bool:
        stream = self._streams.get(request_id)
        return stream is not None and stream.hidden

    def _refused(self, reason: str) -> None:
        if self._observer is not None:
            self._observer.refused(reason)

    # --- timer and tasks ----------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = self.flow.next_wake()
        if wake is not None:
            wait_s = max((wake - self._clock.now_ns()) / NS_PER_S, 0.001)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._feed, Tick(self.front_door))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop keeps only weak references
        task.add_done_callback(self._tasks.discard)
