"""The report as one HTML file that needs no network: numbers first, then plots that can be zoomed, then the details."""

from __future__ import annotations

import html
from collections.abc import Sequence

from plotly.offline import get_plotlyjs

from loadgen.compare import Table, compare_tables, number, report_tables, slo_text
from loadgen.plots import GoodputPoint, Plot, plots
from services.core.report import Distribution, Report

BEFORE_PLOTS = 3
"""Tables of one run that come before its plots: what was sent, the latencies, the generator about itself."""
# The grid's columns have their width before a plot is drawn into them, and the place of the scroll bar is kept free, so
# that no plot is drawn wider than its place.
STYLE = """
:root { color-scheme: light } html { scrollbar-gutter: stable } body { font: 15px/1.5 system-ui, sans-serif;
margin: 2rem auto; max-width: 1160px; padding: 0 1.5rem; color: #1f2937; background: #fff }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem } .about { color: #6b7280; margin: 0 }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
td, th { padding: .25rem 1.2rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e5e7eb }
th { font-weight: 600; color: #6b7280 } td:first-child { color: #4b5563; white-space: nowrap }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .75rem; margin: 1.2rem 0 }
.card { border: 1px solid #e5e7eb; border-radius: .5rem; padding: .6rem .9rem } .card b { display: block;
font-size: 1.35rem; font-weight: 600; white-space: nowrap } .card span { color: #6b7280; font-size: .8rem }
.plots { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem } .plots > .whole { grid-column:
1 / -1 } .verdict { padding: .6rem 1rem; border-radius: .5rem; background: #ecfdf5 } .verdict.bad { background:
#fef2f2 }
@media (max-width: 900px) { .plots { grid-template-columns: minmax(0, 1fr) } }
"""


def page(reports: Sequence[Report], names: Sequence[str], curve: Sequence[GoodputPoint] = ()) -> str:
    """The whole page.

    Args:
        reports: one, or several to compare.
        names: a label for each.
        curve: probes of a search, in order of rate; adds the goodput curve.
    """
    several = len(reports) > 1
    tables = compare_tables(reports, names) if several else report_tables(reports[0])
    title = " against ".join(names) if several else names[0]
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if not several:
        parts += [f'<p class="about">{html.escape(reports[0].workload)} → {html.escape(reports[0].target)}</p>']
        parts.append(_cards(reports[0]))
    parts += [_verdict(*each) for each in zip(reports, names, strict=True)]
    parts += [_table(table) for table in tables[:BEFORE_PLOTS]]
    parts.append('<h2>Plots</h2><div class="plots">')
    parts += [_plot(each, f"plot-{place}") for place, each in enumerate(plots(reports, names, curve))]
    parts.append("</div>")
    parts += [_table(table) for table in tables[BEFORE_PLOTS:]]
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _cards(report: Report) -> str:
    """The numbers that one looks for first."""
    latency, lag = report.latency, report.generator.send_lag_ms
    found = (
        ("SLO attainment", f"{report.attainment.value:.1%}"),
        ("goodput", f"{number(report.goodput_rps.value)}/s"),
        ("offered", f"{number(report.offered_rps)}/s"),
        ("TTFT p50 / p99, ms", _two(latency.ttft_ms.intended)),
        ("TPOT p50 / p99, ms", _two(latency.tpot_ms.intended)),
        ("send lag p99, ms", "-" if lag is None else number(lag.p99.value)),
    )
    cards = "".join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'
        for label, value in found
    )
    return f'<div class="cards">{cards}</div>'


def _two(found: Distribution | None) -> str:
    return "-" if found is None else f"{found.p50.value:,.0f} / {found.p99.value:,.0f}"


def _verdict(report: Report, name: str) -> str:
    bad = report.generator.bottleneck
    text = f"{name}: {report.attainment.value:.1%} of {report.judged} requests met {slo_text(report.slo)}"
    text += f"; goodput {report.goodput_rps.value:.2f} requests/s."
    if bad:
        text += " The generator was the bottleneck, so these numbers are not the server's: " + "; ".join(bad) + "."
    return f'<p class="verdict{" bad" if bad else ""}">{html.escape(text)}</p>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.columns) if any(table.columns) else ""
    rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in table.rows)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<h2>{html.escape(table.title)}</h2><div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _plot(plot: Plot, name: str) -> str:
    # The name is given: a drawn one would make two pages of one report differ.
    config = {"displayModeBar": False, "responsive": True}
    drawn: str = plot.figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config=config,
        default_height=f"{plot.figure.layout.height}px",
    )
    return f'<div class="whole">{drawn}</div>' if plot.wide else drawn
