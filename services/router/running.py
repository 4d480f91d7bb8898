"""One request as the flow follows it: where it runs, which tokens its client has, how often it was moved."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.core.actions import RequestOutput
from services.core.request import FinishReason, Request, WorkerRef
from services.router.decision import Decision

GOOD_ENDS = (FinishReason.STOP, FinishReason.LENGTH)


@dataclass(slots=True)
class Running:
    """A request that is not over.

    Attributes:
        request: as dispatched last.
        attempt: number of the last or next dispatch, 0 before the first; fences what earlier ones still send.
        deadline_ns: on this process's clock.
        tokens: output that the client has, in order, over all attempts.
        early: tokens that came before one with a lower index did, by index.
        prefill: worker that computes the prompt; None while no worker is found.
        decode: worker that decodes; the same process when colocated.
        encoders: workers that encode images for the one of the prompt.
        cached_on: worker that computed the prompt last; it may still find it in its prefix cache.
        decoding: a token of this attempt came from `decode`.
        end: the good end of this attempt, when it came before all tokens did.
        retries: times it was dispatched again before its first token.
        continuations: times it was dispatched again after it.
        failed: workers that had a part in a failure of it; used again only when there is no other.
        refused: workers that do not want it; never asked again.
        waits_until_ns: when the search for a worker is given up.
        why: reason of the last move.
        cached: the cache was asked for it, and may keep its output.
        held: it waits at the front door for its turn.
        decision: the prediction that this attempt was placed by; None without one.
        dispatched_ns: when it was sent.
        owes: its prompt is counted as work of its prefill worker, with `owed_ms`.
        decode_ns: when its decode worker first spoke, 0: it has not; `decode_index` tokens had come by then.
        beside: decodes and their tokens on that worker at that time.
    """

    request: Request
    deadline_ns: int | None
    attempt: int = 0
    tokens: list[int] = field(default_factory=list)
    early: dict[int, int] = field(default_factory=dict)
    prefill: WorkerRef | None = None
    decode: WorkerRef | None = None
    encoders: list[WorkerRef] = field(default_factory=list)
    cached_on: WorkerRef | None = None
    decoding: bool = False
    end: RequestOutput | None = None
    retries: int = 0
    continuations: int = 0
    failed: list[WorkerRef] = field(default_factory=list)
    refused: list[WorkerRef] = field(default_factory=list)
    waits_until_ns: int | None = None
    why: str = ""
    cached: bool = False
    held: bool = False
    decision: Decision | None = None
    dispatched_ns: int = 0
    owes: bool = False
    owed_ms: float = 0.0
    decode_ns: int = 0
    decode_index: int = 0
    beside: tuple[float, float] = (0.0, 0.0)

    @property
    def workers(self) -> list[WorkerRef]:
        """Every process that may hold something of this attempt."""
        found = [] if self.prefill is None else [self.prefill]
        return (found if self.decode in (None, self.prefill) else [*found, self.decode]) + self.encoders

    @property
    def stage(self) -> str:
        """Where the request is, for messages."""
        if self.prefill is None:
            return "queue"
        return "decode" if self.decoding else "prefill"

    @property
    def complete(self) -> bool:
        """The good end came, and every token before it."""
        return self.end is not None and len(self.tokens) >= self.end.index + len(self.end.token_ids)

    def needs(self, worker: WorkerRef) -> bool:
        """Whether the request cannot go on without a worker: prefill is done once decode speaks and no token lacks."""
        if worker == self.decode:
            return True
        came = len(self.tokens) > len(self.request.resume)
        if worker in self.encoders:
            return not came
        return worker == self.prefill and not (self.decoding and came)

    def take(self, output: RequestOutput) -> None:
        """Count an output's tokens, as the client's stream will pass them on."""
        if output.index == len(self.tokens) and not self.early:  # as nearly always
            self.tokens += output.token_ids
        else:
            self._take_out_of_order(output)
        if output.finish in GOOD_ENDS:
            self.end = output

    def _take_out_of_order(self, output: RequestOutput) -> None:
        for index, token in enumerate(output.token_ids, start=output.index):
            if index >= len(self.tokens):
                self.early.setdefault(index, token)
        while (token_id := self.early.pop(len(self.tokens), None)) is not None:
            self.tokens.append(token_id)

    def leave(self, request: Request) -> None:
        """Forget the attempt that failed; `request` is the next one."""
        self.request, self.attempt = request, request.attempt
        self.early.clear()
        self.prefill = self.decode = self.end = None
        self.encoders = []
        self.decoding = False
        self.decode_ns = 0

    def state_fields(self) -> dict[str, object]:
        """Plain values for the decision log."""

        def refs(workers: list[WorkerRef]) -> list[object]:
            return [[ref.worker_id, ref.incarnation] for ref in workers]

        return {
            "attempt": self.attempt,
            "deadline_ns": self.deadline_ns,
            "tokens": list(self.tokens),
            "early": [[index, token] for index, token in self.early.items()],
            "workers": refs([ref for ref in (self.prefill, self.decode) if ref is not None]),
            "encoders": refs(self.encoders),
            "cached_on": refs([] if self.cached_on is None else [self.cached_on]),
            "decoding": self.decoding,
            "ended": self.end is not None,
            "moves": [self.retries, self.continuations],
            "failed": refs(self.failed),
            "refused": refs(self.refused),
            "waits_until_ns": self.waits_until_ns,
            "why": self.why,
            "cached": self.cached,
            "held": self.held,
            "owed": [self.owes, self.owed_ms, self.dispatched_ns],
            "decode": [self.decode_ns, self.decode_index, *self.beside],
            "predicted": None if self.decision is None else [self.decision.ttft_ms, self.decision.itl_ms],
        }
