"""What is shown of requests: one that ended becomes observations and a log line, from its timeline alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise

from services.core.clock import NS_PER_MS, NS_PER_S
from services.core.request import FinishReason
from services.core.timeline import MarkKind, Timeline
from services.telemetry import metrics
from services.telemetry.exporter import Exporter

logger = logging.getLogger(__name__)

PHASES = (
    (metrics.E2E, MarkKind.RECEIVED, MarkKind.FINISHED),
    (metrics.DISPATCH_TIME, MarkKind.RECEIVED, MarkKind.DISPATCHED),
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
    """

    request_id: str
    timeline: Timeline
    prompt_tokens: int
    cached_tokens: int
    finish: FinishReason | None
    reason: str = ""


class RequestMetrics:
    """Feeds an exporter with ended and refused requests.

    Args:
        model: name that clients use.
    """

    def __init__(self, exporter: Exporter, model: str) -> None:
        self._exporter = exporter
        self._labels = (model,)

    def refused(self, reason: str) -> None:
        """A request was turned away before it began."""
        self._exporter.count(metrics.REJECTIONS, (reason,))

    def ended(self, end: RequestEnd) -> None:
        """Observe everything that the timeline tells, and log one line."""
        timeline, times = end.timeline, end.timeline.token_times_ns
        self._tokens(end)
        for metric, start, stop in PHASES:
            self._phase(metric, timeline.at_ns(start), timeline.at_ns(stop))
        if times:
            self._phase(metrics.TTFT, timeline.at_ns(MarkKind.RECEIVED), times[0])
            self._phase(metrics.INFERENCE_TIME, timeline.at_ns(MarkKind.PREFILL_START), times[-1])
        if len(times) > 1:
            self._phase(metrics.DECODE_TIME, times[0], times[-1])
            gaps = [(after - before) / NS_PER_S for before, after in pairwise(times)]
            self._exporter.observe(metrics.ITL, self._labels, *gaps)
        if (tpot_ns := timeline.tpot_ns) is not None:
            self._exporter.observe(metrics.TPOT, self._labels, tpot_ns / NS_PER_S)
        self._log(end)

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
            "finish": end.finish.value if end.finish is not None else end.reason,
            "prompt_tokens": end.prompt_tokens,
            "cached_tokens": end.cached_tokens,
            "output_tokens": len(timeline.token_times_ns),
            "ttft_ms": None if ttft_ns is None else round(ttft_ns / NS_PER_MS, 1),
            "total_ms": None if first is None or last is None else round((last - first) / NS_PER_MS, 1),
            "workers": list(dict.fromkeys(entry.where for entry in timeline.entries[1:])),
        }
        logger.info("request ended", extra=fields)
