"""One simulated worker: performs every action of its core on the cost model, the links and the virtual clock.

Steady decode steps are passed over: while nothing but tokens would come of them, their ends are known ahead, and the
core is brought up to date when something else happens (`WorkerCore.skip_steps`). `times` says when their tokens came.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from services.core.actions import (
    Action,
    CloseLink,
    Emit,
    Event,
    OpenLink,
    PeerMessage,
    PostReceive,
    PostSend,
    RequestOutput,
    RunStep,
    SendPeer,
    StepDone,
    Submit,
    Tick,
    WorkerReport,
)
from services.core.batch import ScheduledBatch, StepOutput
from services.core.decision_log import DecisionLog
from services.core.output import Output
from services.core.peer import LinkKey
from services.core.request import WorkerRef
from services.scheduling.host import WorkerCore
from services.sim.body import Body, Use
from services.sim.cost_model import StepShape, shape_of
from services.sim.event_queue import EventQueue
from services.sim.reports import Reporter

TOKEN = 0
"""What the model of a simulated worker samples, always: lengths decide everything, ids nothing."""
LONGEST_WINDOW = 4096
NEVER = 1 << 62
"""Stands for the time at which a token gets through that a partition holds back."""
SOURCE = "runner"


class Links(Protocol):
    """Its end of every link, as `SimLinks` has them."""

    def open(self, me: WorkerRef, key: LinkKey) -> None:
        """Make a link, when its other end does."""

    def post(self, me: WorkerRef, action: PostSend | PostReceive) -> None:
        """Send or receive a part of a hand-off."""

    def step_ended(self, me: WorkerRef) -> None:
        """Parts that waited for a step may go."""

    def close(self, key: LinkKey, reason: str) -> None:
        """Give a link up."""


class Surroundings(Protocol):
    """What a worker reaches."""

    queue: EventQueue
    stream_ns: int

    @property
    def links(self) -> Links:
        """Those of all workers."""

    def tell_peer(self, sender: WorkerRef, to: WorkerRef, message: PeerMessage) -> None:
        """Send a control message."""

    def to_door(self, worker: SimWorker, outputs: Sequence[Output], report: WorkerReport | None, name: str) -> None:
        """Send an item of the worker's stream to a front door."""


class SimWorker:
    """One worker process.

    Attributes:
        times: when the plain tokens of each step reached the front door; entry `base` is the first that is kept.
        steps_done: id of the last step whose results are out.
        alive: False once it was killed.
        spans: (start, end, rows, prompt tokens, steps) of what it computed, where they are asked for.
    """

    def __init__(
        self, number: int, ref: WorkerRef, body: Body, core: WorkerCore, world: Surroundings, log: DecisionLog | None
    ) -> None:
        self.ref, self.number, self.core, self.body = ref, number, core, body
        self.place, self.block_bytes = body.place, body.block_bytes
        self.steps_done = 0
        self.alive = True
        self.use = Use()
        self.times: array[int] = array("q")
        self.spans: list[tuple[int, int, int, int, int]] | None = None
        self._world, self._queue, self._log = world, world.queue, log
        # A log has an entry for every step, and shared cores have no end that is known ahead.
        self.fast = body.fast and log is None and body.cores is None
        self._post: Callable[[Any], None] = lambda action: world.links.post(ref, action)
        self._perform_by: dict[type[Action], Callable[[Any], None]] = {
            Emit: self._emit,
            SendPeer: lambda action: world.tell_peer(ref, action.to, PeerMessage(ref, 0, action.body)),
            PostSend: self._post_send,
            PostReceive: self._post,
            OpenLink: lambda action: world.links.open(ref, action.link),
            CloseLink: lambda action: world.links.close(action.link, action.reason),
        }
        self._version = 0
        self._batch: ScheduledBatch | None = None
        self._shape: StepShape | None = None
        self._started_ns = 0
        self._lag_ns = 0
        self._out_ns = 0
        self._ends: list[int] | None = None
        self._arrivals: array[int] = array("q")
        self._steady = self._passed = 0
        self._end_ns = 0
        self._timer: int | None = None
        self.reporters = {
            door: Reporter(self, self._queue, door, body.pool, body.roles, body.report_ns) for door in body.doors
        }
        self.reporter = self.reporters[body.doors[0]]
        self._timed_step = -1
        self._held: list[Event] | None = None
        self._missed = False
        self._cut_from: int | None = None
        if body.cores is not None:
            body.cores.join(number, body.threads)

    # --- events in ----------------------------------------------------------------------------------------------

    def submit(self, event: Submit) -> None:
        """A front door dispatched a request."""
        self.reporter.until(self._queue.now)
        self.reporters[event.source].dispatches += 1
        self.feed(event)
        for door, reporter in self.reporters.items():
            if door != event.source:
                reporter.soon()

    def feed(self, event: Event) -> None:
        """Something happened."""
        if not self.alive:
            return
        if self._held is not None:
            self._held.append(event)
            return
        now = self._queue.now
        self.reporter.until(now)
        self.catch_up(now)
        self._handle(event, 0)
        if self._ends is not None:
            self._shorten()

    def _handle(self, event: Event, lag_ns: int) -> None:
        now = self._queue.now
        actions = self.core.handle(now, event)
        if self._log is not None:
            self._log.record(now, event, actions)
        if self.body.check:
            self.core.check()
        batch, perform_by = None, self._perform_by
        if len(self.reporters) > 1:
            actions = sorted(actions, key=_has_no_plain_tokens)
        for action in actions:
            kind = type(action)
            if kind is RunStep:
                batch = action.batch  # type: ignore[union-attr]
            elif lag_ns:
                self._queue.at(now + lag_ns, self._perform_late, action)
            else:
                perform_by[kind](action)
        if batch is not None:
            self._begin(batch)
        self._set_timer()

    def _perform_late(self, action: Action) -> None:
        if self.alive:
            perform = self._post if type(action) is PostSend else self._perform_by[type(action)]
            perform(action)

    def _post_send(self, action: PostSend) -> None:
        if self._out_ns > self._queue.now:  # what the core takes for computed is still in the pipeline
            self._queue.at(self._out_ns, self._perform_late, action)
        else:
            self._post(action)

    def _emit(self, action: Emit) -> None:
        """Plain tokens of fast workers stay here, as a time for each step; what says more goes out, with a report."""
        told: Sequence[Output] = [output for output in action.outputs if type(output) is RequestOutput]
        news = bool(told)
        if len(told) < len(action.outputs):
            if not self.fast:
                told = action.outputs
            elif self._timed_step != self.steps_done:
                self._timed_step = self.steps_done
                self.times.append(self._queue.now + self._world.stream_ns if self._cut_from is None else NEVER)
        if told:
            report = self.reporters[action.destination].news() if news else None
            self._world.to_door(self, told, report, action.destination)

    # --- steps --------------------------------------------------------------------------------------------------

    def _begin(self, batch: ScheduledBatch) -> None:
        """A step begins; where its successors are steady, their ends are computed with it."""
        now, shape = self._queue.now, shape_of(batch)
        self._batch, self._shape, self._started_ns = batch, shape, now
        self._version += 1
        self._ends, self._passed = None, 0
        self.use.peak_blocks = max(self.use.peak_blocks, self.core.blocks_used)
        steady = self.core.steady_steps(TOKEN) if self.fast and not batch.chunks and now >= self._out_ns else 0
        if steady:
            steady = min(steady, LONGEST_WINDOW)
            ends = now + np.cumsum(self.body.cost.decode_ns(shape.rows, shape.context, steady + 1))
            self._arrivals = array("q", (ends + self._world.stream_ns).tobytes())
            self._ends = ends.tolist()
            self._steady, self._lag_ns = steady, 0
            self._plan(self._ends[steady])
            return
        time = self.body.cost.step(shape)
        self._lag_ns = time.lag_ns
        if self.body.cores is None:
            self._plan(now + time.busy_ns)
        else:
            short = all(len(row.token_ids) == 1 for row in batch.chunks)
            self.body.cores.step(self.number, time.busy_ns, short, self._over, self._version)

    def _plan(self, end_ns: int) -> None:
        self._end_ns = end_ns
        self._queue.at(end_ns, self._over, self._version, self.number)

    def _over(self, version: int) -> None:
        """The running step ended."""
        if version != self._version or not self.alive:
            return
        if self._held is not None:  # shared cores computed on while the process was stopped; it says so afterwards
            self._missed = True
            return
        self.reporter.before(self._queue.now)
        self.catch_up(self._queue.now)
        batch, shape = self._batch, self._shape
        assert batch is not None and shape is not None
        now = self._queue.now
        # A pipeline is a queue: no step's results come out of it before those of an earlier one.
        self._out_ns = max(self._out_ns, now + self._lag_ns)
        lag_ns = self._out_ns - now
        step_id = batch.step_id + self._passed
        self._account(1, now)
        self._ends = self._batch = None
        if lag_ns:
            self._queue.at(now + lag_ns, self._results_out, step_id)
        else:
            self._results_out(step_id)
        tokens: tuple[int | None, ...] = (TOKEN,) * shape.rows
        if batch.chunks:
            tokens += tuple([TOKEN if row.sample else None for row in batch.chunks])
        self._handle(StepDone(SOURCE, StepOutput(step_id, tokens)), lag_ns)

    def _results_out(self, step_id: int) -> None:
        self.steps_done = step_id
        self._world.links.step_ended(self.ref)

    def catch_up(self, until_ns: int) -> None:
        """Bring the core to this moment, not later than now: ends of steady steps that are over by then."""
        ends = self._ends
        if ends is None:
            return
        over = bisect_right(ends, until_ns, self._passed, self._steady)
        if over > self._passed:
            self.core.skip_steps(over - self._passed, TOKEN)
            if self._cut_from is None:
                self.times.extend(self._arrivals[self._passed : over])
            else:
                self.times.extend([NEVER] * (over - self._passed))
            self._account(over - self._passed, ends[over - 1])
            self._passed = over
            self.use.peak_blocks = max(self.use.peak_blocks, self.core.blocks_used)

    def _account(self, steps: int, end_ns: int) -> None:
        use, shape = self.use, self._shape
        assert shape is not None
        use.busy_ns += end_ns - self._started_ns
        use.steps += steps
        use.prefill_tokens += shape.tokens
        use.decode_tokens += shape.rows * steps
        if self.spans is not None:
            self.spans.append((self._started_ns, end_ns, shape.rows, shape.tokens, steps))
        self._started_ns = end_ns

    def _shorten(self) -> None:
        """Something happened meanwhile: the steps that were planned may not be steady any more."""
        left = self._steady - self._passed
        steady = min(self.core.steady_steps(TOKEN), left)
        if steady < left:
            assert self._ends is not None
            self._version += 1
            self._steady = self._passed + steady
            self._plan(self._ends[self._steady])

    # --- time ---------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        wake = self.core.next_wake()
        if wake is not None and (self._timer is None or wake < self._timer):
            self._timer = max(wake, self._queue.now)
            self._queue.at(self._timer, self._tick, self._timer)

    def _tick(self, planned: int) -> None:
        if planned != self._timer or not self.alive or self._held is not None:
            return
        self._timer = None
        wake = self.core.next_wake()
        if wake is not None and wake <= self._queue.now:
            self.feed(Tick(self.ref.worker_id))
        else:
            self._set_timer()

    def send_report(self, report: WorkerReport, door: str) -> None:
        """Send an item of its stream that only reports."""
        self._world.to_door(self, (), report, door)

    # --- faults -------------------------------------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Whether it is stopped."""
        return self._held is not None

    def cut_off(self) -> None:
        """Nothing gets from here to the front door."""
        self.catch_up(self._queue.now)
        if self._cut_from is None:
            self._cut_from = len(self.times)

    def reconnect(self) -> None:
        """What was held back gets there now."""
        self.catch_up(self._queue.now)
        if self._cut_from is not None:
            held = len(self.times) - self._cut_from
            self.times[self._cut_from :] = array("q", [self._queue.now]) * held
            self._cut_from = None

    def kill(self) -> None:
        """The process dies."""
        self.catch_up(self._queue.now)
        self.alive = False
        if self.body.cores is not None:
            self.body.cores.leave(self.number)

    def stall(self) -> None:
        """SIGSTOP: the step stands still, events wait."""
        if self._held is not None:
            return
        self.catch_up(self._queue.now)
        self._held = []
        if self._batch is not None and self.body.cores is None:
            end_ns = self._end_ns if self._ends is None else self._ends[self._passed]
            self._version += 1
            self._end_ns = end_ns - self._queue.now  # what is left of it
            self._ends = None

    def wake(self) -> None:
        """SIGCONT: the step goes on, and everything that waited happens now."""
        if self._held is None:
            return
        held, self._held = self._held, None
        if self._batch is not None and self.body.cores is None:
            self._plan(self._queue.now + self._end_ns)
        elif self._missed:
            self._missed = False
            self._over(self._version)
        for event in held:
            self.feed(event)
        self._timer = None
        self._set_timer()


def _has_no_plain_tokens(action: Action) -> bool:
    """What a step says to one of several doors comes behind the plain tokens of the others: these note its time."""
    return type(action) is not Emit or all(type(output) is RequestOutput for output in action.outputs)
