"""A plan as one HTML file that needs no network: the front as a plot, the placements behind it, and why."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from loadgen.page import STYLE
from loadgen.plots import COLOURS
from services.sim.plan.placement import Kind, Placement
from services.sim.search import Plan

Value = Callable[[Placement], float]


def plan_page(found: Plan, why: Sequence[str], extrapolated: Sequence[str]) -> str:
    """The whole page."""
    plots = [
        _front(found, "P99 TTFT (ms)", lambda each: each.ttft_p99_ms),
        _front(found, "P99 TPOT (ms)", lambda each: each.tpot_p99_ms),
        _front(found, "energy of a request (J)", lambda each: each.joules),
    ]
    if any(each.price for each in found.found):
        plots.append(_front(found, "price of 1,000 requests", lambda each: 1000 / each.per_price if each.price else 0))
    title = f"{found.winner}: {found.winner.rate:.3g} requests/s"
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for name, lines in (("Why", why), ("Not simulated", extrapolated)):
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        parts.append(f"<h2>{name}</h2><ul>{items}</ul>")
    parts.append('<h2>Placements</h2><div class="plots">')
    for place, figure in enumerate(plots):
        text = figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"plot-{place}")
        parts.append(f"<div>{text}</div>")
    parts.append("</div>")
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _front(found: Plan, axis: str, value: Value) -> go.Figure:
    """Goodput of a device against something that should be low; the front's placements are filled."""
    figure = go.Figure()
    for colour, kind in zip(COLOURS, Kind, strict=False):
        for on, symbol in ((True, "circle"), (False, "circle-open")):
            shown = [
                each for each, front in zip(found.found, found.front, strict=True) if each.kind is kind and front is on
            ]
            if shown:
                figure.add_trace(_trace(shown, kind, on, symbol, colour, value))
    figure.update_layout(
        title=f"goodput of a device against {axis}",
        xaxis_title="requests/s of a device",
        yaxis_title=axis,
        template="plotly_white",
        height=420,
    )
    return figure


def _trace(shown: Sequence[Placement], kind: Kind, on: bool, symbol: str, colour: str, value: Value) -> go.Scatter:
    return go.Scatter(
        x=[each.per_device for each in shown],
        y=[value(each) for each in shown],
        text=[str(each) for each in shown],
        mode="markers",
        name=kind.value + (", on the front" if on else ""),
        marker={"symbol": symbol, "color": colour, "size": 9},
    )
