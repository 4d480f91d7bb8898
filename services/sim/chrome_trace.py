"""A simulated run as Chrome trace events, for Perfetto (ui.perfetto.dev) or chrome://tracing.

Each worker is a process whose steps are slices; each request is a track of the process `requests`, its phases slices.
Format: Trace Event Format, Google, JSON array of complete events (`ph: X`) with times in microseconds.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from services.sim.outcome import SimRun

REQUESTS = "requests"


def chrome_trace(run: SimRun) -> dict[str, Any]:
    """The JSON value; the run must have kept its timelines."""
    events: list[dict[str, Any]] = [_name(0, REQUESTS)]
    for number, sent_ns, marks in sorted(run.timelines):
        ordered = sorted(marks, key=lambda mark: mark[1])
        for (kind, begin_ns, where), (_, end_ns, _) in pairwise(ordered):
            events.append(_slice(kind.value, begin_ns, end_ns, 0, number, {"where": where, "sent_us": sent_ns / 1000}))
    for place, (worker, spans) in enumerate(run.spans, start=1):
        events.append(_name(place, worker))
        for begin_ns, end_ns, rows, tokens, steps in spans:
            name = "prefill" if tokens and not rows else "mixed" if tokens else "decode"
            found = {"decodes": rows, "prompt_tokens": tokens, "steps": steps}
            events.append(_slice(name, begin_ns, end_ns, place, 0, found))
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _name(place: int, name: str) -> dict[str, Any]:
    return {"name": "process_name", "ph": "M", "pid": place, "tid": 0, "args": {"name": name}}


def _slice(name: str, begin_ns: int, end_ns: int, place: int, track: int, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "ph": "X",
        "ts": begin_ns / 1000,
        "dur": (end_ns - begin_ns) / 1000,
        "pid": place,
        "tid": track,
        "args": found,
    }
