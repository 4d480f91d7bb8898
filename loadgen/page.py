"""The report as one HTML file that needs no network: tables, and plots that can be zoomed, for one run or several."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from loadgen.compare import METRICS, Table, compare_tables, report_tables, slo_text
from services.core.report import Report, Waterfall

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")
STYLE = """
:root { color-scheme: light } body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px;
padding: 0 1rem; color: #1f2937; background: #fff } h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-size: .85rem } td, th { padding: .2rem .7rem .2rem 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #e5e7eb } .wide { overflow-x: auto } .plots { display: grid;
grid-template-columns: repeat(auto-fit, minmax(520px, 1fr)); gap: 1rem } .verdict { padding: .6rem 1rem; border-radius:
.4rem; background: #ecfdf5 } .verdict.bad { background: #fef2f2 } .plots > div { min-width: 0 }
"""


@dataclass(frozen=True, slots=True)
class GoodputPoint:
    """One probe of a search: a rate and what came of it."""

    offered_rps: float
    goodput_rps: float
    attainment: float


def page(reports: Sequence[Report], names: Sequence[str], curve: Sequence[GoodputPoint] = ()) -> str:
    """The whole page.

    Args:
        reports: one, or several to compare.
        names: a label for each.
        curve: probes of a search, in order of rate; adds the goodput curve.
    """
    several = len(reports) > 1
    tables = compare_tables(reports, names) if several else report_tables(reports[0])
    figures = [goodput_curve(curve)] if curve else []
    for draw in (arrival_curve, dispersion, latency_over_time, slo_scatter, cumulative, phase_means, waterfall):
        figures.append(draw(reports, names))
    title = " against ".join(names) if several else names[0]
    parts = [f"<h1>{html.escape(title)}</h1>", *(_verdict(*each) for each in zip(reports, names, strict=True))]
    parts += [_table(table) for table in tables]
    parts.append('<h2>Plots</h2><div class="plots">')
    parts += [_plot(figure, f"plot-{place}") for place, figure in enumerate(figures) if figure is not None]
    parts.append("</div>")
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _verdict(report: Report, name: str) -> str:
    bad = report.generator.bottleneck
    text = f"{name}: {report.attainment.value:.1%} of {report.judged} requests met {slo_text(report.slo)}"
    text += f"; goodput {report.goodput_rps.value:.2f} requests/s."
    if bad:
        text += " The generator was the bottleneck, so these numbers are not the server's: " + "; ".join(bad) + "."
    return f'<p class="verdict{" bad" if bad else ""}">{html.escape(text)}</p>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.columns)
    rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in table.rows)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<h2>{html.escape(table.title)}</h2><div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _plot(figure: go.Figure, name: str) -> str:
    # The name is given: a drawn one would make two pages of one report differ.
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False, "responsive": True}
    )
    return text


def _figure(title: str, x: str, y: str, **layout: object) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        title=title, xaxis_title=x, yaxis_title=y, template="plotly_white", height=380, colorway=COLOURS
    )
    figure.update_layout(margin={"l": 60, "r": 20, "t": 50, "b": 50}, legend={"orientation": "h", "y": -0.2}, **layout)
    return figure


def arrival_curve(reports: Sequence[Report], names: Sequence[str]) -> go.Figure:
    """Requests per second, as the schedule wanted them and as they were sent."""
    figure = _figure("Arrivals: source and delivered", "time, s", "requests/s")
    for report, name in zip(reports, names, strict=True):
        series = report.series
        x = [place * series.bin_s for place in range(len(series.offered))]
        for label, counts, dash in (("source", series.offered, "solid"), ("delivered", series.sent, "dot")):
            y = [count / series.bin_s for count in counts]
            figure.add_scatter(x=x[: len(y)], y=y, name=f"{name}: {label}", line={"dash": dash, "shape": "hv"})
    return figure


def dispersion(reports: Sequence[Report], names: Sequence[str]) -> go.Figure | None:
    """Burstiness at every time scale; a line at 1 is Poisson."""
    if not any(report.dispersion for report in reports):
        return None
    figure = _figure("Index of dispersion (1 is Poisson)", "window, s", "variance / mean")
    for report, name in zip(reports, names, strict=True):
        x = [each.window_s for each in report.dispersion]
        figure.add_scatter(x=x, y=[each.source for each in report.dispersion], name=f"{name}: source")
        delivered = [each.delivered for each in report.dispersion]
        figure.add_scatter(x=x, y=delivered, name=f"{name}: delivered", line={"dash": "dot"})
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    return figure


def latency_over_time(reports: Sequence[Report], names: Sequence[str]) -> go.Figure:
    """TTFT percentiles at the time at which requests ought to have been sent, and the misses below."""
    figure = _figure("TTFT over time, from the intended send time", "intended send time, s", "ms")
    for report, name in zip(reports, names, strict=True):
        series = report.series
        x = [place * series.bin_s for place in range(len(series.ttft_p50_ms))]
        figure.add_scatter(x=x, y=series.ttft_p50_ms, name=f"{name}: p50")
        figure.add_scatter(x=x, y=series.ttft_p99_ms, name=f"{name}: p99", line={"dash": "dot"})
        if any(series.missed):
            figure.add_bar(x=x, y=series.missed[: len(x)], name=f"{name}: missed the SLO", yaxis="y2", opacity=0.3)
    figure.update_layout(yaxis2={"overlaying": "y", "side": "right", "title": "requests", "showgrid": False})
    return figure


def slo_scatter(reports: Sequence[Report], names: Sequence[str]) -> go.Figure | None:
    """Each request's TTFT and TPOT against the box that the SLO allows."""
    if not any(report.scatter for report in reports):
        return None
    figure = _figure("TTFT and TPOT against the SLO", "TTFT, ms", "TPOT, ms")
    for report, name in zip(reports, names, strict=True):
        for met, label in ((True, "met"), (False, "missed")):
            points = [point for point in report.scatter if point.met == met]
            if points:
                x, y = [point.ttft_ms for point in points], [point.tpot_ms for point in points]
                marker = {"size": 5, "opacity": 0.6, "symbol": "circle" if met else "x"}
                figure.add_scatter(x=x, y=y, mode="markers", name=f"{name}: {label}", marker=marker)
    slo = reports[0].slo
    box = {"line": {"color": "#6b7280", "dash": "dash"}}
    if slo.ttft_ms is not None:
        figure.add_vline(slo.ttft_ms, **box)
    if slo.tpot_ms is not None:
        figure.add_hline(slo.tpot_ms, **box)
    return figure


def cumulative(reports: Sequence[Report], names: Sequence[str]) -> go.Figure:
    """Share of requests at or below a latency."""
    figure = _figure("Cumulative distributions", "ms", "share of requests or gaps", xaxis_type="log")
    for report, name in zip(reports, names, strict=True):
        for metric, pick in METRICS:
            found = pick(report.latency)
            for since, values, dash in (("", found.intended, "solid"), (" from actual send", found.sent, "dot")):
                if values is None or (since and metric in {"TPOT", "ITL"}):
                    continue
                x = [max(each, 0.001) for each in values.quantiles]
                y = [place / 100 for place in range(101)]
                figure.add_scatter(x=x, y=y, name=f"{name}: {metric}{since}", line={"dash": dash})
    return figure


def phase_means(reports: Sequence[Report], names: Sequence[str]) -> go.Figure | None:
    """Where a request's time goes on the server, mean of all requests, one bar for each run."""
    if not any(report.phases for report in reports):
        return None
    figure = _figure("Phases of a request, as the server tells them", "mean, ms", "", barmode="stack")
    phases = dict.fromkeys(phase.name for report in reports for phase in report.phases)
    for phase in phases:
        means = [next((each.ms.mean for each in report.phases if each.name == phase), math.nan) for report in reports]
        figure.add_bar(y=list(names), x=means, name=phase, orientation="h")
    return figure


def waterfall(reports: Sequence[Report], names: Sequence[str]) -> go.Figure | None:
    """When the phases of the slowest requests began and ended, a line for each request, the slowest on top.

    Of one run: lines of several do not belong together. Phases may overlap: an early hand-off begins within prefill.
    """
    slowest = reports[0].slowest
    if len(reports) > 1 or not slowest:
        return None
    title = f"Waterfall of the {len(slowest)} slowest requests"
    axis = "ms since the server received it; points: since the client sent it"
    figure = _figure(title, axis, "", barmode="overlay", bargap=0.25)
    for phase in dict.fromkeys(bar.name for each in slowest for bar in each.bars):
        found = [(_label(each), bar) for each in slowest for bar in each.bars if bar.name == phase]
        bars = [bar for _, bar in found]
        figure.add_bar(
            y=[label for label, _ in found],
            base=[bar.start_ms for bar in bars],
            x=[bar.ms for bar in bars],
            name=phase,
            orientation="h",
            opacity=0.85,
        )
    for name, symbol, times in (
        ("client has the first token", "diamond", [each.ttft_ms for each in slowest]),
        ("client has the last", "line-ns-open", [each.e2e_ms for each in slowest]),
    ):
        marker = {"symbol": symbol, "color": "#111827", "size": 8}
        figure.add_scatter(y=[_label(each) for each in slowest], x=times, mode="markers", name=name, marker=marker)
    order = [_label(each) for each in reversed(slowest)]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=order)
    figure.update_layout(height=max(380, 140 + 18 * len(slowest)), legend={"y": -0.12})
    return figure


def _label(found: Waterfall) -> str:
    return f"#{found.index}"


def goodput_curve(curve: Sequence[GoodputPoint]) -> go.Figure:
    """Goodput and attainment over the offered rate."""
    figure = _figure("Goodput over the offered rate", "offered, requests/s", "goodput, requests/s")
    x = [point.offered_rps for point in curve]
    figure.add_scatter(x=x, y=[point.goodput_rps for point in curve], mode="lines+markers", name="goodput")
    shares = [point.attainment for point in curve]
    figure.add_scatter(x=x, y=shares, mode="lines+markers", name="SLO attainment", yaxis="y2", line={"dash": "dot"})
    figure.update_layout(yaxis2={"overlaying": "y", "side": "right", "title": "attainment", "range": [0, 1.02]})
    return figure
