"""Grafana dashboards as data: what is shown of which metric, one file a concern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.telemetry import metrics
from services.telemetry.alerts import FAULTS, SERVED, Objective
from services.telemetry.metrics import Metric
from services.telemetry.queries import latest, mean, quantile, ratio, share_above, total_rate

SCHEMA = 39
"""Of Grafana's dashboard model; 10.3 and later read it."""
WIDTH, HEIGHT, PANELS_A_ROW = 24, 8, 3
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Attributes:
        queries: (PromQL, legend) each.
        unit: Grafana's name of it: s, short, percentunit, bytes, reqps, ...
        about: what it shows, for people.
        kind: Grafana's panel type.
        line: a threshold to draw, or None.
        signed: values may be below zero.
    """

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str
    about: str
    kind: str = "timeseries"
    line: float | None = None
    signed: bool = False


Rows = Sequence[tuple[str, Sequence[Panel]]]


def quantiles(title: str, metric: Metric, line: float | None = None) -> Panel:
    """Median, 90th and 99th percentile."""
    queries = [(quantile(share, metric), f"p{share * 100:g}") for share in (0.5, 0.9, 0.99)]
    return Panel(title, queries, "s", metric.help, line=line)


def by(title: str, metric: Metric, labels: tuple[str, ...], unit: str = "short") -> Panel:
    """A counter's rate by labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in labels) or title.lower()
    return Panel(title, [(total_rate(metric, labels), legend)], unit, metric.help)


def errors(title: str, metric: Metric, unit: str) -> Panel:
    """How a signed error is spread, by kind."""
    queries = [(quantile(share, metric, ("kind",)), f"{{{{kind}}}} p{share * 100:g}") for share in (0.1, 0.5, 0.9)]
    return Panel(title, queries, unit, metric.help, signed=True)


def state(title: str, metric: Metric, labels: tuple[str, ...] = ("worker",), unit: str = "short") -> Panel:
    """A gauge by labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in labels) or title.lower()
    return Panel(title, [(latest(metric, labels), legend)], unit, metric.help)


def overview(objective: Objective) -> Rows:
    """Whether clients get what they were promised."""
    ttft_s, itl_s = (objective.slo.ttft_ms or 0) / 1000, (objective.slo.tpot_ms or 0) / 1000
    failed = ratio(total_rate(metrics.CALLS, code=FAULTS, method=SERVED), total_rate(metrics.CALLS, method=SERVED))
    attained = "Share of the observations within the bound."
    kept = [
        Panel("TTFT kept", [(f"1 - ({share_above(metrics.TTFT, ttft_s)})", "kept")], "percentunit", attained, "stat"),
        Panel("ITL kept", [(f"1 - ({share_above(metrics.ITL, itl_s)})", "kept")], "percentunit", attained, "stat"),
        Panel("Calls failed", [(failed, "failed")], "percentunit", "By the server's fault.", "stat"),
    ]
    latency = [
        quantiles("Time to first token", metrics.TTFT, ttft_s),
        quantiles("Inter-token latency", metrics.ITL, itl_s),
        quantiles("End to end", metrics.E2E),
    ]
    tokens = [(total_rate(metrics.PROMPT_TOKENS), "prompt"), (total_rate(metrics.GENERATION_TOKENS), "output")]
    traffic = [
        by("Requests ended", metrics.SUCCESSES, ("finished_reason",), "reqps"),
        by("Requests failed", metrics.FAILURES, ("reason",), "reqps"),
        by("Requests refused", metrics.REJECTIONS, ("reason",), "reqps"),
        by("Above a tenant's limits", metrics.TENANT_LIMITED, ("reason",), "reqps"),
        by("Structured outputs", metrics.STRUCTURED, ("kind", "outcome"), "reqps"),
        Panel("Tokens a second", tokens, "short", "Of ended requests."),
        state("Requests running", metrics.RUNNING, ()),
        by("Calls", metrics.CALLS, ("method", "code"), "reqps"),
    ]
    phases = (
        metrics.DISPATCH_TIME,
        metrics.QUEUE_TIME,
        metrics.PREFILL_TIME,
        metrics.HANDOFF_TIME,
        metrics.DECODE_TIME,
    )
    queries = [(mean(metric), metric.name.removeprefix(metrics.PREFIX).removesuffix("_seconds")) for metric in phases]
    where = [Panel("Where the time goes", queries, "s", "Mean of each phase."), quantiles("Loop lag", metrics.LOOP_LAG)]
    return (("Objectives", kept), ("Latency", latency), ("Traffic", traffic), ("Inside", where))


def pools() -> Rows:
    """Workers: how many, how loaded, how full."""
    workers = [
        state("Workers", metrics.WORKERS, ("pool", "state")),
        state("Losses in a row", metrics.WORKER_FAILURES),
        state("Age of reports", metrics.REPORT_AGE, unit="s"),
        by("Plans as traffic drifted", metrics.REPLANS, ("outcome",)),
    ]
    load = [
        state("Prompt tokens that wait", metrics.QUEUED_TOKENS),
        state("Decodes", metrics.DECODES),
        state("Context tokens", metrics.CONTEXT_TOKENS),
        quantiles("Queue time", metrics.QUEUE_TIME),
        quantiles("Prefill time", metrics.PREFILL_TIME),
        quantiles("Decode time", metrics.DECODE_TIME),
    ]
    kv = [
        state("KV used", metrics.KV_USAGE, unit="percentunit"),
        state("KV blocks", metrics.KV_BLOCKS, ("worker", "state")),
        by("Preemptions", metrics.PREEMPTIONS, ("worker",)),
        state("Requests held", metrics.HELD),
        state("Threads", metrics.THREADS),
        state("Sockets", metrics.SOCKETS),
        by("Events", metrics.WORKER_EVENTS, ("kind", "reason")),
    ]
    return (("Workers", workers), ("Load", load), ("KV cache", kv))


def handoff() -> Rows:
    """KV cache on its way from prefill to decode."""
    time = [
        quantiles("Offer to commit", metrics.HANDOFF_TIME),
        quantiles("Offer to grant", metrics.HANDOFF_WAIT),
        Panel("Hand-offs", [(total_rate(metrics.HANDOFF_TIME), "committed")], "reqps", "Committed."),
    ]
    events = total_rate(metrics.WORKER_EVENTS, ("kind", "reason"), kind="~handoff_.*|link_.*|held_back")
    wrong = [(events, "{{kind}} {{reason}}")]
    under_way = [
        state("Waiting for blocks", metrics.OFFERS_WAITING),
        state("Under way", metrics.TRANSFERS),
        state("Leases", metrics.LEASES),
        state("Links", metrics.LINKS),
        Panel("What went wrong", wrong, "short", "Retries, failures, links that were given up."),
    ]
    return (("Time", time), ("State", under_way))


def routing() -> Rows:
    """Placement, and what was answered without a worker."""
    hits = ratio(total_rate(metrics.PREFIX_HITS), total_rate(metrics.PREFIX_QUERIES))
    answered = ratio(total_rate(metrics.CACHE_REQUESTS, outcome="hit"), total_rate(metrics.CACHE_REQUESTS))
    router = [
        by("Placements", metrics.ROUTE_DECISIONS, ("path", "reason"), "reqps"),
        by("Requests moved", metrics.MOVES, ("kind", "reason"), "reqps"),
        quantiles("Receipt to dispatch", metrics.DISPATCH_TIME),
        quantiles("Placement and turn", metrics.ROUTE_TIME),
        Panel("Prefix cache", [(hits, "tokens found")], "percentunit", metrics.PREFIX_HITS.help),
        state("Waiting for their turn", metrics.QUEUE_DEPTH, ("priority",)),
        state("Placed and not yet reported", metrics.RESERVATIONS, ()),
    ]
    predictions = [
        errors("Prediction error", metrics.PREDICTION_ERROR, "s"),
        errors("Prediction error, relative", metrics.PREDICTION_ERROR_RATIO, "percentunit"),
        by("Objectives that requests named", metrics.SLO_OUTCOMES, ("kind", "outcome"), "reqps"),
        state("Fairness", metrics.FAIRNESS, (), "percentunit"),
        replace(state("Saved by hand-offs", metrics.HANDOFF_GAIN, (), "s"), signed=True),
    ]
    index = [
        state("Prefix blocks known", metrics.INDEX_BLOCKS, ()),
        by("News missed", metrics.INDEX_GAPS, ()),
        by("Told again", metrics.INDEX_RESYNCS, ()),
    ]
    cache = [
        Panel("Hit rate", [(answered, "answered")], "percentunit", "Share of the lookups that were answered."),
        by("Lookups", metrics.CACHE_REQUESTS, ("tier", "outcome"), "reqps"),
        by("Hits by category", metrics.CACHE_REQUESTS, ("category", "outcome"), "reqps"),
        by("Not kept", metrics.CACHE_WRITE_SKIPPED, ("reason",), "reqps"),
        by("Evicted", metrics.CACHE_EVICTIONS, ("reason",), "reqps"),
        state("Entries", metrics.CACHE_ENTRIES, ()),
        state("Size", metrics.CACHE_BYTES, (), "bytes"),
        quantiles("Look", metrics.CACHE_LOOKUP),
        by("Tokens saved", metrics.CACHE_SAVED_TOKENS, ("kind",)),
        quantiles("Age of answers given", metrics.CACHE_AGE),
        replace(quantiles("Likeness of semantic hits", metrics.CACHE_SIMILARITY), unit="percentunit"),
        by("Ended by operators", metrics.CACHE_INVALIDATIONS, ("selection",)),
        by("Candidates that the gate rejected", metrics.CACHE_GATE_REJECTS, ("rule",)),
        by("Placed while their meaning was looked for", metrics.CACHE_MEANWHILE, ("outcome",), "reqps"),
        by("Waited for an equal request", metrics.CACHE_SINGLEFLIGHT, ("outcome",), "reqps"),
        by("Second opinions on semantic hits", metrics.CACHE_SHADOWS, ("verdict",)),
        state("Estimated precision of semantic hits", metrics.CACHE_PRECISION, ("category",), "percentunit"),
        by("Questions embedded", metrics.CACHE_EMBEDDED, ("kind",), "reqps"),
        by("Wordings that the judge read", metrics.CACHE_JUDGED, (), "reqps"),
        by("Busy with that", metrics.CACHE_EMBED_SECONDS, (), "percentunit"),
        by("Shared through Redis", metrics.CACHE_SHARED, ("event",)),
        state("Redis answers", metrics.CACHE_BACKEND_UP, ()),
    ]
    return (("Router", router), ("Predictions", predictions), ("Prefix index", index), ("Response cache", cache))


def dashboards(objective: Objective) -> dict[str, dict[str, Any]]:
    """All of them by file name."""
    found = {
        "overview": ("Triptych: overview", overview(objective)),
        "pools": ("Triptych: pools and KV cache", pools()),
        "handoff": ("Triptych: hand-off", handoff()),
        "routing": ("Triptych: router and cache", routing()),
    }
    return {f"{name}.json": dashboard(f"triptych-{name}", title, rows) for name, (title, rows) in found.items()}


def dashboard(uid: str, title: str, rows: Rows) -> dict[str, Any]:
    """Grafana's model of one dashboard."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["triptych"],
        "schemaVersion": SCHEMA,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}]
        },
        "links": [{"type": "dashboards", "tags": ["triptych"], "title": "Triptych", "asDropdown": True}],
        "panels": placed(rows),
    }


def placed(rows: Rows) -> list[dict[str, Any]]:
    """Every panel with its place on a grid of 24 columns, under the heading of its row."""
    found: list[dict[str, Any]] = []
    top, size = 0, WIDTH // PANELS_A_ROW
    for heading, panels in rows:
        place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        found.append({"id": len(found) + 1, "type": "row", "title": heading, "gridPos": place, "panels": []})
        top += 1
        for number, panel in enumerate(panels):
            x, y = number % PANELS_A_ROW * size, top + number // PANELS_A_ROW * HEIGHT
            found.append(panel_model(len(found) + 1, panel, {"x": x, "y": y, "w": size, "h": HEIGHT}))
        top += -(-len(panels) // PANELS_A_ROW) * HEIGHT
    return found


def panel_model(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    """Grafana's model of one panel."""
    defaults: dict[str, Any] = {"unit": panel.unit} | ({} if panel.signed else {"min": 0})
    if panel.line is not None:
        steps = [{"color": "transparent", "value": None}, {"color": "red", "value": panel.line}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        defaults["custom"] = {"thresholdsStyle": {"mode": "line"}}
    targets = [
        {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": SOURCE}
        for place, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }
