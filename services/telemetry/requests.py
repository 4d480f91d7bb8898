"""What is shown of requests: one that ended becomes observations and a log line, from its timeline alone."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from services.core.clock import NS_PER_MS, NS_PER_S, Clock
from services.core.request import FinishReason
from services.core.timeline import MarkKind, Timeline
from services.core.wire import TrafficRow
from services.telemetry import metrics
from services.telemetry.exporter import Exporter
from services.telemetry.recent import Ended, RecentRequests

logger = logging.getLogger(__name__)

KEPT_ROWS = 5000
"""Of requests that a planner has not taken."""

PHASES = (
    (metrics.E2E, MarkKind.RECEIVED, MarkKind.FINISHED),
    (metrics.DISPATCH_TIME, MarkKind.RECEIVED, MarkKind.DISPATCHED),
    (metrics.CACHE_LOOKUP, MarkKind.TOKENIZED, MarkKind.CACHE_ANSWERED),
    (metrics.QUEUE_TIME, MarkKind.QUEUED, MarkKind.PREFILL_START),
    (metrics.PREFILL_TIME, MarkKind.PREFILL_START, MarkKind.PREFILL_END),
    (metrics.HANDOFF_WAIT, MarkKind.HANDOFF_OFFERED, MarkKind.HANDOFF_GRANTED),
    (metrics.HANDOFF_TIME, MarkKind.HANDOFF_OFFERED, MarkKind.HANDOFF_COMMITTED),
)
"""Durations between two marks. A phase that a request passed twice is told of the first time."""


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """A request that is over, for better or worse.

    Attributes:
        finish: why the output ended, where it ended as it should; None when it failed.
        reason: of the error, UPPER_SNAKE; "" when it did not fail.
        predicted_ms: times to the first token from the dispatch, and of each after it; None where none were predicted.
        slo_ms: wished times to the first token from receipt, and of each after it.
        trace_id: of the client's call, "" where there is none.
    """

    request_id: str
    timeline: Timeline
    prompt_tokens: int
    cached_tokens: int
    finish: FinishReason | None
    reason: str = ""
    predicted_ms: tuple[float, float] | None = None
    slo_ms: tuple[float | None, float | None] = (None, None)
    trace_id: str = ""


class TrafficNotes:
    """Lengths of requests that ended well, for a planner; the oldest go when nobody takes them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows: deque[TrafficRow] = deque(maxlen=KEPT_ROWS)

    def add(self, end: RequestEnd) -> None:
        """Note one, at the time when it came."""
        came_ns = end.timeline.at_ns(MarkKind.RECEIVED)
        if end.finish is not None and came_ns is not None:
            unix_ms = self._clock.unix_ms() - (self._clock.now_ns() - came_ns) // NS_PER_MS
            self._rows.append((unix_ms, end.prompt_tokens, len(end.timeline.token_times_ns)))

    def take(self) -> tuple[TrafficRow, ...]:
        """Those since the last call."""
        rows = tuple(self._rows)
        self._rows.clear()
        return rows


class RequestMetrics:
    """Feeds an exporter with ended and refused requests.

    Args:
        model: name that clients use.
        traffic: takes their lengths, too.

    Attributes:
        recent: the last minute's, for people.
    """

    def __init__(self, exporter: Exporter, model: str, traffic: TrafficNotes | None = None) -> None:
        self._exporter = exporter
        self._labels = (model,)
        self._traffic = traffic
        self.recent = RecentRequests()

    def refused(self, reason: str) -> None:
        """A request was turned away before it began."""
        self._exporter.count(metrics.REJECTIONS, (reason,))

    def ended(self, end: RequestEnd) -> None:
        """Observe everything that the timeline tells, and log one line."""
        if self._traffic is not None:
            self._traffic.add(end)
        timeline, times = end.timeline, end.timeline.token_times_ns
        self._tokens(end)
        for metric, start, stop in PHASES:
            self._phase(metric, timeline.at_ns(start), timeline.at_ns(stop))
        checked_ns = timeline.at_ns(MarkKind.CACHE_ANSWERED) or timeline.at_ns(MarkKind.TOKENIZED)
        self._phase(metrics.ROUTE_TIME, checked_ns, timeline.at_ns(MarkKind.DISPATCHED))
        if times:
            self._phase(metrics.TTFT, timeline.at_ns(MarkKind.RECEIVED), times[0])
            self._phase(metrics.INFERENCE_TIME, timeline.at_ns(MarkKind.PREFILL_START), times[-1])
        gaps = [(after - before) / NS_PER_S for before, after in pairwise(times)]
        if gaps:
            self._phase(metrics.DECODE_TIME, times[0], times[-1])
            self._exporter.observe(metrics.ITL, self._labels, *gaps)
        if (tpot_ns := timeline.tpot_ns) is not None:
            self._exporter.observe(metrics.TPOT, self._labels, tpot_ns / NS_PER_S)
        self._judge(end)
        self._remember(end, gaps)
        self._log(end)

    def _judge(self, end: RequestEnd) -> None:
        """How far off the prediction was, and whether the client's wishes were kept."""
        timeline, moved = end.timeline, end.timeline.at_ns(MarkKind.RETRIED) or end.timeline.at_ns(MarkKind.CONTINUED)
        sent, times, tpot_ns = timeline.at_ns(MarkKind.DISPATCHED), timeline.token_times_ns, timeline.tpot_ns
        if end.predicted_ms is not None and sent is not None and times and moved is None:
            took = ((times[0] - sent) / NS_PER_S, None if tpot_ns is None else tpot_ns / NS_PER_S)
            for kind, predicted_ms, seconds in zip(("ttft", "itl"), end.predicted_ms, took, strict=True):
                if seconds:
                    error = predicted_ms * NS_PER_MS / NS_PER_S - seconds
                    self._exporter.observe(metrics.PREDICTION_ERROR, (kind,), error)
                    self._exporter.observe(metrics.PREDICTION_ERROR_RATIO, (kind,), error / seconds)
        for kind, wished_ms, took_ns in zip(("ttft", "tpot"), end.slo_ms, (timeline.ttft_ns, tpot_ns), strict=True):
            if wished_ms is not None and (took_ns is not None or kind == "ttft"):
                met = took_ns is not None and took_ns <= wished_ms * NS_PER_MS and end.finish is not None
                self._exporter.count(metrics.SLO_OUTCOMES, (kind, "met" if met else "missed"))

    def _remember(self, end: RequestEnd, gaps: list[float]) -> None:
        timeline = end.timeline
        ttft_ns, tokens = timeline.ttft_ns, (end.prompt_tokens, end.cached_tokens, len(timeline.token_times_ns))
        at_ns = max([entry.at_ns for entry in timeline.entries], default=0)
        ttft_s = None if ttft_ns is None else ttft_ns / NS_PER_S
        self.recent.add(Ended(at_ns, ttft_s, gaps, *tokens, failed=end.finish is None))

    def _tokens(self, end: RequestEnd) -> None:
        labels, outputs = self._labels, len(end.timeline.token_times_ns)
        if end.finish is not None:
            self._exporter.count(metrics.SUCCESSES, (*labels, end.finish.value))
        else:
            self._exporter.count(metrics.FAILURES, (*labels, end.reason))
        self._exporter.count(metrics.GENERATION_TOKENS, labels, outputs)
        self._exporter.observe(metrics.REQUEST_PROMPT_TOKENS, labels, end.prompt_tokens)
        self._exporter.observe(metrics.REQUEST_GENERATION_TOKENS, labels, outputs)
        self._exporter.count(metrics.PROMPT_TOKENS, labels, end.prompt_tokens)
        self._exporter.count(metrics.PREFIX_QUERIES, labels, end.prompt_tokens if outputs else 0)
        self._exporter.count(metrics.PREFIX_HITS, labels, end.cached_tokens)

    def _phase(self, metric: metrics.Metric, start_ns: int | None, stop_ns: int | None) -> None:
        if start_ns is not None and stop_ns is not None and stop_ns >= start_ns:
            self._exporter.observe(metric, self._labels, (stop_ns - start_ns) / NS_PER_S)

    def _log(self, end: RequestEnd) -> None:
        """One line for each request: sizes, times and places; never what was said."""
        timeline = end.timeline
        ttft_ns, first, last = timeline.ttft_ns, timeline.at_ns(MarkKind.RECEIVED), timeline.at_ns(MarkKind.FINISHED)
        fields = {
            "request_id": end.request_id,
            "trace_id": end.trace_id or None,
            "finish": end.finish.value if end.finish is not None else end.reason,
            "prompt_tokens": end.prompt_tokens,
            "cached_tokens": end.cached_tokens,
            "output_tokens": len(timeline.token_times_ns),
            "ttft_ms": None if ttft_ns is None else round(ttft_ns / NS_PER_MS, 1),
            "total_ms": None if first is None or last is None else round((last - first) / NS_PER_MS, 1),
            "workers": list(dict.fromkeys(entry.where for entry in timeline.entries[1:])),
        }
        logger.info("request ended", extra=fields)
