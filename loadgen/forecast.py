"""What a plan will send, told before sending: which rows, at what rate, how bursty, what a prefix cache could find."""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from loadgen.arrivals import Window, find_window
from loadgen.compare import Table, number
from loadgen.inspection import Trace, inspection_tables
from loadgen.plan import Plan
from loadgen.schedule import ScheduledRequest
from loadgen.survey import PrefixTree, Survey, survey
from services.core.clock import NS_PER_S
from services.core.errors import ConfigError
from services.core.workload import WorkloadRow

SCHEMA = "triptych.plan/1"
TOGETHER = 0.5
"""More than this share of sessions that begin at zero means that the trace knows no times between sessions."""


@dataclass(slots=True)
class Forecast:
    """A plan in numbers.

    Attributes:
        trace: the trace's counts as a sentence; rows read = kept + dropped, by reason.
        read, kept: the same as numbers.
        dropped: rows that are none, by reason.
        outside: rows that are kept by the reader and not sent: thinned sessions, and what is outside the window.
        window: the part of the trace that is sent; None is all of it.
        changes: what was done to rows, by what.
        survey: of what is sent, at the times at which it is due if every turn is answered at once.
        duration_s: over which they are sent: the window's length, else the span, at the plan's speed.
        closed_loop: requests that wait for the end of the turn before.
        faults: requests whose clients do something wrong, by what; failed ones of the trace among them.
        input_tokens, output_tokens: in all.
        hit_tokens: prompt tokens that an unbounded exact prefix cache finds, if requests come one after another.
        warnings: sentences.
    """

    trace: str = ""
    format: str = ""
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    window: Window | None = None
    changes: Counter[str] = field(default_factory=Counter)
    survey: Survey = field(default_factory=Survey)
    duration_s: float = 0.0
    closed_loop: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    hit_tokens: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def offered_rps(self) -> float:
        """Requests per second; 0 where all come at one time."""
        return self.survey.rows / self.duration_s if self.duration_s > 0 else 0.0

    @property
    def token_hit_rate(self) -> float:
        """Share of prompt tokens that the oracle finds."""
        return self.hit_tokens / self.input_tokens if self.input_tokens else 0.0


def choose(
    trace: Trace, plan: Plan, window_s: float | None = None, start_s: float | None = None, rate: float | None = None
) -> tuple[Plan, Forecast]:
    """Read the trace twice: to choose the window, and to see what is in it.

    Args:
        trace: what the plan's rows are.
        plan: all of the trace.
        window_s, start_s, rate: which part of it; see `find_window`. A start alone is a window to the end.

    Returns:
        The plan of that window, and what it will send.

    Raises:
        ConfigError: there is no such window, or nothing is left to send.
    """
    found = Forecast(format=trace.format)
    arrivals = array("d", plan.arrivals())
    found.trace, found.read, found.kept = trace.summary(), trace.counts["read"], trace.counts["kept"]
    reasons = sorted(key for key in trace.counts if key.startswith("dropped: "))
    found.dropped = {key.removeprefix("dropped: "): trace.counts[key] for key in reasons}
    if texts := trace.counts["texts left out"]:
        found.warnings.append(f"the texts of {texts} rows are not sent, only their lengths: use --workload for texts")
    if not arrivals:
        raise ConfigError("--trace", trace.format, f"no row can be sent: {found.trace}")
    if len(arrivals) < found.kept:
        found.outside["in sessions that are not kept"] = found.kept - len(arrivals)
    if window_s is None and rate is not None:
        raise ConfigError("--rate", rate, "chooses a window: give its length with --window-s, or use --scale")
    if window_s is not None or start_s is not None:
        length_s = arrivals[-1] - (start_s or 0.0) if window_s is None else window_s
        found.window = find_window(arrivals, length_s, rate, start_s)
        plan = replace(plan, start_s=found.window.start_s, length_s=math.inf if window_s is None else length_s)
    _fill(found, plan)
    failed = found.changes["failed requests left out"]
    if outside := len(arrivals) - found.survey.rows - failed:
        found.outside["outside the window"] = outside
    if not found.survey.rows:
        raise ConfigError("--failed-rows", plan.clients.failed_rows, f"leaves nothing to send: all {failed} failed")
    return replace(plan, closed_loop=found.closed_loop > 0), found


def _fill(found: Forecast, plan: Plan) -> None:
    """Count what the plan sends."""
    tree, begins = PrefixTree(), Counter[int]()

    def rows() -> Iterator[WorkloadRow]:
        for index, each in enumerate(plan.planned(found.changes)):
            request, row = plan.request(index, each), each.row
            found.closed_loop += each.think_ns is not None
            found.faults.update(_faults(row, request))
            found.input_tokens += row.input_tokens
            found.output_tokens += row.output_tokens
            found.hit_tokens += min(tree.add(row.prefix) * row.prefix_block_tokens, row.input_tokens)
            if row.session and each.think_ns is None:
                begins[each.at_ns] += 1
            yield replace(row, arrival_s=each.at_ns / NS_PER_S)

    found.survey = survey(rows())
    found.duration_s = found.survey.span_s if found.window is None else found.window.length_s / plan.speed
    found.warnings += [found.window.warning] if found.window is not None and found.window.warning else []
    found.warnings += found.survey.warnings
    together = begins.get(0, 0)
    if together > max(1, sum(begins.values()) * TOGETHER):
        found.warnings.append(
            f"{together} sessions begin at once: the trace does not say when they did; begin them with --session-rate"
        )
    if found.survey.images:
        found.warnings.append(
            f"{found.survey.images} images of the trace are not sent: prompts are tokens or text only"
        )


def _faults(row: WorkloadRow, request: ScheduledRequest) -> Iterator[str]:
    """What the client does wrong, in words."""
    if request.leave_after_tokens is not None:
        yield (
            "leave at the first token, as the request failed in the trace" if row.failed else "leave within the output"
        )
    if request.read_delay_ns:
        yield f"wait {request.read_delay_ns / NS_PER_S:g} s before each read"
    if request.deadline_ns is not None:
        yield f"give up after {request.deadline_ns / NS_PER_S:g} s"


def forecast_json(found: Forecast) -> dict[str, Any]:
    """All of it as one JSON object."""
    counters = {"changes": dict(found.changes), "faults": dict(found.faults)}
    plain = dataclasses.asdict(replace(found, changes=Counter(), faults=Counter()))  # asdict cannot copy a full Counter
    rates = {"offered_rps": found.offered_rps, "token_hit_rate": found.token_hit_rate}
    return {"schema": SCHEMA, **plain, **counters, **rates}


def forecast_tables(found: Forecast, trace: Trace) -> list[Table]:
    """All of it but the warnings, for the terminal."""
    rows = [("trace", f"{found.format}: {found.trace}")]
    rows += [("not sent", _counts(found.outside))] if found.outside else []
    if found.window is not None:
        window = found.window
        rows.append(
            (
                "window",
                f"{number(window.length_s)} s from {number(window.start_s)} s on, {number(window.rate)} requests/s; "
                f"the whole trace has {number(window.mean_rate)}",
            )
        )
    rows.append(("to be sent", _sent(found)))
    rows += [("fitted", _counts(found.changes))] if found.changes else []
    rows += [("clients", _counts(found.faults))] if found.faults else []
    rows.append(("tokens", f"{found.input_tokens:,} of prompts, {found.output_tokens:,} of outputs"))
    if found.survey.block_hits is not None:
        rows.append(
            (
                "oracle of prefix hits",
                f"{found.survey.block_hits:.2%} of blocks, {found.token_hit_rate:.2%} of tokens: what an unbounded "
                "exact cache finds if requests come one after another",
            )
        )
    return [Table("plan", (), tuple(rows)), *inspection_tables(trace, found.survey)[1:]]


def _sent(found: Forecast) -> str:
    sent = f"{found.survey.rows:,} requests in {number(found.duration_s)} s: {number(found.offered_rps)} requests/s"
    sent += f", CV of gaps {number(found.survey.gap_cv)}"
    if found.closed_loop:
        sent += f"; {found.closed_loop:,} are turns that wait for the end of the turn before"
    return sent


def notes(found: Forecast) -> tuple[str, ...]:
    """What belongs into the report of the run: what to beware of, what was done to the trace, and the oracle."""
    said = list(found.warnings)
    if found.dropped or found.changes:
        said.append(f"of the trace: {found.trace}; changed: {_counts(found.changes) or 'nothing'}")
    if found.hit_tokens:
        said.append(f"an unbounded exact prefix cache would find {found.token_hit_rate:.2%} of the prompt tokens")
    return tuple(said)


def describe(name: str, plan: Plan, found: Forecast) -> str:
    """What is sent, for the head of a report: the trace and everything that changes its times."""
    parts = [name]
    if found.window is not None:
        parts.append(f"{number(found.window.length_s)} s from {number(found.window.start_s)} s on")
    if plan.speed != 1:
        parts.append(f"{plan.speed:g} times as fast")
    if plan.session_rate:
        parts.append(f"{plan.session_rate:g} sessions begun a second with seed {plan.seed}")
    if plan.dither_s:
        parts.append(f"dithered by {plan.dither_s:g} s with seed {plan.seed}")
    if plan.keep_sessions != 1:
        parts.append(f"{plan.keep_sessions:.0%} of the sessions")
    return ", ".join(parts)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
