"""A request flow that does as its requests' names say, and workers that answer without a process."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

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
from services.core.clock import NS_PER_S
from services.core.door import StreamItem
from services.core.errors import UnavailableError
from services.core.request import FinishReason, Request, WorkerRef
from services.core.timeline import Mark, MarkKind
from services.frontdoor.performer import Performer
from tests.unit.frontdoor.reports import report_of

PREFILL = WorkerRef("prefill-0", 11)
DECODE = WorkerRef("decode-0", 22)
BOTH = (PREFILL, DECODE)


class FakeFlow:
    """Dispatches to `prefill-0` with a hand-off to `decode-0`; a request named `reject.<Error>` is rejected with it.

    Attributes:
        events: everything that was handled.
        wake: what `next_wake` says.
        scripted: actions for a StreamGap.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.wake: int | None = None
        self.scripted: list[Action] = []
        self.workers: dict[str, SimpleNamespace] = {}
        self.sent_to: dict[str, WorkerRef] = {}
        self.placements = {"handoff": 3}
        self.moves = {"retried/worker_lost": 1}

    @property
    def view(self) -> SimpleNamespace:
        """The last reports."""
        return SimpleNamespace(workers=self.workers)

    def explain(self, request_id: str) -> None:
        """It predicts nothing."""

    def figures(self) -> dict[str, float]:
        """And learns nothing."""
        return {}

    def next_wake(self) -> int | None:
        """As the test set it."""
        return self.wake

    def of(self, kind: type) -> list[Event]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def handle(self, now: int, event: Event) -> list[Action]:
        """The smallest flow that uses every action."""
        self.events.append(event)
        match event:
            case Submit():
                return self._submit(event.request)
            case Outputs():
                return [Emit(output.request_id, (output,)) for output in event.outputs]
            case Cancel():
                to = self.sent_to.get(event.request_id)
                return [] if to is None else [CancelRemote(to, event.request_id, event.finish, event.reason)]
            case WorkerReport():
                self.workers[event.source.worker_id] = SimpleNamespace(report=event, reported_ns=now)
            case WorkerLost():
                self.workers.pop(event.worker.worker_id, None)
                lost = [name for name, to in self.sent_to.items() if to == event.worker]
                return [Reject(name, "UnavailableError", "WORKER_LOST", "its worker died", 500) for name in lost]
            case StreamGap():
                return self.scripted
            case Tick():
                self.wake = None
        return []

    def _submit(self, request: Request) -> list[Action]:
        kind, _, name = request.request_id.partition(".")
        if kind == "reject":
            return [Reject(request.request_id, name, "SOME_REASON", "because", 1500)]
        if kind == "bug":
            raise ZeroDivisionError("a bug of the flow")
        if kind == "queue":
            return []
        self.sent_to[request.request_id] = PREFILL
        return [Dispatch(PREFILL, request)]


@dataclass
class FakeWorkers:
    """Answers to calls. A request named `echo.*` gets its prompt back, `hang.*` one token and silence, and so on.

    `step.*` gets its prompt back token by token; what has another name is an echo.

    Attributes:
        submitted: (worker, dispatch sequence, request, budget in ms).
        cancelled: (worker, request id, finish, reason).
        age_ns: age of marks when their item is sent.
    """

    performer: Performer | None = None
    submitted: list[tuple[WorkerRef, int, Request, int | None]] = field(default_factory=list)
    cancelled: list[tuple[WorkerRef, str, FinishReason, str]] = field(default_factory=list)
    sequence: int = 0
    age_ns: int = 0
    answers: set[asyncio.Task[None]] = field(default_factory=set)

    def now_ns(self) -> int:
        """The workers' clock, which is not the front door's."""
        assert self.performer is not None
        return self.performer._clock.now_ns() + NS_PER_S

    async def submit(self, to: WorkerRef, dispatch_sequence: int, request: Request, budget_ms: int | None) -> None:
        """Take a request, or fail as its name says."""
        self.submitted.append((to, dispatch_sequence, request, budget_ms))
        kind = request.request_id.partition(".")[0]
        if kind == "gone":
            raise UnavailableError(f"{to.worker_id} died")
        if kind == "refuse":
            raise ValueError("bad request")
        task = asyncio.create_task(self.answer(kind, request))
        self.answers.add(task)
        task.add_done_callback(self.answers.discard)

    async def cancel(self, to: WorkerRef, event: Cancel) -> None:
        """Note the cancel."""
        self.cancelled.append((to, event.request_id, event.finish, event.reason))

    async def answer(self, kind: str, request: Request) -> None:
        """Tokens in the order in which two workers may send them."""
        name, ids = request.request_id, request.prompt
        if kind == "silent":
            return
        if kind == "hang":
            self.say(PREFILL, RequestOutput(name, request.attempt, 0, ids[:1]))
        elif kind == "error":
            self.say(PREFILL, RequestOutput(name, request.attempt, 0, ids[:1]))
            self.say(
                DECODE,
                RequestOutput(name, request.attempt, 1, (), FinishReason.ERROR, "HANDOFF_FAILED", "the link broke"),
            )
        elif kind == "late":
            self.say(DECODE, RequestOutput(name, request.attempt, 0, (), FinishReason.DEADLINE, "DEADLINE"))
        elif kind == "step":
            await self.step(request)
        elif kind == "flood":
            self.say(PREFILL, RequestOutput(name, request.attempt, 0, ids[:1] * 5000))
        else:
            self.say(DECODE, RequestOutput(name, request.attempt, 1, ids[1:], FinishReason.STOP))
            await asyncio.sleep(0)
            mark = Mark(MarkKind.FIRST_TOKEN, self.now_ns() - self.age_ns)
            self.say(PREFILL, RequestOutput(name, request.attempt, 0, ids[:1], cached_tokens=16, marks=(mark,)))

    async def step(self, request: Request) -> None:
        """The prompt back, one token in an item, the first from the prefill worker."""
        last = len(request.prompt) - 1
        for index, token_id in enumerate(request.prompt):
            finish = FinishReason.STOP if index == last else None
            self.say(
                DECODE if index else PREFILL,
                RequestOutput(request.request_id, request.attempt, index, (token_id,), finish),
            )
            await asyncio.sleep(0)

    def say(self, worker: WorkerRef, *outputs: RequestOutput) -> None:
        """One item of a worker's stream."""
        assert self.performer is not None
        self.sequence += 1
        item = StreamItem("s", self.sequence, self.now_ns(), worker, worker.incarnation, None, outputs)
        self.performer.receive(item)

    def report(self, *workers: WorkerRef, draining: bool = False) -> None:
        """Items with reports alone."""
        assert self.performer is not None
        for worker in workers:
            self.sequence += 1
            found = report_of(worker, self.sequence, draining)
            self.performer.receive(StreamItem("s", self.sequence, self.now_ns(), worker, worker.incarnation, found, ()))
