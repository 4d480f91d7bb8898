"""The life of a request as the front door runs it: place, dispatch, follow, end (architecture section 5)."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    Submit,
    Tick,
    WorkerLost,
    WorkerReport,
)
from services.core.request import Discipline, FinishReason, Request, WorkerRef
from services.router.config import RouterConfig
from services.router.profiles import NoCandidate, Profile
from services.router.view import ClusterView, ViewBuilder

RETRY_AFTER_MS = 1000
"""What a client is told to wait when a worker is missing: about one restart."""


@dataclass(slots=True)
class Running:
    """A request that workers hold.

    Attributes:
        request: as dispatched.
        prefill: worker that computes the prompt.
        decode: worker that decodes; the same process when colocated.
        deadline_ns: on this process's clock.
        decoding: a token came from `decode`.
        begun: output index 0 came; streams of two workers may overtake each other.
        end: the last output, when it came before index 0.
    """

    request: Request
    prefill: WorkerRef
    decode: WorkerRef
    deadline_ns: int | None
    decoding: bool = False
    begun: bool = False
    end: RequestOutput | None = None

    @property
    def workers(self) -> list[WorkerRef]:
        """Every process that may hold something of it."""
        return [self.prefill] if self.prefill == self.decode else [self.prefill, self.decode]


class RequestFlow:
    """All requests of one front door.

    Args:
        front_door: id that workers address outputs to.
        config: placement policies by name.
    """

    def __init__(self, front_door: str, config: RouterConfig) -> None:
        self._front_door = front_door
        self._config = config
        self._profile = Profile(config)
        self._builder = ViewBuilder()
        self._running: dict[str, Running] = {}

    def handle(self, now: int, event: Event) -> list[Action]:
        """One event in, the actions it causes out."""
        match event:
            case Submit():
                return self._submit(now, event)
            case Outputs():
                return self._outputs(event)
            case Cancel():
                return self._cancel(event)
            case WorkerReport():
                replaced = self._builder.report(now, event)
                return self._lost(replaced, "it was replaced") if replaced else []
            case WorkerLost():
                self._builder.lost(event.worker)
                return self._lost(event.worker, event.reason)
            case Tick():
                return self._expire(now)
        raise AssertionError(f"not for the request flow: {event}")

    def _submit(self, now: int, event: Submit) -> list[Action]:
        request = event.request
        view = self._builder.snapshot()
        prefill = self._profile.place(now, view, "prefill", request)
        decode = self._profile.place(now, view, "decode", request)
        for place in (prefill, decode):
            if isinstance(place, NoCandidate):
                return [
                    Reject(request.request_id, "UnavailableError", "NO_WORKERS", str(place), RETRY_AFTER_MS),
                ]
        assert not isinstance(prefill, NoCandidate)
        assert not isinstance(decode, NoCandidate)
        # A worker that hosts both stages decodes its own prompts: there is nothing to hand off.
        target = prefill.worker if "decode" in prefill.report.roles else decode.worker
        sent = replace(
            request,
            front_door=self._front_door,
            handoff_to=None if target == prefill.worker else target,
            discipline=self._discipline(request),
        )
        self._running[request.request_id] = Running(sent, prefill.worker, target, event.deadline_ns)
        self._builder.dispatched(prefill.worker, len(request.prompt))
        self._builder.reserve_decode(target, 1)
        return [Dispatch(prefill.worker, sent)]

    def _discipline(self, request: Request) -> Discipline:
        """Splitwise: long prompts are sent while they are computed, short ones when they are done."""
        least = self._config.early_grant_tokens
        return Discipline.EARLY if least and len(request.prompt) >= least else Discipline.LATE

    def _outputs(self, event: Outputs) -> list[Action]:
        actions: list[Action] = []
        for output in event.outputs:
            running = self._running.get(output.request_id)
            if running is None or output.attempt != running.request.attempt:
                continue
            actions.append(Emit(output.request_id, (output,)))
            if not running.decoding and (event.source == running.decode != running.prefill or output.finish):
                running.decoding = True
                self._builder.reserve_decode(running.decode, -1)
            running.begun = running.begun or output.index == 0
            if output.finish is not None:
                running.end = output
            failed = output.finish not in (None, FinishReason.STOP, FinishReason.LENGTH)
            if running.end is not None and (running.begun or failed):
                actions += self._finished(event.source, running, running.end)
        return actions

    def _finished(self, source: WorkerRef, running: Running, output: RequestOutput) -> list[Action]:
        """Forget a request; one that failed may still hold something on its other worker."""
        del self._running[running.request.request_id]
        if output.finish in (FinishReason.STOP, FinishReason.LENGTH):
            return []
        return self._cancel_remote([worker for worker in running.workers if worker != source], running, output.reason)

    def _cancel(self, event: Cancel) -> list[Action]:
        running = self._drop(event.request_id)
        if running is None:
            return []
        return self._cancel_remote(running.workers, running, event.reason, event.finish)

    def _lost(self, worker: WorkerRef, reason: str) -> list[Action]:
        """A process is gone: its requests end, except those that have their first token and decode elsewhere."""
        actions: list[Action] = []
        for running in list(self._running.values()):
            if worker not in running.workers or (running.decoding and running.begun and worker != running.decode):
                continue
            request_id = running.request.request_id
            self._drop(request_id)
            others = [each for each in running.workers if each != worker]
            message = f"worker {worker.worker_id} was lost ({reason}); send the request again"
            actions.append(Reject(request_id, "UnavailableError", "WORKER_LOST", message, RETRY_AFTER_MS))
            actions += self._cancel_remote(others, running, "worker_lost")
        return actions

    def _expire(self, now: int) -> list[Action]:
        actions: list[Action] = []
        for running in list(self._running.values()):
            if running.deadline_ns is not None and running.deadline_ns <= now:
                request_id = running.request.request_id
                self._drop(request_id)
                stage = "decode" if running.decoding else "prefill"
                actions.append(Reject(request_id, "DeadlineError", "DEADLINE", f"the deadline passed in {stage}"))
                actions += self._cancel_remote(running.workers, running, "deadline", FinishReason.DEADLINE)
        return actions

    def _drop(self, request_id: str) -> Running | None:
        running = self._running.pop(request_id, None)
        if running is not None and not running.decoding:
            self._builder.reserve_decode(running.decode, -1)
        return running

    def _cancel_remote(
        self,
        workers: list[WorkerRef],
        running: Running,
        reason: str,
        finish: FinishReason = FinishReason.CANCELLED,
    ) -> list[Action]:
        return [CancelRemote(worker, running.request.request_id, finish, reason) for worker in workers]

    @property
    def view(self) -> ClusterView:
        """What is known of the workers now."""
        return self._builder.snapshot()

    def next_wake(self) -> int | None:
        """The first deadline."""
        return min((r.deadline_ns for r in self._running.values() if r.deadline_ns is not None), default=None)

    def state(self) -> object:
        """Running requests and the folded view."""
        return {
            "running": {
                request_id: [
                    running.request.attempt,
                    [[ref.worker_id, ref.incarnation] for ref in (running.prefill, running.decode)],
                    running.deadline_ns,
                    running.decoding,
                    running.begun,
                    running.end is not None,
                ]
                for request_id, running in self._running.items()
            },
            "view": self._builder.state(),
        }

    def check(self) -> None:
        """Reservations are those of the running requests."""
        waiting: dict[WorkerRef, int] = {}
        for running in self._running.values():
            if not running.decoding:
                waiting[running.decode] = waiting.get(running.decode, 0) + 1
        self._builder.check(waiting)
