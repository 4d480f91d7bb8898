"""What a simulated run gives: samples as the load generator measures them, and what every worker did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.core.slo import Outcome, RequestSample
from services.core.timeline import MarkKind
from services.sim.door import Client

PHASES = (
    ("queue", MarkKind.RECEIVED, MarkKind.PREFILL_START),
    ("prefill", MarkKind.PREFILL_START, MarkKind.PREFILL_END),
    ("transfer", MarkKind.HANDOFF_OFFERED, MarkKind.HANDOFF_COMMITTED),
    ("decode", MarkKind.DECODE_START, MarkKind.FINISHED),
)
"""Phase, and the marks that it lies between, as the load generator names them."""

Events = tuple[tuple[MarkKind, int, str], ...]
Spans = tuple[tuple[int, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """What one worker process did.

    Attributes:
        devices: accelerators that it takes.
        busy_s: time in steps.
        decode_tokens: tokens that its decodes made, first ones not counted.
        peak_kv_share: most of its KV blocks that were in use at once.
    """

    worker_id: str
    incarnation: int
    pool: str
    devices: int
    busy_s: float
    steps: int
    prefill_tokens: int
    decode_tokens: int
    peak_kv_share: float


@dataclass(frozen=True, slots=True)
class SimRun:
    """A run's result.

    Attributes:
        samples: in order of their ends; none when they were taken one by one.
        duration_s: from the first moment at which a request may come to the last end.
        events: calls that the event queue made.
        moves: attempts beyond the first, by reason.
        placements: dispatches by what was chosen.
        timelines: (place in the workload, when it was sent, marks) of each request, where asked for.
        spans: (worker, (start, end, decodes, prompt tokens, steps) ...), where asked for.
    """

    samples: tuple[RequestSample, ...]
    workers: tuple[WorkerUse, ...]
    duration_s: float
    events: int
    bytes_moved: float
    moves: dict[str, int]
    placements: dict[str, int]
    timelines: tuple[tuple[int, int, Events], ...] = ()
    spans: tuple[tuple[str, Spans], ...] = ()


def sample_of(client: Client, start_ns: int, gaps: bool) -> RequestSample:
    """What the client of a request saw; times count from `start_ns`."""
    row, times = client.row, client.times
    assert client.ended_ns is not None
    gaps_us: tuple[int, ...] = ()
    if gaps and len(times) > 1:
        gaps_us = tuple((np.diff(np.frombuffer(times, dtype=np.int64)) // 1000).tolist())
    return RequestSample(
        index=client.number,
        session=row.session,
        turn=row.turn,
        tenant=row.tenant,
        category=row.category,
        intended_ns=client.sent_ns - start_ns,
        sent_ns=client.sent_ns - start_ns,
        first_token_ns=times[0] - start_ns if times else None,
        last_token_ns=times[-1] - start_ns if times else None,
        end_ns=(times[-1] if client.outcome is Outcome.OK else client.ended_ns) - start_ns,
        input_tokens=row.input_tokens,
        output_tokens=len(times),
        wanted_tokens=max(1, row.output_tokens),
        outcome=client.outcome,
        reason=client.reason,
        cached_tokens=client.stream.cached_tokens,
        gaps_us=gaps_us,
        phases_ms={
            name: (client.marks[end] - client.marks[begin]) / 1e6
            for name, begin, end in PHASES
            if begin in client.marks and end in client.marks and client.marks[end] >= client.marks[begin]
        },
    )
