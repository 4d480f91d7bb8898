"""The plots of the report, of one run or of several: each says its units, and shows what was asked and what came."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from loadgen.compare import METRICS
from services.core.report import Report, Waterfall

BLUE, RED, GREEN, AMBER, VIOLET, CYAN, GREY, INK = (
    "#2563eb",
    "#dc2626",
    "#059669",
    "#d97706",
    "#7c3aed",
    "#0891b2",
    "#9ca3af",
    "#111827",
)
COLOURS = (BLUE, RED, GREEN, AMBER, VIOLET, CYAN)
"""Of several runs, one each; of one run the colours tell its lines apart."""
PHASES = {"queue": GREY, "encode": VIOLET, "prefill": BLUE, "transfer": AMBER, "decode": GREEN}
FONT = "system-ui, sans-serif"
HALF_PX, TIMELINE_PX, BAR_PX = 360, 300, 18
DASHES = {"TTFT": "solid", "TPOT": "solid", "E2E": "dash", "ITL": "dash"}


@dataclass(frozen=True, slots=True)
class GoodputPoint:
    """One probe of a search: a rate and what came of it."""

    offered_rps: float
    goodput_rps: float
    attainment: float


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure, and whether it takes the page's whole width or half of it."""

    figure: go.Figure
    wide: bool = False


def plots(reports: Sequence[Report], names: Sequence[str], curve: Sequence[GoodputPoint] = ()) -> list[Plot]:
    """All that there is something to draw for.

    Args:
        reports: one, or several to compare.
        names: a label for each.
        curve: probes of a search, in order of rate; adds the goodput curve.
    """
    runs = Runs(reports, names)
    found = (
        goodput_curve(curve) if curve else None,
        arrival_curve(runs),
        latency_over_time(runs),
        dispersion(runs),
        slo_scatter(runs),
        cumulative(runs, "Time to first token and to the last", ("TTFT", "E2E")),
        cumulative(runs, "Time per output token, and gaps between messages", ("TPOT", "ITL")),
        phase_means(runs),
        waterfall(runs),
    )
    return [each for each in found if each is not None]


@dataclass(frozen=True, slots=True)
class Runs:
    """What is drawn: one run whose lines differ in colour, or several that have a colour each."""

    reports: Sequence[Report]
    names: Sequence[str]

    def __iter__(self) -> Iterator[tuple[int, Report]]:
        return iter(enumerate(self.reports))

    def line(self, place: int, label: str, colour: str, **style: Any) -> dict[str, Any]:
        """Name and style of a line of one run."""
        return {"name": self.label(place, label), "line": {"color": self.colour(place, colour), "width": 1.8, **style}}

    def label(self, place: int, label: str) -> str:
        """What stands in the legend."""
        return label if len(self.names) == 1 else f"{self.names[place]}: {label}"

    def colour(self, place: int, colour: str) -> str:
        """The one given, or that of the run."""
        return colour if len(self.names) == 1 else COLOURS[place % len(COLOURS)]


def _figure(title: str, x: str, y: str, height: int = HALF_PX, **layout: Any) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0, "xref": "paper", "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 14}},
        title_font_size=15,
        font={"family": FONT, "size": 12, "color": "#374151"},
        height=height,
        margin={"l": 64, "r": 16, "t": 46, "b": 70},
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        hoverlabel={"font_family": FONT},
        colorway=COLOURS,
        **layout,
    )
    figure.update_xaxes(title_text=x, title_standoff=6, showline=True, linecolor="#d1d5db")
    figure.update_yaxes(title_text=y, title_standoff=6)
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(separatethousands=True, exponentformat="none", rangemode="tozero")
    return figure


def arrival_curve(runs: Runs) -> Plot:
    """Requests per second, as the schedule wanted them and as they were sent."""
    figure = _figure(
        "Arrivals: asked for and sent, requests per second",
        "time, s",
        "requests/s",
        TIMELINE_PX,
        hovermode="x unified",
    )
    for place, report in runs:
        series = report.series
        x = [place * series.bin_s for place in range(len(series.offered))]
        offered, sent = ([count / series.bin_s for count in counts] for counts in (series.offered, series.sent))
        source = {"x": x, "y": offered, "fill": "tozeroy" if len(runs.names) == 1 else "none"}
        figure.add_scatter(**source, **runs.line(place, "source", GREY, shape="hv", width=0.8))
        figure.add_scatter(x=x, y=sent[: len(x)], **runs.line(place, "delivered", BLUE, shape="hv", dash="dot"))
    return Plot(figure, wide=True)


def dispersion(runs: Runs) -> Plot | None:
    """Burstiness at every time scale; a line at 1 is Poisson."""
    if not any(report.dispersion for report in runs.reports):
        return None
    figure = _figure(
        "Burstiness of arrivals: index of dispersion (1 is Poisson)", "window, s", "variance / mean of counts"
    )
    for place, report in runs:
        x = [each.window_s for each in report.dispersion]
        figure.add_scatter(
            x=x, y=[each.source for each in report.dispersion], **runs.line(place, "source", GREY, width=4)
        )
        delivered = [each.delivered for each in report.dispersion]
        figure.add_scatter(x=x, y=delivered, **runs.line(place, "delivered", BLUE, dash="dot"))
    figure.add_hline(1, line={"color": INK, "width": 1, "dash": "dash"})
    figure.update_xaxes(type="log", dtick="D2")
    figure.update_yaxes(type="log", dtick="D2")
    return Plot(figure)


def latency_over_time(runs: Runs) -> Plot:
    """TTFT percentiles at the time at which requests ought to have been sent, and the misses below."""
    figure = _figure(
        "Time to first token, ms, and requests that missed the SLO, each at its intended send time",
        "intended send time, s",
        "TTFT, ms",
        TIMELINE_PX + 80,
        hovermode="x unified",
    )
    for place, report in runs:
        series = report.series
        x = [place * series.bin_s for place in range(len(series.ttft_p50_ms))]
        for label, values, colour, dash in (
            ("p50", series.ttft_p50_ms, BLUE, "solid"),
            ("p99", series.ttft_p99_ms, VIOLET, "dot"),
        ):
            look = runs.line(place, label, colour, dash=dash)
            figure.add_scatter(x=x, y=values, mode="lines+markers", marker={"size": 4}, **look)
        missed = {"name": runs.label(place, "missed"), "marker": {"color": runs.colour(place, RED)}}
        figure.add_bar(x=x, y=series.missed[: len(x)], yaxis="y2", **missed)
    if (bound := runs.reports[0].slo.ttft_ms) is not None:
        figure.add_hline(bound, line={"color": INK, "width": 1, "dash": "dash"}, annotation_text="SLO")
    figure.update_layout(
        yaxis={"domain": (0.34, 1)},
        yaxis2={"domain": (0, 0.22), "title": "missed", "rangemode": "tozero", "nticks": 3},
        xaxis={"anchor": "y2"},
        bargap=0,
    )
    return Plot(figure, wide=True)


def slo_scatter(runs: Runs) -> Plot | None:
    """Each request's TTFT and TPOT against the box that the SLO allows."""
    if not any(report.scatter for report in runs.reports):
        return None
    figure = _figure("Each request against the SLO (shaded)", "TTFT, ms", "TPOT, ms")
    for place, report in runs:
        for met, label, colour in ((True, "met", BLUE), (False, "missed", RED)):
            points = [point for point in report.scatter if point.met == met]
            if points:
                x, y = [point.ttft_ms for point in points], [point.tpot_ms for point in points]
                symbol = "circle" if met else "x"
                marker = {"size": 5, "opacity": 0.6, "symbol": symbol, "color": runs.colour(place, colour)}
                figure.add_scatter(x=x, y=y, mode="markers", name=runs.label(place, label), marker=marker)
    slo = runs.reports[0].slo
    box = {"fillcolor": GREEN, "opacity": 0.1, "line_width": 0, "layer": "below"}
    if slo.ttft_ms is not None and slo.tpot_ms is not None:
        figure.add_shape(type="rect", x0=0, x1=slo.ttft_ms, y0=0, y1=slo.tpot_ms, **box)
    elif slo.ttft_ms is not None:
        figure.add_vrect(0, slo.ttft_ms, **box)
    elif slo.tpot_ms is not None:
        figure.add_hrect(0, slo.tpot_ms, **box)
    return Plot(figure)


def cumulative(runs: Runs, title: str, metrics: Sequence[str]) -> Plot:
    """Share of requests, or of gaps, at or below a latency."""
    figure = _figure(f"{title}: cumulative", "ms", "share", hovermode="closest")
    for place, report in runs:
        for (metric, pick), colour in zip(METRICS, (BLUE, GREEN, AMBER, VIOLET), strict=True):
            found = pick(report.latency)
            if metric not in metrics or found.intended is None:
                continue
            y = [share / 100 for share in range(101)]
            look = runs.line(place, metric, colour, dash="solid" if len(runs.names) == 1 else DASHES[metric])
            figure.add_scatter(x=_positive(found.intended.quantiles), y=y, **look)
            if len(runs.names) == 1 and found.sent is not None and found.sent != found.intended:
                look = runs.line(place, f"{metric} from the actual send time", colour, dash="dot")
                figure.add_scatter(x=_positive(found.sent.quantiles), y=y, **look)
    figure.update_xaxes(type="log", dtick="D2")
    figure.update_yaxes(tickformat=".0%")
    return Plot(figure)


def _positive(values: Sequence[float]) -> list[float]:
    return [max(each, 0.001) for each in values]  # an axis in the logarithm has no 0


def phase_means(runs: Runs) -> Plot | None:
    """Where a request's time goes on the server, mean of all requests, one bar for each run whose server tells it."""
    if not any(report.phases for report in runs.reports):
        return None
    told = [(name, report) for name, report in zip(runs.names, runs.reports, strict=True) if report.phases]
    height = 140 + 2 * BAR_PX * len(told)
    figure = _figure("Where the time goes: mean of each phase, as the server tells it", "ms", "", height)
    for phase in dict.fromkeys(phase.name for _, report in told for phase in report.phases):
        found = [next((each.ms.mean for each in one.phases if each.name == phase), math.nan) for _, one in told]
        text = [f"{mean:,.0f}" for mean in found]
        colour = {"color": PHASES.get(phase)}
        figure.add_bar(y=[name for name, _ in told], x=found, name=phase, orientation="h", text=text, marker=colour)
    figure.update_traces(textposition="inside", textangle=0, insidetextanchor="middle")
    figure.update_layout(barmode="stack", bargap=0.3, legend_traceorder="normal")
    figure.update_yaxes(autorange="reversed", showticklabels=len(runs.names) > 1, automargin=True)
    return Plot(figure, wide=True)


def waterfall(runs: Runs) -> Plot | None:
    """When the phases of the slowest requests began and ended, a line for each request, the slowest on top.

    Of one run: lines of several do not belong together. Phases may overlap: an early hand-off begins within prefill.
    """
    slowest = runs.reports[0].slowest
    if len(runs.reports) > 1 or not slowest:
        return None
    title = f"Waterfall of the {len(slowest)} slowest requests"
    axis = "ms since the server received it; points: since the client sent it"
    height = max(HALF_PX, 140 + BAR_PX * len(slowest))
    figure = _figure(title, axis, "request", height, barmode="overlay", bargap=0.25)
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
            marker={"color": PHASES.get(phase)},
        )
    for name, symbol, times in (
        ("client has the first token", "diamond", [each.ttft_ms for each in slowest]),
        ("client has the last", "line-ns-open", [each.e2e_ms for each in slowest]),
    ):
        marker = {"symbol": symbol, "color": INK, "size": 8}
        figure.add_scatter(y=[_label(each) for each in slowest], x=times, mode="markers", name=name, marker=marker)
    order = [_label(each) for each in reversed(slowest)]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=order)
    return Plot(figure, wide=True)


def _label(found: Waterfall) -> str:
    return f"#{found.index}"


def goodput_curve(curve: Sequence[GoodputPoint]) -> Plot:
    """Goodput and attainment over the offered rate."""
    figure = _figure("Goodput and SLO attainment over the offered rate", "offered, requests/s", "goodput, requests/s")
    x = [point.offered_rps for point in curve]
    figure.add_scatter(x=x, y=[point.goodput_rps for point in curve], mode="lines+markers", name="goodput")
    shares = [point.attainment for point in curve]
    figure.add_scatter(x=x, y=shares, mode="lines+markers", name="SLO attainment", yaxis="y2", line={"dash": "dot"})
    axis = {"overlaying": "y", "side": "right", "title": "attainment", "range": (0, 1.02), "tickformat": ".0%"}
    figure.update_layout(yaxis2={**axis, "showgrid": False}, margin_r=70)
    return Plot(figure, wide=True)
