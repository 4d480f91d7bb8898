"""Draws deploy/dashboards/*.json as pages, from a running Prometheus: a look at them without Grafana.

    python deploy/preview.py --prometheus http://127.0.0.1:9090 --minutes 10 --out /tmp

Panels, queries, units and their grid are the dashboards' own; colours and fonts are not Grafana's.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

DASHBOARDS = Path(__file__).parent / "dashboards"
PANEL_PIXELS = 205
STYLE = """
body { font: 13px sans-serif; margin: 12px; background: #f4f5f7; color: #222 }
h1 { font-size: 19px; margin: 4px }
h2 { font-size: 15px; margin: auto 4px 0; color: #555 }
h3 { font-size: 12px; margin: 6px 8px 0 }
main { display: grid; grid-template-columns: repeat(24, 1fr); grid-auto-rows: 30px; gap: 0 8px }
section { background: white; border: 1px solid #dde; border-radius: 3px; margin-bottom: 8px; overflow: hidden }
.stat { font-size: 42px; text-align: center; padding-top: 70px }
.none { text-align: center; padding-top: 90px; color: #999 }
"""
STEPS = 120
LABEL = re.compile(r"\{\{(\w+)\}\}")
Series = tuple[str, list[float], list[float]]


def shown(value: float, unit: str) -> str:
    """A number as a person reads it in a unit of Grafana's."""
    if unit == "percentunit":
        return f"{100 * value:.4g} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if unit == "bytes" and abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.4g}" + (" /s" if unit == "reqps" else "")


def named(legend: str, labels: dict[str, str]) -> str:
    """The legend of a series: `{{label}}` is the label's value."""
    return LABEL.sub(lambda match: labels.get(match[1], ""), legend).strip()


def ask(prometheus: str, expr: str, begin: float, end: float, interval_s: int) -> list[dict[str, Any]]:
    """The series of an expression between two times."""
    expr = expr.replace("$__rate_interval", f"{interval_s}s").replace("$__range", f"{int(end - begin)}s")
    step = max((end - begin) / STEPS, 1.0)
    asked = urllib.parse.urlencode({"query": expr, "start": begin, "end": end, "step": step})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{asked}", timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def series_of(panel: dict[str, Any], prometheus: str, begin: float, end: float, interval_s: int) -> list[Series]:
    """Every line of a panel: name, minutes since the beginning, values."""
    lines = []
    for target in panel["targets"]:
        for found in ask(prometheus, target["expr"], begin, end, interval_s):
            name = named(target["legendFormat"], found["metric"])
            points = [(float(at), float(value)) for at, value in found["values"]]
            points = [(at, value) for at, value in points if not math.isnan(value)]
            if points:
                lines.append((name, [(at - begin) / 60 for at, _ in points], [value for _, value in points]))
    return lines


def panel_html(panel: dict[str, Any], lines: list[Series]) -> str:
    """One panel, without its place."""
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    if panel["type"] == "stat" or not lines:
        text = shown(lines[0][2][-1], unit) if lines else "no data"
        return f'<div class="{"stat" if lines else "none"}">{html.escape(text)}</div>'
    figure = go.Figure([go.Scatter(x=minutes, y=values, name=name, mode="lines") for name, minutes, values in lines])
    suffix, form = {"s": ("s", "~s"), "reqps": ("/s", "~g"), "percentunit": ("", ".0%"), "bytes": ("B", "~s")}.get(
        unit, ("", "~s")
    )
    figure.update_layout(
        height=PANEL_PIXELS,
        margin={"l": 46, "r": 8, "t": 4, "b": 24},
        font={"size": 10},
        showlegend=any(name for name, _, _ in lines),
        legend={"orientation": "h", "y": -0.14, "font": {"size": 9}},
        yaxis={"rangemode": "tozero", "tickformat": form, "ticksuffix": suffix},
        xaxis={"ticksuffix": " min"},
        template="plotly_white",
    )
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config={"displayModeBar": False}))


def page(model: dict[str, Any], prometheus: str, begin: float, end: float, interval_s: int) -> tuple[str, int]:
    """A whole dashboard as a page that needs nothing else, and how many panels have data."""
    parts, full = [], 0
    for panel in model["panels"]:
        at, title = panel["gridPos"], html.escape(panel["title"])
        place = f"grid-column: {at['x'] + 1} / span {at['w']}; grid-row: {at['y'] + 1} / span {at['h']}"
        if panel["type"] == "row":
            parts.append(f'<h2 style="{place}">{title}</h2>')
            continue
        lines = series_of(panel, prometheus, begin, end, interval_s)
        full += bool(lines)
        about = html.escape(panel.get("description", ""))
        parts.append(f'<section style="{place}" title="{about}"><h3>{title}</h3>{panel_html(panel, lines)}</section>')
    title = html.escape(model["title"])
    head = f"<meta charset=utf-8><title>{title}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script>"
    return f"<!doctype html>{head}<h1>{title}</h1><main>{''.join(parts)}</main>", full


def main() -> int:
    """Draw them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="address of Prometheus")
    parser.add_argument("--minutes", type=float, default=30, help="how far back")
    parser.add_argument("--rate-interval-s", type=int, default=60, help="four times the scrape interval")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the pages")
    chosen = parser.parse_args()
    end = time.time()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(DASHBOARDS.glob("*.json")):
        model = json.loads(path.read_text(encoding="utf-8"))
        out = chosen.out / f"dashboard-{path.stem}.html"
        panels = sum(panel["type"] != "row" for panel in model["panels"])
        begin = end - 60 * chosen.minutes
        text, full = page(model, chosen.prometheus, begin, end, chosen.rate_interval_s)
        out.write_text(text, encoding="utf-8")
        print(f"{out}: {full} of {panels} panels have data")
    return 0


if __name__ == "__main__":
    sys.exit(main())
