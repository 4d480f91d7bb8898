"""What `triptych top` shows of one look: traffic, latency against bounds, caches, pools and workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from services.cli.status import headline
from services.pb import cluster_pb2 as pb

WIDE = 100
"""From this width on there is a second column of panels, and the workers' table has more columns."""
SPARKS = "▁▂▃▄▅▆▇█"
STALE_MS = 1000
"""A report that is older widens predictions (protocol section 5)."""
HIGH, FULL = 0.7, 0.9


@dataclass(frozen=True, slots=True)
class History:
    """What is drawn over time, the newest last.

    Attributes:
        requests: dispatches a second.
        decodes: requests that get a token a step.
    """

    requests: deque[float]
    decodes: deque[float]


def view(status: pb.GetStatusResponse, history: History, width: int) -> Group:
    """The whole picture."""
    half = (width - 1) // 2 if width >= WIDE else width
    is_wide = width >= WIDE
    parts = [
        Panel(traffic(status, history, half - 4), title="traffic", width=half),
        Panel(latency(status), title="latency, last minute", width=half),
    ]
    top: RenderableType = Columns(parts, padding=(0, 1)) if is_wide else Group(*parts)
    head = Text(headline(status), style="bold green" if status.ready else "bold red")
    doors = len(status.front_doors)
    note = f"front door {short(status.front_door)}, one of {doors}; the others' traffic is theirs to tell"
    lines = [Text(note, style="dim")] if doors > 1 else []
    return Group(head, *lines, top, pool_table(status, is_wide), Text(), workers(status, is_wide))


def traffic(status: pb.GetStatusResponse, history: History, width: int) -> Table:
    """How much is asked for, and what the caches take off the workers."""
    minute, cache = status.last_minute, status.response_cache
    now = history.requests[-1] if history.requests else 0.0
    decodes = sum(worker.running_decodes for worker in status.workers)
    room = max(width - 34, 0)
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    table.add_row("dispatched", f"{now:.1f}/s", Text(spark(history.requests, room), style="cyan"))
    table.add_row("decoding", str(decodes), Text(spark(history.decodes, room), style="blue"))
    failed = Text(f"{minute.failed} failed", style="bold red" if minute.failed else "dim")
    table.add_row("ended", f"{minute.requests / 60:.1f}/s", failed)
    table.add_row("output", f"{minute.output_tokens / 60:.0f} tok/s", "")
    table.add_row("prefix cache", percent(minute.cached_tokens, minute.prompt_tokens), "of prompt tokens")
    told = f"{cache.hits} of {cache.lookups} looks" if cache.enabled else "off"
    table.add_row("response cache", percent(cache.hits, cache.lookups) if cache.enabled else "-", told)
    return table


def latency(status: pb.GetStatusResponse) -> Group:
    """Quantiles in milliseconds, and the share within the bound."""
    table = Table("", box=None, padding=(0, 1, 0, 0))
    for title in ("p50", "p90", "p99", "bound", "kept"):
        table.add_column(title, justify="right")
    for name, spread in (("TTFT ms", status.last_minute.ttft), ("ITL ms", status.last_minute.itl)):
        cells = [f"{value:.0f}" if spread.p99_ms else "-" for value in (spread.p50_ms, spread.p90_ms, spread.p99_ms)]
        style = "green" if spread.kept >= 0.95 else "yellow" if spread.kept >= 0.8 else "bold red"
        kept = Text(f"{spread.kept:.0%}", style) if spread.p99_ms else Text("-")
        table.add_row(name, *cells, f"{spread.bound_ms:.0f}", kept)
    moved = {name: count for name, count in status.counters.items() if "/" in name and not name.startswith("local")}
    told = ", ".join(f"{name} {count}" for name, count in sorted(moved.items(), key=lambda item: -item[1])[:3])
    return Group(table, Text(), Text(f"moved: {told or 'none'}", style="dim"))


def pool_table(status: pb.GetStatusResponse, is_wide: bool) -> Table:
    """One row a pool."""
    table = Table("pool", box=None, padding=(0, 1, 0, 0))
    for title in ("workers", "waiting tok", "decodes", "hand-offs", "waiting"):
        table.add_column(title, justify="right")
    table.add_column("KV used", no_wrap=True)
    for pool in dict.fromkeys(worker.pool for worker in status.workers):
        members = [worker for worker in status.workers if worker.pool == pool]
        used, total = sum(w.kv_blocks_used for w in members), sum(w.kv_blocks_total for w in members)
        cells = (
            len(members),
            sum(w.queued_prefill_tokens for w in members),
            sum(w.running_decodes for w in members),
            sum(w.transfers for w in members),
            sum(w.waiting_offers for w in members),
        )
        table.add_row(pool, *map(str, cells), bar(used, 0, total, 24 if is_wide else 16))
    return table


def workers(status: pb.GetStatusResponse, is_wide: bool) -> Table:
    """One row a worker; green is used by requests, blue is cached."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("worker", no_wrap=True)
    table.add_column("role", no_wrap=True)
    table.add_column("KV used | cached", no_wrap=True)
    titles = ("blocks", "wait tok", "decodes", "age ms")
    more = ("hand-offs", "leases", "preempted", "pid") if is_wide else ()
    for title in (*titles, *more):
        table.add_column(title, justify="right", no_wrap=True)
    for worker in status.workers:
        role = f"{worker.role}, drains" if worker.draining else worker.role
        preempted = sum(count for name, count in worker.counters.items() if name.startswith("preempted"))
        cells: list[RenderableType] = [
            f"{worker.kv_blocks_used}/{worker.kv_blocks_total}",
            str(worker.queued_prefill_tokens),
            str(worker.running_decodes),
            Text(str(worker.report_age_ms), style="bold red" if worker.report_age_ms > STALE_MS else ""),
        ]
        if is_wide:
            waits = f"{worker.transfers}+{worker.waiting_offers} {worker.back_pressure}".strip()
            cells += [waits, *map(str, (worker.leases, preempted, worker.pid))]
        filled = bar(worker.kv_blocks_used, worker.kv_blocks_cached, worker.kv_blocks_total, 16)
        table.add_row(worker.id, Text(role, style="yellow" if worker.draining else ""), filled, *cells)
    return table


def bar(used: int, cached: int, total: int, width: int) -> Text:
    """A bar like htop's: what is used, what is cached, what is free, and the used share."""
    share = used / total if total else 0.0
    marks = min(width, round(share * width) if used == 0 else max(1, round(share * width)))
    others = min(width - marks, round(cached / total * width) if total else 0)
    style = "red" if share > FULL else "yellow" if share > HIGH else "green"
    text = Text("[").append("|" * marks, style).append("|" * others, "blue").append(" " * (width - marks - others))
    return text.append(f"]{share:>4.0%}")


def spark(values: Sequence[float], width: int) -> str:
    """The last values as small columns, the highest the full height."""
    shown = list(values)[-width:] if width else []
    highest = max(shown, default=0.0) or 1.0
    return "".join(SPARKS[min(len(SPARKS) - 1, int(value / highest * len(SPARKS)))] for value in shown)


def percent(part: int, whole: int) -> str:
    """A share, or a dash."""
    return f"{part / whole:.0%}" if whole else "-"


def short(front_door: str) -> str:
    """The id without most of its digits."""
    return front_door[:14]
