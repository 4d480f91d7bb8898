"""The life of a request as the front door runs it: place, dispatch, follow, move, end (architecture section 5)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from heapq import heappop, heappush

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
from services.core.lookup import CacheResult
from services.core.request import Discipline, FinishReason, Request, WorkerRef
from services.router.config import RouterConfig
from services.router.decision import Decision
from services.router.holding import Holding
from services.router.looking import Looking, offer
from services.router.placing import Placed, Placing
from services.router.profiles import NoCandidate
from services.router.retry import REFUSALS, cancel_remote, count_move, failure, may_move, next_attempt
from services.router.running import GOOD_ENDS, Running
from services.router.view import ClusterView

RETRY_AFTER_MS = 1000
"""What a client is told to wait when a worker is missing: about one restart."""
LOOK_EVERY_NS = NS_PER_S // 2
"""How often silent workers are looked for while requests run."""


class RequestFlow:
    """All requests of one front door; others may look at what it places them by, and never change it.

    Args:
        front_door: id that workers address outputs to.
        config: placement policies by name, and limits of moves.
        block_size: tokens in one KV block.
    """

    def __init__(self, front_door: str, config: RouterConfig, block_size: int) -> None:
        self._front_door = front_door
        self.config = config
        self._block_size = block_size
        self.placing = Placing(front_door, config, block_size)
        self._holding = Holding(config.admission)
        self._running: dict[str, Running] = {}
        self._attempts = 0
        self._looked_ns = 0
        self._awake_since_ns = 0
        self._moves: Counter[str] = Counter()
        self._placements: Counter[str] = Counter()
        self.looking = Looking()
        self._waiting: dict[str, None] = {}  # requests without a worker, those that waited longest first
        self._times: list[tuple[int, str]] = []  # heap of deadlines and ends of waits, and of some that are over

    def handle(self, now: int, event: Event) -> list[Action]:
        """One event in, the actions it causes out."""
        match event:
            case WorkerReport():
                replaced = self.placing.report(now, event)
                actions = self._lost(now, replaced, "it was replaced") if replaced else []
                if self._waiting:
                    actions += self._place_waiting(now)
                return actions + self._take_held(now) if len(self._holding.queue) else actions
            case Outputs():
                return [action for output in event.outputs for action in self._output(now, event.source, output)]
            case Submit():
                return self.looking.start(event) if event.cached else self._submit(now, event)
            case CacheResult():
                return self._looked_up(now, event)
            case Cancel():
                return self._cancel(event)
            case WorkerLost():
                self.placing.lost(event.worker)
                return self._lost(now, event.worker, event.reason)
            case StreamGap():
                return self._gap(now, event.worker)
            case Tick():
                actions = self._expire(now) + self._leave_silent(now)
                return actions + self._take_held(now) if len(self._holding.queue) else actions
        raise AssertionError(f"not for the request flow: {event}")

    def _next_attempt(self) -> int:
        """Attempts are numbered over all requests, so that an id that is used again is told from its former self."""
        self._attempts += 1
        return self._attempts

    def _looked_up(self, now: int, event: CacheResult) -> list[Action]:
        submit = self.looking.take(event.request_id)
        if submit is not None and not event.token_ids:
            return self.looking.placed(event, self._submit(now, submit))
        running = self._running.get(event.request_id)
        actions = self.looking.answer(event, submit is not None, running, self._next_attempt)
        if actions:
            self._drop(event.request_id)
        return actions

    # --- place and dispatch -----------------------------------------------------------------------------------

    def _submit(self, now: int, event: Submit) -> list[Action]:
        if not self._running:
            self._looked_ns = now
        running = Running(event.request, event.deadline_ns, cached=event.cached)
        found = self._place(now, running)
        if isinstance(found, NoCandidate):
            return [Reject(event.request.request_id, "UnavailableError", "NO_WORKERS", str(found), RETRY_AFTER_MS)]
        objectives = self.placing.objectives(event.request)
        name, why = event.request.request_id, self._holding.refusal(running, found.decision, objectives)
        if why is not None:
            return [Reject(name, "OverloadedError", why.reason, why.message, why.retry_after_ms)]
        self._running[name] = running
        self._expect(name, running.deadline_ns)
        self._holding.enter(running)
        if not len(self._holding.queue) and not self._holding.must_wait(found.decision):
            return self._dispatch(now, running, found)
        self._holding.hold(now, running, found.decision, objectives[0])
        return self._take_held(now)

    def _take_held(self, now: int) -> list[Action]:
        """Dispatch those whose turn it is, as long as some worker has little enough to do."""
        actions: list[Action] = []
        while (request_id := self._holding.queue.head()) is not None:
            running = self._running[request_id]
            found = self._place(now, running)
            if isinstance(found, NoCandidate) or self._holding.must_wait(found.decision):
                break
            actions += self._dispatch(now, running, found)
        return actions

    def _place(self, now: int, running: Running, refused: list[WorkerRef] | None = None) -> Placed | NoCandidate:
        avoided = running.failed + self._silent(now)
        return self.placing.place(now, running, running.refused if refused is None else refused, avoided)

    def _dispatch(self, now: int, running: Running, placed: Placed) -> list[Action]:
        request = running.request
        running.attempt = running.attempt or self._next_attempt()
        running.request = replace(
            request,
            front_door=self._front_door,
            attempt=running.attempt,
            handoff_to=None if placed.decode == placed.prefill else placed.decode,
            discipline=self._discipline(request),
        )
        self._waiting.pop(running.request.request_id, None)
        self._holding.dispatched(running)
        self.placing.dispatched(now, running, placed)
        self._placements[placed.path] += 1
        encode = self.placing.spread_images(now, running) if running.request.images else ()
        return [*encode, Dispatch(placed.prefill, running.request, placed.path)]

    def _discipline(self, request: Request) -> Discipline:
        """Splitwise: long prompts are sent while they are computed, short ones when they are done."""
        least = self.config.early_grant_tokens
        return Discipline.EARLY if least and len(request.known_tokens) >= least else Discipline.LATE

    def _place_waiting(self, now: int) -> list[Action]:
        """A worker reported: perhaps one that a request waits for."""
        actions: list[Action] = []
        for running in [self._running[request_id] for request_id in self._waiting]:
            found = self._place(now, running)
            if not isinstance(found, NoCandidate):
                actions += self._dispatch(now, running, found)
        return actions

    # --- follow -----------------------------------------------------------------------------------------------

    def _output(self, now: int, source: WorkerRef, output: RequestOutput) -> list[Action]:
        running = self._running.get(output.request_id)
        if running is None or output.attempt != running.attempt:
            # Late words of a worker that was given up: whatever it still does for this attempt is in vain.
            late = CancelRemote(source, output.request_id, FinishReason.CANCELLED, "stale_attempt", output.attempt)
            return [] if output.finish is not None else [late]
        if may_move(output):
            return self._failed(now, source, running, output)
        if not running.decoding and (source == running.decode or output.finish):
            self.placing.decodes(now, running, source, output)
        if running.owes and source == running.prefill:
            self.placing.computed(now, running, output)
        running.take(output)
        self._holding.counters.output(running.request.tenant, len(output.token_ids))
        actions: list[Action] = [Emit(output.request_id, (output,))]
        if output.finish is not None and output.finish not in GOOD_ENDS:
            self._drop(output.request_id)
            others = [worker for worker in running.workers if worker != source]
            actions += cancel_remote(others, running.request, output.reason)
        elif running.complete:
            self.placing.ended(now, running)
            self._drop(output.request_id)
            return offer(running) + actions  # kept before the front door forgets the request
        return actions

    # --- move -------------------------------------------------------------------------------------------------

    def _failed(self, now: int, source: WorkerRef, running: Running, output: RequestOutput) -> list[Action]:
        """A worker could not do its part."""
        if output.reason in REFUSALS:
            running.refused.append(source)
            if isinstance(self._place(now, running), NoCandidate):
                return self._give_up(running, output, [worker for worker in running.workers if worker != source])
        else:  # which end of a hand-off is to blame is not known
            running.failed += running.workers
        others = [worker for worker in running.workers if worker != source]
        return self._move(now, running, output.reason.lower(), others, output)

    def _lost(self, now: int, worker: WorkerRef, reason: str) -> list[Action]:
        """A process is gone: its requests go on elsewhere, but for those that need it no more."""
        actions: list[Action] = []
        for running in list(self._running.values()):
            if running.needs(worker):
                others = [each for each in running.workers if each != worker]
                message = f"worker {worker.worker_id} was lost ({reason})"
                end = failure(running.request, "WORKER_LOST", message)
                actions += self._move(now, running, "worker_lost", others, end)
        return actions

    def _gap(self, now: int, worker: WorkerRef) -> list[Action]:
        """Tokens of a worker were lost on the way: its requests are computed again from what their clients have."""
        actions: list[Action] = []
        for running in list(self._running.values()):
            if worker in running.workers:
                end = failure(running.request, "STREAM_GAP", f"tokens from {worker.worker_id} were lost on the way")
                actions += self._move(now, running, "stream_gap", running.workers, end)
        return actions

    def _leave_silent(self, now: int) -> list[Action]:
        """Move requests from workers that are stuck, when others can take them."""
        # A front door that was stuck itself has heard nobody, which says nothing about them.
        if now - self._looked_ns > 2 * LOOK_EVERY_NS:
            self._awake_since_ns = now
        self._looked_ns = now
        silent = self._silent(now)
        actions: list[Action] = []
        for running in list(self._running.values()):
            stuck = [worker for worker in silent if running.needs(worker)]
            if not stuck or isinstance(self._place(now, running, running.refused + silent), NoCandidate):
                continue
            running.failed += stuck
            message = f"worker {stuck[0].worker_id} was silent for {self.config.move_silent_s:g} s"
            end = failure(running.request, "WORKER_SILENT", message)
            actions += self._move(now, running, "worker_silent", running.workers, end)
        return actions

    def _silent(self, now: int) -> list[WorkerRef]:
        return self.placing.silent(now, self._awake_since_ns)

    def _move(
        self, now: int, running: Running, reason: str, cancel: list[WorkerRef], end: RequestOutput
    ) -> list[Action]:
        """Give an attempt up and start the next one, or wait for a worker; `end` is the client's if there is none.

        The workers to `cancel` are told first; one that cannot be told now finds out by the attempt number.
        """
        label = count_move(running, reason, self.config)
        if label is None:
            return self._give_up(running, end, cancel)
        self._moves[label] += 1
        actions: list[Action] = list(cancel_remote(cancel, running.request, reason))
        self.placing.release(running)
        running.leave(next_attempt(running, self._next_attempt(), self._block_size))
        found = self._place(now, running)
        if isinstance(found, NoCandidate):
            running.waits_until_ns = now + int(self.config.wait_for_worker_s * NS_PER_S)
            self._waiting[running.request.request_id] = None
            self._expect(running.request.request_id, running.waits_until_ns)
            return actions
        return actions + self._dispatch(now, running, found)

    def _give_up(self, running: Running, end: RequestOutput, cancel: list[WorkerRef]) -> list[Action]:
        """No further attempt: a clean error that may be retried by the client."""
        self._drop(running.request.request_id)
        error = "OverloadedError" if end.reason == "OVERLOADED" else "UnavailableError"
        tried = running.retries + running.continuations
        message = f"{end.message}; it was dispatched {tried} times, send it again" if tried > 1 else end.message
        actions: list[Action] = [Reject(end.request_id, error, end.reason, message, RETRY_AFTER_MS)]
        return actions + list(cancel_remote(cancel, running.request, end.reason.lower()))

    # --- end --------------------------------------------------------------------------------------------------

    def _cancel(self, event: Cancel) -> list[Action]:
        self.looking.forget(event.request_id)
        running = self._drop(event.request_id)
        if running is None:
            return []
        return list(cancel_remote(running.workers, running.request, event.reason, event.finish))

    def _expire(self, now: int) -> list[Action]:
        """End requests whose deadline, or whose time to wait for a worker, is over."""
        actions: list[Action] = []
        for request_id, running in list(self._running.items()):
            if running.deadline_ns is not None and running.deadline_ns <= now:
                self._drop(request_id)
                message = f"the deadline passed in {running.stage}"
                actions.append(Reject(request_id, "DeadlineError", "DEADLINE", message))
                actions += cancel_remote(running.workers, running.request, "deadline", FinishReason.DEADLINE)
            elif running.waits_until_ns is not None and running.waits_until_ns <= now:
                self._drop(request_id)
                message = f"no worker could go on with it ({running.why.replace('_', ' ')}); send it again"
                actions.append(Reject(request_id, "UnavailableError", "NO_WORKERS", message, RETRY_AFTER_MS))
        return actions

    def _drop(self, request_id: str) -> Running | None:
        running = self._running.pop(request_id, None)
        if running is not None:
            self._waiting.pop(request_id, None)
            self.placing.release(running)
            self._holding.leave(running)
        return running

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def view(self) -> ClusterView:
        """What is known of the workers now."""
        return self.placing.view.snapshot()

    @property
    def waits(self) -> bool:
        """A request waits for a worker: the next report may bring one."""
        return bool(self._waiting) or len(self._holding.queue) > 0

    @property
    def moves(self) -> dict[str, int]:
        """Attempts beyond the first, by `retried/<reason>` and `continued/<reason>`."""
        return dict(self._moves)

    @property
    def placements(self) -> dict[str, int]:
        """Dispatches by what was chosen: `handoff`, `colocated`, `local_prefill/<reason>`."""
        return dict(self._placements)

    def explain(self, request_id: str) -> Decision | None:
        """The latest decision about a request; None when there was none, or many others since."""
        return self.placing.decisions.get(request_id)

    def figures(self) -> dict[str, float]:
        """Numbers for metrics; `queue/<priority>` are requests that wait at the front door."""
        queues = {f"queue/{level}": float(count) for level, count in self._holding.queue.depths().items()}
        return {"fairness_jain": self._holding.counters.jain(), **self.placing.figures(), **queues}

    @property
    def holding(self) -> Holding:
        """Who waits at the front door, for metrics."""
        return self._holding

    def next_wake(self) -> int | None:
        """The first deadline, end of a wait, or look for silent workers."""
        if not self._running:
            return None
        look_ns = self._looked_ns + LOOK_EVERY_NS
        while self._times and not self._is_expected(*self._times[0]):
            heappop(self._times)
        return min(look_ns, self._times[0][0]) if self._times else look_ns

    def _expect(self, request_id: str, time_ns: int | None) -> None:
        if time_ns is not None:
            heappush(self._times, (time_ns, request_id))

    def _is_expected(self, time_ns: int, request_id: str) -> bool:
        """Whether a time of the heap still means something."""
        running = self._running.get(request_id)
        return running is not None and time_ns in (running.deadline_ns, running.waits_until_ns)

    def state(self) -> object:
        """Running requests and the folded view."""
        return {
            "running": {request_id: running.state_fields() for request_id, running in self._running.items()},
            **self.placing.state(),
            "holding": self._holding.state(),
            "looking": self.looking.state(),
            "attempts": self._attempts,
            "looked_ns": self._looked_ns,
            "awake_since_ns": self._awake_since_ns,
            "moves": dict(self._moves),
            "placements": dict(self._placements),
        }

    def check(self) -> None:
        """Reservations are those of the running requests; one without workers waits for some."""
        waiting: dict[WorkerRef, int] = {}
        for running in self._running.values():
            placed = running.waits_until_ns is None and not running.held
            assert placed == (running.prefill is not None) == (running.decode is not None)
            assert running.held == (running.request.request_id in self._holding.queue)
            assert (running.waits_until_ns is not None) == (running.request.request_id in self._waiting)
            if running.decode is not None and not running.decoding:
                waiting[running.decode] = waiting.get(running.decode, 0) + 1
        self.placing.view.check(waiting)
