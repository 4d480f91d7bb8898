"""`triptych top`: the workers live, with rates between two looks."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass

from rich.console import Group
from rich.live import Live
from rich.text import Text

from services.cli.client import get_status
from services.cli.output import EXIT_OK, Output
from services.cli.status import headline, status_data, worker_table
from services.core.clock import NS_PER_S, WallClock
from services.pb import cluster_pb2


@dataclass(frozen=True, slots=True)
class Look:
    """The cluster at one moment.

    Attributes:
        at_ns: monotonic.
    """

    at_ns: int
    status: cluster_pb2.GetStatusResponse

    @property
    def placed(self) -> int:
        """Requests that were placed since the front door began."""
        return sum(worker.dispatches for worker in self.status.workers)


def top(output: Output, server: str, every_s: float, count: int | None, as_json: bool) -> int:
    """Look again and again, until Ctrl-C or `count` looks.

    Raises:
        ServerError: the cluster does not answer.
    """
    live = None if as_json or not output.out.is_terminal else Live(console=output.out, auto_refresh=False, screen=True)
    before: Look | None = None
    with contextlib.suppress(KeyboardInterrupt), live or contextlib.nullcontext():
        taken = 0
        while count is None or taken < count:
            if taken:
                threading.Event().wait(every_s)
            look = Look(WallClock().now_ns(), get_status(server))
            if as_json:
                output.json_line({**status_data(look.status), "requests_per_s": request_rate(before, look)})
            elif live is not None:
                live.update(view(before, look), refresh=True)
            else:
                output.out.print(view(before, look))
            before = look
            taken += 1
    return EXIT_OK


def request_rate(before: Look | None, look: Look) -> float:
    """Dispatches a second between two looks; 0 at the first one."""
    if before is None or look.at_ns <= before.at_ns:
        return 0.0
    return round(max(look.placed - before.placed, 0) / (look.at_ns - before.at_ns) * NS_PER_S, 2)


def view(before: Look | None, look: Look) -> Group:
    """What is shown of one look."""
    workers = look.status.workers
    used, total = sum(w.kv_blocks_used for w in workers), sum(w.kv_blocks_total for w in workers)
    share = used / total if total else 0.0
    bar = "#" * round(share * 40)
    lines = (
        headline(look.status),
        f"{request_rate(before, look):.1f} dispatches/s   KV [{bar:<40}] {share:.0%}",
    )
    return Group(*map(Text, lines), worker_table(look.status))
