"""What `loadgen inspect` shows of a trace: tables and a curve of arrivals for the terminal, or one JSON object."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any, Protocol

from loadgen.compare import Table, number
from loadgen.survey import Survey

SCHEMA = 1
BARS = " ▁▂▃▄▅▆▇█"


class Trace(Protocol):
    """What is told of a trace that was read (`loadgen/traces.py`)."""

    format: str
    counts: Counter[str]

    def summary(self) -> str:
        """The counts as a sentence."""


def inspection_json(trace: Trace, found: Survey) -> dict[str, Any]:
    """Counts and statistics; `rows_read` is `rows` and all of `dropped` together."""
    counts = trace.counts
    return {
        "schema": SCHEMA,
        "format": trace.format,
        "rows_read": counts["read"],
        "dropped": _with_prefix(trace, "dropped: "),
        **dataclasses.asdict(found),
    }


def inspection_tables(trace: Trace, found: Survey) -> list[Table]:
    """Everything of a survey except its warnings; nothing but the counts where no row was kept."""
    tables = [Table("trace", ("format", "rows"), ((trace.format, trace.summary()),))]
    if not found.rows:
        return tables
    tables.append(Table("arrivals", (), tuple(_arrivals(found))))
    tables.append(Table("lengths, tokens", ("", *_headings(found)), tuple(_lengths(found))))
    if others := tuple(_others(found)):
        tables.append(Table("requests", (), others))
    return tables


def bars(rates: list[float]) -> str:
    """One character for each rate, as high as it is beside the highest; any rate above 0 is seen."""
    peak = max(rates, default=0.0)
    steps = len(BARS) - 1
    return "".join(BARS[max(1, round(rate / peak * steps))] if rate > 0 else BARS[0] for rate in rates)


def _arrivals(found: Survey) -> list[tuple[str, str]]:
    enough = {window: value for window, value in found.dispersion.items() if found.span_s >= 2 * int(window)}
    dispersion = ", ".join(f"{number(value)} in {window} s" for window, value in enough.items())
    busiest = f"{number(found.busiest_minute_rate)} requests/s from {found.busiest_minute_starts_s:.0f} s on"
    curve = [
        ("curve", bars(found.rates)),
        ("", f"0 to {number(found.span_s)} s; highest bar {number(max(found.rates, default=0.0))} requests/s"),
    ]
    return [
        ("span", f"{number(found.span_s)} s"),
        ("rate", f"{number(found.rate)} requests/s"),
        ("CV of gaps", number(found.gap_cv)),
        ("variance / mean of counts", dispersion or "too short a trace"),
        ("busiest minute", busiest),
        *(curve if found.rates else []),
    ]


def _headings(found: Survey) -> tuple[str, ...]:
    return tuple("max" if name == "p100" else name for name in found.input_tokens)


def _lengths(found: Survey) -> list[tuple[str, ...]]:
    return [
        (name, *(f"{value:.0f}" for value in lengths.values()))
        for name, lengths in (("input", found.input_tokens), ("output", found.output_tokens))
    ]


def _others(found: Survey) -> list[tuple[str, str]]:
    rows = []
    if found.sessions:
        rows.append(("sessions", f"{found.sessions} of {number(found.turns_per_session)} turns on average"))
    if found.block_hits is not None:
        rows.append(
            ("prefix hits", f"{found.block_hits:.2%} of blocks of {found.block_tokens} tokens, unbounded cache")
        )
    if found.failed:
        rows.append(("failed", f"{found.failed} ({found.failed / found.rows:.2%})"))
    if found.images:
        rows.append(("images", str(found.images)))
    for name, counts in (("categories", found.categories), ("models", found.models)):
        if counts:
            rows.append((name, ", ".join(f"{key or '(none)'} {count}" for key, count in counts.items())))
    return rows


def _with_prefix(trace: Trace, prefix: str) -> dict[str, int]:
    return {key.removeprefix(prefix): count for key, count in sorted(trace.counts.items()) if key.startswith(prefix)}
