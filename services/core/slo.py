"""What a client saw of one request, and whether that met the service level objective (SLO).

The load generator measures samples and the simulator computes them; both are judged here, so their numbers compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from services.core.quick import quick

NS_PER_MS = 1e6


class Outcome(StrEnum):
    """How a request ended, as its client saw it."""

    OK = "ok"
    REJECTED = "rejected"  # the server said: not now (429, RESOURCE_EXHAUSTED)
    ERROR = "error"  # the server failed, or refused the request as wrong
    UNREACHABLE = "unreachable"  # no connection
    TRUNCATED = "truncated"  # the stream ended, or made no sense, before its end
    DEADLINE = "deadline"  # the request's own deadline passed
    DISCONNECTED = "disconnected"  # the client left, as the schedule planned
    UNFINISHED = "unfinished"  # the run was stopped while the request was under way


UNJUDGED = frozenset({Outcome.DISCONNECTED, Outcome.UNFINISHED})
"""Ends that the server had no part in: neither met nor missed."""


@quick
@dataclass(frozen=True, slots=True)
class RequestSample:
    """One request; all times are nanoseconds since the run's start.

    Attributes:
        index: place in the schedule.
        session: conversation that the request is a turn of.
        turn: its place there, from 0.
        tenant: who asks.
        category: what is asked.
        intended_ns: when the schedule wanted it sent; of a later turn, the end of the turn before plus think time.
        sent_ns: when it was sent.
        first_token_ns: when its first token was read; None without one.
        last_token_ns: when its last token was read.
        end_ns: when its stream, or the attempt, ended.
        input_tokens: prompt tokens.
        output_tokens: tokens received.
        wanted_tokens: tokens asked for.
        cached_tokens: prompt tokens that the server found in its prefix cache, where it says so.
        gaps_us: microseconds between two messages with tokens; one fewer than messages.
        outcome: how it ended.
        reason: stable label of a failure (`HTTP_500`), empty when there was none.
        fault: what the schedule planned for the client to do wrong; empty for nothing.
        phases_ms: milliseconds that the server says it spent in each phase.
        phase_starts_ms: when each of them began, from the moment at which the server received the request.
    """

    index: int
    session: str
    turn: int
    tenant: str
    category: str
    intended_ns: int
    sent_ns: int
    first_token_ns: int | None
    last_token_ns: int | None
    end_ns: int
    input_tokens: int
    output_tokens: int
    wanted_tokens: int
    outcome: Outcome
    reason: str = ""
    fault: str = ""
    cached_tokens: int = 0
    gaps_us: tuple[int, ...] = ()
    phases_ms: Mapping[str, float] = field(default_factory=dict)
    phase_starts_ms: Mapping[str, float] = field(default_factory=dict)

    def ttft_ms(self, *, intended: bool = True) -> float | None:
        """Time to the first token from the intended, else from the actual, send time."""
        start = self.intended_ns if intended else self.sent_ns
        return None if self.first_token_ns is None else (self.first_token_ns - start) / NS_PER_MS

    def e2e_ms(self, *, intended: bool = True) -> float:
        """Time to the end from the intended, else from the actual, send time."""
        return (self.end_ns - (self.intended_ns if intended else self.sent_ns)) / NS_PER_MS

    @property
    def tpot_ms(self) -> float | None:
        """Mean time per output token after the first (DistServe); None below two tokens."""
        if self.first_token_ns is None or self.last_token_ns is None or self.output_tokens < 2:
            return None
        return (self.last_token_ns - self.first_token_ns) / NS_PER_MS / (self.output_tokens - 1)

    @property
    def lag_ms(self) -> float:
        """How late it was sent."""
        return (self.sent_ns - self.intended_ns) / NS_PER_MS

    def to_json(self) -> dict[str, Any]:
        """One JSON object, the inverse of `sample_from_json`."""
        row = {name: getattr(self, name) for name in self.__slots__}
        phases = {"phases_ms": dict(self.phases_ms), "phase_starts_ms": dict(self.phase_starts_ms)}
        return row | {"outcome": self.outcome.value, "gaps_us": list(self.gaps_us), **phases}


def sample_from_json(row: Mapping[str, Any]) -> RequestSample:
    """The sample that `to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: the row is not one.
    """
    return RequestSample(**{**row, "outcome": Outcome(row["outcome"]), "gaps_us": tuple(row["gaps_us"])})


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds that a request must keep jointly; None is no bound.

    Attributes:
        ttft_ms: from the intended send time to the first token.
        tpot_ms: mean time per output token after the first.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None

    def judged(self, sample: RequestSample) -> bool:
        """Whether the request counts at all: not when its client left, was stopped, or read slowly by plan."""
        return sample.outcome not in UNJUDGED and sample.fault != "slow_reader"

    def met(self, sample: RequestSample) -> bool:
        """Whether the request succeeded within every bound; errors and rejections are misses."""
        if sample.outcome is not Outcome.OK:
            return False
        ttft, tpot = sample.ttft_ms(), sample.tpot_ms
        in_ttft = self.ttft_ms is None or (ttft is not None and ttft <= self.ttft_ms)
        return in_ttft and (self.tpot_ms is None or tpot is None or tpot <= self.tpot_ms)


NO_SLO = Slo()
"""Nothing is asked for."""
