"""One running request between the performer, which fills it, and the handler of its client's call, which reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.core import errors
from services.core.actions import Reject, RequestOutput
from services.core.batch import TokenLogprob
from services.core.errors import (
    CancelledError,
    DeadlineError,
    DuplicateRequestError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    PromptTooLongError,
    TriptychError,
    UnavailableError,
)
from services.core.request import FinishReason, Request, WorkerRef
from services.core.timeline import MarkKind, Timeline
from services.frontdoor.stream import TokenStream
from services.router.decision import Decision
from services.semcache.gate import Asked
from services.telemetry.requests import RequestEnd

MAX_PENDING_TOKENS = 4096
"""Tokens that may wait for a client that does not read; above it the request is ended."""
STOP_STRING = "STOP_STRING"
"""Reason of an output that the front door ended."""
RETRY = {"retry_after_ms": "1000"}
"""What a client is told to wait when nothing better is known."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of a request.

    Attributes:
        index: place of the first id in the output.
        finish: why the output ended, on the last chunk; else None.
        logprobs: one item for each of `token_ids`, when they were asked for.
        prompt_logprobs: with index 0, when they were asked for: of the prompt's tokens from the second on.
    """

    index: int
    token_ids: tuple[int, ...]
    finish: FinishReason | None
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


class ClientStream:
    """One running request, as the handler of its client's call reads it.

    Args:
        abandon: called when the client's call is over.
        news: set when there is something to read; one reader may wait for several streams with it.

    Attributes:
        request: as the client asked for it.
        deadline_ns: the client's deadline on this process's monotonic clock.
        timeline: what happened to it so far.
        tokens: the outputs in order.
        workers: every worker that was given a part of it.
        overdue: timer that ends the stream after its deadline.
        cache: what the cache had: exact, semantic or miss.
        decision: the placement of its last attempt, where times were predicted.
        looking: whether the cache may still have something.
        asked: what to ask the cache; None: it is not asked.
        trace_id: of the client's call, "" where there is none.
        hidden: no client's, so that no metric tells of it.
    """

    def __init__(
        self,
        request: Request,
        deadline_ns: int,
        abandon: Callable[[ClientStream], None],
        news: asyncio.Event | None = None,
        asked: Asked | None = None,
        trace_id: str = "",
        hidden: bool = False,
    ) -> None:
        self.request = request
        self.deadline_ns = deadline_ns
        self.timeline = Timeline()
        self.tokens = TokenStream()
        self.workers: list[WorkerRef] = []
        self.overdue: asyncio.TimerHandle | None = None
        self.cache = "miss"
        self.decision: Decision | None = None
        self.looking = False
        self.asked = asked
        self.trace_id = trace_id
        self.hidden = hidden
        self._abandon = abandon
        self._pending: list[int] = []
        self._read_index = 0
        self._error: TriptychError | None = None
        self._news = news or asyncio.Event()

    async def dispatched(self) -> None:
        """Wait until a worker, or the cache, has the request.

        Raises:
            TriptychError: it was rejected or ended before.
        """
        while not self.workers and not self.ready:
            await self._wait()
        if not self.workers and self._error is not None:
            raise self._error

    async def looked_up(self) -> None:
        """Wait until it is known whether the cache answers this request."""
        while self.looking and not self.ready:
            await self._wait()

    def found(self, tier: str, looking: bool = False) -> None:
        """Note what the cache had, and whether it still looks; what came first from a worker stays a miss."""
        if not self.ready and not self.tokens.next_index:
            self.cache = tier or "miss"
        self.looking = looking
        self._news.set()

    @property
    def ready(self) -> bool:
        """Whether there are new tokens, or the end."""
        return bool(self._pending) or self.tokens.end is not None or self._error is not None

    async def next(self) -> Chunk:
        """Wait for new tokens or the end, then `take` them."""
        while not self.ready:
            await self._wait()
        return self.take()

    def take(self) -> Chunk:
        """New tokens or the end, which must be there; tokens that came together are given together.

        Raises:
            TriptychError: the request failed; tokens that came before it were given first.
        """
        if not self._pending and self._error is not None:
            raise self._error
        index, ids = self._read_index, tuple(self._pending)
        self._pending.clear()
        self._read_index += len(ids)
        end = self.tokens.end
        finish = end.finish if end is not None and self._error is None else None
        return Chunk(index, ids, finish, self.tokens.take_logprobs(), self.tokens.take_prompt_logprobs())

    def stop(self) -> None:
        """End well where a stop string appeared; what still runs is cancelled."""
        if self.tokens.end is None:
            at = self.tokens.next_index
            name, attempt = self.request.request_id, self.tokens.attempt
            self.tokens.end = RequestOutput(name, attempt, at, (), FinishReason.STOP, STOP_STRING)
        self._abandon(self)

    def close(self) -> None:
        """The client's call is over; what still runs is cancelled."""
        self._abandon(self)

    def push(self, output: RequestOutput, now: int) -> bool:
        """Take an output; False when too many tokens wait for the client."""
        ready = self.tokens.push(output)
        self._pending.extend(ready)
        self.timeline.token_times_ns.extend([now] * len(ready))
        self._news.set()
        return len(self._pending) <= MAX_PENDING_TOKENS

    def dispatch(self, to: WorkerRef, request: Request) -> None:
        """Note which workers have the request now."""
        self.workers += [worker for worker in (to, request.handoff_to) if worker is not None]
        self._news.set()

    def dispatch_kind(self, request: Request) -> MarkKind:
        """What a dispatch is in the timeline: the first one, a retry, or a continuation of what the client has."""
        if not self.workers:
            return MarkKind.DISPATCHED
        return MarkKind.CONTINUED if request.resume else MarkKind.RETRIED

    def fail(self, error: TriptychError) -> None:
        """End the stream with an error; the first one counts."""
        self._error = self._error or error
        self._news.set()

    def ended(self, error: TriptychError | None) -> RequestEnd:
        """What is told of this request, now that it is over."""
        end = self.tokens.end
        finish = end.finish if error is None and end is not None else None
        return RequestEnd(
            request_id=self.request.request_id,
            timeline=self.timeline,
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self.tokens.cached_tokens,
            finish=finish,
            reason="" if error is None else error.reason,
            predicted_ms=None if self.decision is None else (self.decision.ttft_ms, self.decision.itl_ms),
            slo_ms=(self.request.ttft_slo_ms, self.request.tpot_slo_ms),
            trace_id=self.trace_id,
        )

    async def _wait(self) -> None:
        await self._news.wait()
        self._news.clear()


def deadline_error(stream: ClientStream) -> DeadlineError:
    """The deadline passed; the stage is the last thing that happened."""
    stage = stream.timeline.entries[-1].kind.value
    return DeadlineError(f"the deadline passed after {stage}", metadata={"stage": stage})


def output_error(end: RequestOutput) -> TriptychError:
    """The error that a worker's bad end means to a client."""
    message = end.message or end.reason.lower().replace("_", " ") or str(end.finish)
    reason = end.reason or None
    if end.finish is FinishReason.DEADLINE:
        return DeadlineError(f"the deadline passed: {message}", reason=reason)
    if end.finish is FinishReason.CANCELLED:
        return CancelledError(message, reason=reason)
    match end.reason:
        case "CONTEXT_LENGTH_EXCEEDED":
            return PromptTooLongError("messages", message)
        case "DUPLICATE_REQUEST":
            return DuplicateRequestError(message)
        case "OVERLOADED":
            return OverloadedError(message, metadata=RETRY.copy())
        case "GRAMMAR_FAILED":
            return InvalidRequestError("sampling.structured", f"no output could follow it: {message}", reason=reason)
        case "STEP_FAILED":
            return InternalError(f"request {end.request_id} failed inside a worker; its log has the details")
        case _:
            return UnavailableError(message, reason=reason, metadata=RETRY.copy())


def rejection(action: Reject) -> TriptychError:
    """The error that the flow named, from the one tree."""
    cls = getattr(errors, action.error, None)
    if not (isinstance(cls, type) and issubclass(cls, TriptychError)) or issubclass(cls, errors.StartupError):
        return InternalError(f"request {action.request_id} failed")
    if issubclass(cls, errors.InvalidRequestError):
        return cls("messages", action.message, reason=action.reason)
    assert cls.__init__ is TriptychError.__init__, f"a flow cannot reject with {cls.__name__}"
    wait = {} if action.retry_after_ms is None else {"retry_after_ms": str(action.retry_after_ms)}
    return cls(action.message, reason=action.reason, metadata=wait)
