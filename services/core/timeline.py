"""A request's life as a list of marks; TTFT, ITL, phase times and spans are derived from it alone.

received ── tokenized ── cache_answered ── dispatched ───────────────────────────────────────── (front door)
queued ── prefill_start ── prefill_end ── first_token ───────────────────────────────────────── (prefill worker)
                                                          │
                                               handoff_offered ── handoff_granted ── handoff_committed
                                                          │
                                                    decode_start ── token ... token ── finished (decode worker)

A request that is dispatched again has `retried` (before its first token) or `continued` (after it) and what follows
`dispatched` once more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest


class MarkKind(StrEnum):
    """The things that happen to a request, in the order in which they may."""

    RECEIVED = "received"
    TOKENIZED = "tokenized"
    CACHE_ANSWERED = "cache_answered"
    DISPATCHED = "dispatched"
    RETRIED = "retried"
    CONTINUED = "continued"
    QUEUED = "queued"
    PREFILL_START = "prefill_start"
    PREFILL_END = "prefill_end"
    HANDOFF_OFFERED = "handoff_offered"
    HANDOFF_GRANTED = "handoff_granted"
    HANDOFF_COMMITTED = "handoff_committed"
    DECODE_START = "decode_start"
    PREEMPTED = "preempted"
    FIRST_TOKEN = "first_token"
    FINISHED = "finished"


class Stage(StrEnum):
    """What a request is doing; at every moment exactly one thing."""

    RECEIVE = "receive"
    CACHE = "cache"
    ROUTE = "route"
    DISPATCH = "dispatch"
    QUEUE = "queue"
    PREFILL = "prefill"
    HANDOFF = "handoff"
    DECODE = "decode"
    RECOMPUTE = "recompute"
    DELIVER = "deliver"


BEGINS = {
    MarkKind.RECEIVED: Stage.RECEIVE,
    MarkKind.TOKENIZED: Stage.ROUTE,
    MarkKind.CACHE_ANSWERED: Stage.ROUTE,
    MarkKind.DISPATCHED: Stage.DISPATCH,
    MarkKind.RETRIED: Stage.DISPATCH,
    MarkKind.CONTINUED: Stage.DISPATCH,
    MarkKind.QUEUED: Stage.QUEUE,
    MarkKind.PREFILL_START: Stage.PREFILL,
    MarkKind.PREFILL_END: Stage.DECODE,
    MarkKind.HANDOFF_COMMITTED: Stage.DECODE,
    MarkKind.PREEMPTED: Stage.RECOMPUTE,
    MarkKind.FINISHED: Stage.DELIVER,
}
"""Which stage a mark begins, unless OPENS says otherwise. The other marks lie within a stage."""

OPENS = {
    (MarkKind.TOKENIZED, MarkKind.CACHE_ANSWERED): Stage.CACHE,
    (MarkKind.PREFILL_END, MarkKind.HANDOFF_COMMITTED): Stage.HANDOFF,
    (MarkKind.PREFILL_END, MarkKind.RETRIED): Stage.HANDOFF,
    (MarkKind.PREFILL_END, MarkKind.CONTINUED): Stage.HANDOFF,
}
"""The stage between two marks, where the second one tells what it was."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing that happened, stamped with the monotonic clock of the process that saw it."""

    kind: MarkKind
    at_ns: int


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """A mark on the front door's clock, with the process it happened in.

    Attributes:
        kind: what happened.
        at_ns: front door's monotonic clock.
        where: worker id, or the front door's id.
        pid: operating-system process id there.
    """

    kind: MarkKind
    at_ns: int
    where: str
    pid: int


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage of one request.

    Attributes:
        where: worker id, or the front door's id, where it began.
        start_ns: front door's monotonic clock, as is `end_ns`.
    """

    stage: Stage
    where: str
    pid: int
    start_ns: int
    end_ns: int


@dataclass(slots=True)
class Timeline:
    """All entries of one request, and what follows from them.

    Attributes:
        entries: in order of arrival at the front door.
        token_times_ns: front-door time at which each output token was ready to be written.
    """

    entries: list[TimelineEntry] = field(default_factory=list)
    token_times_ns: list[int] = field(default_factory=list)

    def add(self, kind: MarkKind, at_ns: int, where: str, pid: int) -> None:
        """Append one entry."""
        self.entries.append(TimelineEntry(kind, at_ns, where, pid))

    def at_ns(self, kind: MarkKind) -> int | None:
        """Time of the first entry of a kind."""
        return next((entry.at_ns for entry in self.entries if entry.kind == kind), None)

    @property
    def ttft_ns(self) -> int | None:
        """First output token minus receipt: queueing, prefill and all (mechanisms: includes everything)."""
        received = self.at_ns(MarkKind.RECEIVED)
        if received is None or not self.token_times_ns:
            return None
        return self.token_times_ns[0] - received

    @property
    def tpot_ns(self) -> float | None:
        """Mean time per output token after the first; None below two tokens."""
        if len(self.token_times_ns) < 2:
            return None
        return (self.token_times_ns[-1] - self.token_times_ns[0]) / (len(self.token_times_ns) - 1)

    def stages(self, end_ns: int) -> list[StageTime]:
        """The time from the first mark to `end_ns`, cut into stages: each ends where the next begins.

        So they add up to the whole, and a hand-off that began while the prompt was still computed counts from the end
        of prefill. Marks of another host, whose clock is known to its quickest message only, are kept inside.
        """
        begins = [entry for entry in sorted(self.entries, key=lambda entry: entry.at_ns) if entry.kind in BEGINS]
        found: list[StageTime] = []
        start_ns = begins[0].at_ns if begins else end_ns
        for entry, after in zip_longest(begins, begins[1:]):
            stage = BEGINS[entry.kind] if after is None else OPENS.get((entry.kind, after.kind), BEGINS[entry.kind])
            stop_ns = end_ns if after is None else min(after.at_ns, end_ns)
            found.append(StageTime(stage, entry.where, entry.pid, start_ns, max(start_ns, stop_ns)))
            start_ns = found[-1].end_ns
        return found
