"""`triptych trace`: one request as a waterfall of its stages, from the front door that served it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from rich.bar import Bar
from rich.console import Group
from rich.table import Table
from rich.text import Text

from services.cli.client import find_traces
from services.cli.output import EXIT_FAILED, EXIT_OK, SVG_WIDTH, Output, save_svg
from services.pb import trace_pb2 as pb

US_PER_MS = 1000
TEXT_WIDTH = 56
"""Of the columns before the bars."""
BAR_WIDTHS = (12, 60)
STYLES = {
    "queue": "yellow",
    "prefill": "green",
    "handoff": "magenta",
    "decode": "blue",
    "recompute": "red",
}
"""Of stages on workers; those of the front door are cyan."""


def show_trace(output: Output, server: str, name: str | None, as_json: bool, svg: Path | None = None) -> int:
    """Print the newest trace of that request or trace id; without one, a list of the last requests.

    Args:
        svg: file for a picture of it.

    Raises:
        ServerError: the cluster does not answer.
    """
    found = find_traces(server, name or "")
    if as_json:
        output.json([trace_data(trace) for trace in found])
    elif name is None:
        output.out.print(trace_list(found))
        if svg is not None:
            save_svg(trace_list(found), "triptych trace", svg)
    elif found:
        output.out.print(waterfall(found[0], output.out.width))
        if svg is not None:
            save_svg(waterfall(found[0], SVG_WIDTH), f"triptych trace {name}", svg)
    if name is not None and not found:
        output.error(f"no front door knows {name!r} any more; `triptych trace` lists the last requests")
        return EXIT_FAILED
    return EXIT_OK


def trace_data(trace: pb.Trace) -> dict[str, Any]:
    """A trace as JSON data; numbers stay numbers."""
    data: dict[str, Any] = MessageToDict(
        trace, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    data["unix_us"] = trace.unix_us
    return data


def trace_list(traces: list[pb.Trace]) -> Table:
    """One row a request."""
    table = Table("request", "at (UTC)", box=None, padding=(0, 2, 0, 0))
    for title in ("took ms", "TTFT ms", "prompt", "output"):
        table.add_column(title, justify="right")
    table.add_column("end")
    for trace in traces:
        call = trace.spans[0]
        at = datetime.fromtimestamp(trace.unix_us / 1e6, UTC).strftime("%H:%M:%S")
        table.add_row(
            trace.request_id,
            at,
            f"{call.duration_us / US_PER_MS:.1f}",
            ttft_ms(call),
            call.attributes["gen_ai.usage.input_tokens"],
            call.attributes["gen_ai.usage.output_tokens"],
            ending(call),
        )
    return table


def waterfall(trace: pb.Trace, width: int) -> Group:
    """The call in one line, then a bar for each stage on one scale."""
    call = trace.spans[0]
    total_us = max(call.duration_us, 1.0)
    table = Table("stage", "where", box=None, padding=(0, 1, 0, 0))
    for title in ("at ms", "took ms", "share"):
        table.add_column(title, justify="right")
    bar = max(BAR_WIDTHS[0], min(BAR_WIDTHS[1], width - TEXT_WIDTH))
    table.add_column("", width=bar)
    for span, way in zip(trace.spans[1:], ways(trace), strict=True):
        style = STYLES.get(span.name, "cyan")
        depth = "  " if span.parent_span_id != call.span_id else ""
        end = span.start_us + max(span.duration_us, total_us / bar / 8)
        table.add_row(
            Text(depth + span.name, style),
            Text(way, no_wrap=True),
            f"{span.start_us / US_PER_MS:.1f}",
            f"{span.duration_us / US_PER_MS:.1f}",
            f"{span.duration_us / total_us:.0%}",
            Bar(total_us, span.start_us, end, width=bar, color=style),
        )
    facts = [f"{call.duration_us / US_PER_MS:.1f} ms", f"TTFT {ttft_ms(call)} ms"]
    facts += [f"{call.attributes[f'gen_ai.usage.{kind}_tokens']} {kind} tokens" for kind in ("input", "output")]
    facts.append(ending(call))
    lines = (f"{call.name}: {', '.join(facts)}", f"request {trace.request_id}", f"trace   {trace.trace_id}", "")
    return Group(*map(Text, lines), table)


def ways(trace: pb.Trace) -> list[str]:
    """Where each span but the first lies: one place, or from here to there."""
    spans = trace.spans[1:]
    found = []
    for place, span in enumerate(spans):
        after = spans[place + 1].worker if place + 1 < len(spans) else span.worker
        here, there = short(span.worker), short(after)
        found.append(f"{here} > {there}" if span.name in ("dispatch", "handoff") and here != there else here)
    return found


def short(worker: str) -> str:
    """A front door's id ends in 16 digits that nobody reads."""
    return "frontdoor" if worker.startswith("frontdoor-") else worker


def ttft_ms(call: pb.Span) -> str:
    """Time to the first token, or a dash."""
    seconds = call.attributes.get("gen_ai.response.time_to_first_chunk")
    return "-" if seconds is None else f"{float(seconds) * 1000:.1f}"


def ending(call: pb.Span) -> str:
    """Why it ended."""
    return call.error or call.attributes.get("gen_ai.response.finish_reasons", "") or "ended"
