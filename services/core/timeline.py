"""A request's life as a list of marks; TTFT, ITL, phase times and spans are derived from it alone.

received ── dispatched ── queued ── prefill_start ── prefill_end ── first_token ─────────────── (prefill worker)
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


class MarkKind(StrEnum):
    """The things that happen to a request, in the order in which they may."""

    RECEIVED = "received"
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
