"""One simulated worker: performs every action of its core on the cost model, the links and the virtual clock.

Steady decode steps are passed over: while nothing but tokens would come of them, their ends are known ahead, and the
core is brought up to date when something else happens (`WorkerCore.skip_steps`). The tokens of such steps are not sent
one by one; `times` says when each reached the front door.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
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
    Tick,
    WorkerReport,
)
from services.core.batch import ScheduledBatch, StepOutput
from services.core.decision_log import DecisionLog
from services.core.output import Output, StepTokens
from services.core.request import WorkerRef
from services.scheduling.host import WorkerCore
from services.sim.cores import Cores
from services.sim.cost_model import CostModel, StepShape, shape_of
from services.sim.event_queue import EventQueue
from services.sim.links import SimLinks
from services.sim.network import Place

TOKEN = 0
"""What the model of a simulated worker samples, always: lengths decide everything, ids nothing."""
LONGEST_WINDOW = 4096
SOURCE = "runner"


class Surroundings(Protocol):
    """What a worker reaches."""

    queue: EventQueue
    links: SimLinks
    stream_ns: int

    def tell_peer(self, sender: WorkerRef, to: WorkerRef, message: PeerMessage) -> None:
        """Send a control message."""

    def to_door(self, worker: SimWorker, outputs: Sequence[Output], report: WorkerReport | None) -> None:
        """Send an item of the worker's stream."""


@dataclass(slots=True)
class Use:
    """What a worker did: time in steps, steps, tokens of prompts, decoded tokens, and most blocks in use at once."""

    busy_ns: int = 0
    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    peak_blocks: int = 0


@dataclass(frozen=True, slots=True)
class Body:
    """What a worker's process is made of.

    Attributes:
        pool: launch pool.
        roles: stages of it.
        cost: of its steps.
        block_bytes: KV of one block, over all ranks.
        place: where it is.
        cores: of its host, which it shares; None: it computes on a device of its own.
        threads: cores that a step uses.
        report_ns: longest time without a report.
        fast: pass over steady steps.
        check: assert every invariant after each event.
    """

    pool: str
    roles: tuple[str, ...]
    cost: CostModel
    block_bytes: int
    place: Place
    cores: Cores | None
    threads: int
    report_ns: int
    fast: bool
    check: bool


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
        self.dispatches = 0
        self.alive = True
        self.use = Use()
        self.times: array[int] = array("q")
        self.spans: list[tuple[int, int, int, int, int]] | None = None
        self._world, self._queue, self._log = world, world.queue, log
        # A log has an entry for every step, and shared cores have no end that is known ahead.
        self.fast = body.fast and log is None and body.cores is None
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
        self._report_sequence = 0
        self._reported_ns = 0
        self.last_report: WorkerReport | None = None
        self._held: list[Event] | None = None
        self._missed = False

    # --- events in ----------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Something happened."""
        if not self.alive:
            return
        if self._held is not None:
            self._held.append(event)
            return
        self.catch_up()
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
        batch = None
        for action in actions:
            if type(action) is RunStep:
                batch = action.batch
            elif lag_ns:
                self._queue.at(now + lag_ns, self._perform_late, action)
            else:
                self._perform(action)
        if batch is not None:
            self._begin(batch)
        self._set_timer()

    def _perform_late(self, action: Action) -> None:
        if self.alive:
            self._perform(action, late=True)

    def _perform(self, action: Action, late: bool = False) -> None:
        match action:
            case Emit():
                self._emit(action.outputs)
            case SendPeer():
                self._world.tell_peer(self.ref, action.to, PeerMessage(self.ref, 0, action.body))
            case PostSend() if self._out_ns > self._queue.now and not late:
                # What the core takes for computed is still in the pipeline.
                self._queue.at(self._out_ns, self._perform_late, action)
            case PostSend() | PostReceive():
                self._world.links.post(self.ref, action)
            case OpenLink():
                self._world.links.open(self.ref, action.link)
            case CloseLink():
                self._world.links.close(action.link, action.reason)
            case _:
                raise AssertionError(f"a worker cannot perform {action}")

    def _emit(self, outputs: Sequence[Output]) -> None:
        """Plain tokens of fast workers stay here, as times; whatever says more goes out, with a report."""
        plain = any(isinstance(output, StepTokens) for output in outputs)
        if plain and self.fast:
            self.times.append(self._queue.now + self._world.stream_ns)
            outputs = [output for output in outputs if isinstance(output, RequestOutput)]
            if not outputs:
                return
        news = any(isinstance(output, RequestOutput) for output in outputs)
        self._world.to_door(self, outputs, self.report() if news else None)

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
            self.body.cores.run(self.number, time.busy_ns, self.body.threads, self._over, self._version)

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
        self.catch_up()
        batch, shape = self._batch, self._shape
        assert batch is not None and shape is not None
        # A pipeline is a queue: no step's results come out of it before those of an earlier one.
        self._out_ns = max(self._out_ns, self._queue.now + self._lag_ns)
        lag_ns = self._out_ns - self._queue.now
        step_id = batch.step_id + self._passed
        self._account(1, self._queue.now)
        self._ends = self._batch = None
        if lag_ns:
            self._queue.at(self._queue.now + lag_ns, self._results_out, step_id)
        else:
            self._results_out(step_id)
        tokens = (TOKEN,) * shape.rows + tuple(TOKEN if row.sample else None for row in batch.chunks)
        self._handle(StepDone(SOURCE, StepOutput(step_id, tokens)), lag_ns)

    def _results_out(self, step_id: int) -> None:
        self.steps_done = step_id
        self._world.links.step_ended(self.ref)

    def catch_up(self) -> None:
        """Bring the core to this moment: ends of steady steps that are over by now."""
        ends = self._ends
        if ends is None:
            return
        over = bisect_right(ends, self._queue.now, self._passed, self._steady)
        if over > self._passed:
            self.core.skip_steps(over - self._passed, TOKEN)
            self.times.extend(self._arrivals[self._passed : over])
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

    # --- time and reports ---------------------------------------------------------------------------------------

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

    def keep_reporting(self, _: Any = None) -> None:
        """Report when nothing was reported for the report period."""
        if not self.alive:
            return
        now = self._queue.now
        if self._held is None and (self.last_report is None or now - self._reported_ns >= self.body.report_ns):
            self.catch_up()
            self._world.to_door(self, (), self.report())
        due = max(self._reported_ns, now if self._held is not None else 0) + self.body.report_ns
        self._queue.at(due, self.keep_reporting)

    def report(self) -> WorkerReport:
        """What it says of itself now."""
        self._report_sequence += 1
        self._reported_ns = self._queue.now
        load = self.core.load()
        self.last_report = WorkerReport(
            source=self.ref,
            pid=self.number,
            pool=self.body.pool,
            roles=self.body.roles,
            draining=self.core.draining,
            sequence=self._report_sequence,
            kv_blocks_total=load.kv_blocks_total,
            kv_blocks_used=load.kv_blocks_used,
            kv_blocks_cached=load.kv_blocks_cached,
            queued_prefill_tokens=load.queued_prefill_tokens,
            running_decodes=load.running_decodes,
            context_tokens=load.context_tokens,
            dispatch_sequence=self.dispatches,
            store_address=self.ref.worker_id,
            leases=load.leases,
            transfers=load.transfers,
            tasks=load.tasks,
            stages=self.core.hosted,
            waiting_offers=load.waiting_offers,
            back_pressure=load.back_pressure,
            counters=load.counters,
        )
        return self.last_report

    # --- faults -------------------------------------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Whether it is stopped."""
        return self._held is not None

    def kill(self) -> None:
        """The process dies."""
        self.catch_up()
        self.alive = False

    def stall(self) -> None:
        """SIGSTOP: the step stands still, events wait."""
        if self._held is not None:
            return
        self.catch_up()
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
