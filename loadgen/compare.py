"""Tables of one report, and of several side by side with ratios; plain values, drawn by the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.core.report import Distribution, Interval, Latency, Metric, Report
from services.core.slo import Slo

METRICS: tuple[tuple[str, Callable[[Latency], Metric]], ...] = (
    ("TTFT", lambda latency: latency.ttft_ms),
    ("TPOT", lambda latency: latency.tpot_ms),
    ("ITL", lambda latency: latency.itl_ms),
    ("E2E", lambda latency: latency.e2e_ms),
)
PERCENTILES: tuple[tuple[str, Callable[[Distribution], Interval]], ...] = (
    ("p50", lambda found: found.p50),
    ("p90", lambda found: found.p90),
    ("p99", lambda found: found.p99),
)
BIGGEST_MESSAGE = 110


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a heading for each column, and rows of as many cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def with_interval(found: Interval, scale: float = 1.0) -> str:
    """`12.3 [11.9, 12.8]`."""
    return f"{number(found.value * scale)} [{number(found.low * scale)}, {number(found.high * scale)}]"


def slo_text(slo: Slo) -> str:
    """The bounds as words."""
    bounds = [f"{name} ≤ {value:g} ms" for name, value in (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms)) if value]
    return " and ".join(bounds) or "none: every success meets it"


# ------------------------------------------------------------------ one report


def report_tables(report: Report) -> tuple[Table, ...]:
    """Everything of a report that fits a terminal."""
    tables = (_summary(report), _latency(report), _truth(report), _groups(report), _phases(report), _failures(report))
    return tuple(table for table in tables if table.rows)


def _summary(report: Report) -> Table:
    rows = [
        ("target", report.target),
        ("workload", report.workload),
        ("offered / sent / succeeded", f"{report.offered} / {report.sent} / {report.succeeded}"),
        ("length", f"{report.duration_s:.1f} s" + (" (interrupted)" if report.interrupted else "")),
        ("offered rate", f"{number(report.offered_rps)} requests/s"),
        ("SLO", slo_text(report.slo)),
        ("SLO attainment", f"{with_interval(report.attainment, 100)} % of {report.judged} judged"),
        ("goodput", f"{with_interval(report.goodput_rps)} requests/s"),
        ("output", f"{number(report.output_tokens_per_s)} tokens/s, {report.output_tokens} in all"),
        ("prompt tokens from the cache", f"{report.cached_tokens} of {report.input_tokens}"),
    ]
    if report.short_outputs:
        rows.append(("outputs shorter than asked", str(report.short_outputs)))
    rows += [("note", note) for note in report.notes]
    return Table(report.name, ("", ""), tuple(rows))


def _latency(report: Report) -> Table:
    rows = []
    for name, pick in METRICS:
        metric = pick(report.latency)
        since_both = (("intended", metric.intended), ("actual", metric.sent))
        for since, found in since_both if metric.sent != metric.intended else (("either", metric.intended),):
            if found is not None:
                values = (number(found.mean), *(with_interval(get(found)) for _, get in PERCENTILES), number(found.max))
                rows.append((name, since, *values))
    columns = ("", "from send time", "mean", "p50", "p90", "p99", "max")
    return Table("Latency in ms, with 95 % bootstrap intervals", columns, tuple(rows))


def _truth(report: Report) -> Table:
    truth = report.generator
    rows = []
    for name, found in (("send lag", truth.send_lag_ms), ("loop lag", truth.loop_lag_ms)):
        if found is not None:
            spread = f"p50 {number(found.p50.value)}, p99 {number(found.p99.value)}, max {number(found.max)} ms"
            rows.append((name, spread))
    rows += [
        ("achieved / offered", f"{truth.achieved:.1%}; worst second {truth.worst_second:.1%} in time"),
        ("processor", f"{truth.cpu_cores:.2f} cores in {truth.processes} sending processes"),
    ]
    if truth.rss_mib:
        rows.append(("memory", f"{truth.rss_mib[0]:.0f} MiB at first, {truth.rss_mib[-1]:.0f} MiB at last"))
    rows += [("BOTTLENECK", reason) for reason in truth.bottleneck]
    return Table("The generator about itself", ("", ""), tuple(rows))


def _groups(report: Report) -> Table:
    rows = tuple(
        (
            group.by.replace("_", " "),
            group.name,
            str(group.judged),
            with_interval(group.attainment, 100),
            number(group.goodput_rps),
            *(_two(group.ttft_ms), _two(group.tpot_ms)),
        )
        for group in report.groups
    )
    columns = ("by", "", "requests", "attainment %", "goodput/s", "TTFT p50 / p99", "TPOT p50 / p99")
    return Table("Groups", columns, rows)


def _two(found: Distribution | None) -> str:
    return "-" if found is None else f"{number(found.p50.value)} / {number(found.p99.value)}"


def _phases(report: Report) -> Table:
    rows = tuple(
        (phase.name, str(phase.ms.count), number(phase.ms.mean), number(phase.ms.p50.value), number(phase.ms.p99.value))
        for phase in report.phases
    )
    return Table("Phases as the server tells them, ms", ("", "requests", "mean", "p50", "p99"), rows)


def _failures(report: Report) -> Table:
    rows = tuple(
        (each.outcome, each.reason, str(each.count), each.example[:BIGGEST_MESSAGE]) for each in report.failures
    )
    return Table("Did not succeed", ("", "reason", "count", "for example"), rows)


# ------------------------------------------------------------------ several reports


def ratio(one: Interval, base: Interval) -> Interval | None:
    """one / base; None when either is not above 0.

    The interval is made of the two intervals in the logarithm, each side by itself, as for independent estimates
    (Zou and Donner 2008, recovery of variances from confidence limits).
    """
    if min(one.low, base.low) <= 0:
        return None
    value = one.value / base.value
    down = math.hypot(math.log(one.value / one.low), math.log(base.high / base.value))
    up = math.hypot(math.log(one.high / one.value), math.log(base.value / base.low))
    return Interval(value, value * math.exp(-down), value * math.exp(up))


def compare_tables(reports: Sequence[Report], names: Sequence[str]) -> tuple[Table, ...]:
    """All reports side by side; every one after the first also as a ratio to the first.

    Args:
        reports: at least two.
        names: a heading for each.
    """
    columns = ("", names[0], *(heading for name in names[1:] for heading in (name, "ratio")))
    same = [
        ("target", [report.target for report in reports]),
        ("workload", [report.workload for report in reports]),
        ("SLO", [slo_text(report.slo) for report in reports]),
        ("sent / succeeded", [f"{report.sent} / {report.succeeded}" for report in reports]),
        ("generator was the bottleneck", ["yes" if report.generator.bottleneck else "no" for report in reports]),
    ]
    rows = [(label, values[0], *(cell for value in values[1:] for cell in (value, ""))) for label, values in same]
    rows.append(_row("SLO attainment %", [report.attainment for report in reports], 100))
    rows.append(_row("goodput, requests/s", [report.goodput_rps for report in reports]))
    for name, pick in METRICS:
        for percentile, get in PERCENTILES:
            found = [pick(report.latency).intended for report in reports]
            rows.append(_row(f"{name} {percentile}, ms", [None if each is None else get(each) for each in found]))
    title = "Side by side, latencies from the intended send time, ratios to the first; 95 % intervals"
    return (Table(title, columns, tuple(rows)),)


def _row(label: str, values: Sequence[Interval | None], scale: float = 1.0) -> tuple[str, ...]:
    cells = ["-" if value is None else with_interval(value, scale) for value in values]
    row = [label, cells[0]]
    for value, cell in zip(values[1:], cells[1:], strict=True):
        found = None if value is None or values[0] is None else ratio(value, values[0])
        row += [cell, "-" if found is None else f"× {with_interval(found)}"]
    return tuple(row)
