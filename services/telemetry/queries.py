"""PromQL made of the metrics of metrics.py, so that no dashboard and no alert can name what is not exported."""

from __future__ import annotations

from services.telemetry.metrics import Kind, Metric, Place

WINDOW = "$__rate_interval"
"""Grafana's own choice, from the scrape interval and the picture's width."""


def series(metric: Metric, suffix: str = "", window: str = "", **labels: str) -> str:
    """A selector; a label's value that begins with `~` is a regular expression, and with `!~` one that must not fit."""
    known = (*metric.labels, "le") if suffix == "_bucket" else metric.labels
    assert set(labels) <= set(known), f"{metric.name} has the labels {known}, not {sorted(labels)}"
    matchers = []
    for label, value in labels.items():
        sign = "!~" if value.startswith("!~") else "=~" if value.startswith("~") else "="
        matchers.append(f'{label}{sign}"{value.lstrip("!~")}"')
    inside = f"{{{', '.join(matchers)}}}" if matchers else ""
    return f"{metric.name}{suffix}{inside}{f'[{window}]' if window else ''}"


def grew(metric: Metric, by: tuple[str, ...], within: str, **labels: str) -> str:
    """A counter that is higher than it was so long ago, or was not there then, which a rate does not see."""
    assert metric.kind is Kind.COUNTER, metric.name
    now, before = (
        f"sum{grouping(by)} (max by ({', '.join(metric.labels)}) ({series(metric, **labels)}{when}))"
        for when in ("", f" offset {within}")
    )
    return f"({now} > 0) unless ({now} == {before})"


def total_rate(metric: Metric, by: tuple[str, ...] = (), window: str = WINDOW, **labels: str) -> str:
    """Per second over all processes. Of a worker's counter, which front doors show as well, the highest counts."""
    assert metric.kind is not Kind.GAUGE, metric.name
    assert set(by) <= set(metric.labels), metric.name
    suffix = "_count" if metric.kind is Kind.HISTOGRAM else ""
    rate = f"rate({series(metric, suffix, window, **labels)})"
    if metric.place is Place.WORKER:
        rate = f"max by ({', '.join(metric.labels)}) ({rate})"
    return f"sum{grouping(by)} ({rate})"


def quantile(share: float, metric: Metric, by: tuple[str, ...] = (), window: str = WINDOW, **labels: str) -> str:
    """The value below which a share of the observations lies."""
    assert metric.kind is Kind.HISTOGRAM, metric.name
    rate = f"rate({series(metric, '_bucket', window, **labels)})"
    return f"histogram_quantile({share:g}, sum{grouping(('le', *by))} ({rate}))"


def mean(metric: Metric, window: str = WINDOW) -> str:
    """Mean of the observations."""
    assert metric.kind is Kind.HISTOGRAM, metric.name
    return f"sum (rate({series(metric, '_sum', window)})) / sum (rate({series(metric, '_count', window)}))"


def share_above(metric: Metric, bound: float, window: str = WINDOW) -> str:
    """Share of the observations above a bound, which must be one of the buckets."""
    assert bound in metric.buckets, f"{metric.name} has the buckets {metric.buckets}, not {bound}"
    below = f"sum (rate({series(metric, '_bucket', window, le=str(float(bound)))}))"
    return f"1 - ({below} / sum (rate({series(metric, '_count', window)})))"


def latest(metric: Metric, by: tuple[str, ...] = (), how: str = "sum", **labels: str) -> str:
    """A gauge over all processes; of a worker's, which front doors show as well, the highest of each worker counts."""
    assert metric.kind is Kind.GAUGE, metric.name
    assert set(by) <= set(metric.labels), metric.name
    each = series(metric, **labels)
    if metric.place is Place.WORKER:
        each = f"max by ({', '.join(metric.labels)}) ({each})"
    return f"{how}{grouping(by)} ({each})"


def ratio(part: str, whole: str) -> str:
    """One part of another; nothing where there is no whole."""
    return f"{part} / ({whole} > 0)"


def grouping(by: tuple[str, ...]) -> str:
    """The clause of an aggregation."""
    return f" by ({', '.join(by)})" if by else ""
