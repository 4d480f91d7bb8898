"""The front door's /metrics: its own calls and requests, and every worker as its last report has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import fastapi

from services.core.clock import NS_PER_S, Clock
from services.frontdoor.call import Call, current_call
from services.frontdoor.performer import Performer
from services.semcache.shadow import precision
from services.telemetry import metrics
from services.telemetry.exporter import Exporter, Sample
from services.telemetry.workers import split_label, worker_labels, worker_samples


def add_metrics(app: fastapi.FastAPI, exporter: Exporter) -> None:
    """Mount /metrics on an application; it needs no API key, as scrapers have none."""

    async def show(request: fastapi.Request) -> fastapi.Response:
        body, content_type = exporter.text(request.headers.get("accept"))
        return fastapi.Response(body, headers={"content-type": content_type})

    app.add_api_route("/metrics", show, methods=["GET"], include_in_schema=False)


def count_calls(exporter: Exporter, door: str) -> Callable[[Call, str, int], None]:
    """An observer (see layers.py) that counts every call of one door: `grpc` or `http`."""

    def observe(call: Call, code: str, now: int) -> None:
        exporter.count(metrics.CALLS, (door, call.method, code))

    return observe


def count_limited(exporter: Exporter) -> Callable[[str], None]:
    """Counts calls that a tenant's own limits refused, by reason; tenants are no labels."""

    def refused(reason: str) -> None:
        exporter.count(metrics.TENANT_LIMITED, (reason,))

    return refused


def current_request() -> dict[str, str]:
    """The ids of the call that the running task serves, for log lines."""
    call = current_call.get(None)
    return {} if call is None else {"request_id": call.request_id, "trace_id": call.trace.trace_id}


def front_door_samples(performer: Performer, clock: Clock) -> Iterator[Sample]:
    """What one front door sees at this moment."""
    if performer.lookups.cache is not None:
        yield from performer.lookups.cache.samples()
        looking = performer.flow.looking
        yield Sample(metrics.CACHE_MEANWHILE, ("cancelled",), looking.overtaken)
        yield Sample(metrics.CACHE_MEANWHILE, ("late",), looking.late)
        shadows = performer.lookups.shadows
        for labels, count in (Counter[tuple[str, str]]() if shadows is None else shadows.verdicts).items():
            yield Sample(metrics.CACHE_SHADOWS, labels, count)
        for category, share in ({} if shadows is None else precision(shadows.verdicts)).items():
            yield Sample(metrics.CACHE_PRECISION, (category,), share)
        for outcome, count in performer.lookups.shared.items():
            yield Sample(metrics.CACHE_SINGLEFLIGHT, (outcome,), count)
    yield Sample(metrics.RUNNING, (), performer.num_running)
    for metric, counts in ((metrics.ROUTE_DECISIONS, performer.flow.placements), (metrics.MOVES, performer.flow.moves)):
        for label, count in counts.items():
            yield Sample(metric, split_label(label), count)
    yield from router_samples(performer.flow.figures())
    for worker in performer.flow.view.workers.values():
        yield from worker_samples(worker.report)
        age_ns = max(clock.now_ns() - worker.reported_ns, 0)
        yield Sample(metrics.REPORT_AGE, worker_labels(worker.report), age_ns / NS_PER_S)


ROUTER_METRICS = {
    "reservations": metrics.RESERVATIONS,
    "index_blocks": metrics.INDEX_BLOCKS,
    "index_gaps": metrics.INDEX_GAPS,
    "index_resyncs": metrics.INDEX_RESYNCS,
    "fairness_jain": metrics.FAIRNESS,
}
"""Figures of the request flow that are shown as they are."""


def router_samples(figures: Mapping[str, float]) -> Iterator[Sample]:
    """What the router knows and promised."""
    for name, value in figures.items():
        kind, label = split_label(name)
        if kind == "queue":
            yield Sample(metrics.QUEUE_DEPTH, (label,), value)
        elif name == "handoff_gain_ms":
            yield Sample(metrics.HANDOFF_GAIN, (), value / 1000)
        else:
            yield Sample(ROUTER_METRICS[name], (), value)
