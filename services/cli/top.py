"""`triptych top`: the cluster live, with rates between two looks; top_view.py draws it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from rich.live import Live

from services.cli.client import get_status
from services.cli.output import EXIT_OK, SVG_WIDTH, Output, save_svg
from services.cli.status import status_data
from services.cli.top_view import History, view
from services.core.clock import NS_PER_S, WallClock
from services.pb import cluster_pb2

HISTORY = 40
"""Looks whose rates are drawn."""


@dataclass(frozen=True, slots=True)
class Watching:
    """What to watch.

    Attributes:
        count: looks to take; None: until Ctrl-C.
        ttft_ms, itl_ms: bounds that latencies are judged against.
        svg: file for a picture of the last look.
    """

    server: str
    every_s: float
    count: int | None
    ttft_ms: float
    itl_ms: float
    as_json: bool
    svg: Path | None = None


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


def top(output: Output, watching: Watching) -> int:
    """Look again and again, until Ctrl-C or the wanted number of looks.

    Raises:
        ServerError: the cluster does not answer.
    """
    is_live = output.out.is_terminal and not watching.as_json
    live = Live(console=output.out, auto_refresh=False, screen=True) if is_live else None
    history = History(deque(maxlen=HISTORY), deque(maxlen=HISTORY))
    before: Look | None = None
    with contextlib.suppress(KeyboardInterrupt), live or contextlib.nullcontext():
        taken = 0
        while watching.count is None or taken < watching.count:
            if taken:
                threading.Event().wait(watching.every_s)
            status = get_status(watching.server, ttft_slo_ms=watching.ttft_ms, itl_slo_ms=watching.itl_ms)
            look = Look(WallClock().now_ns(), status)
            if before is not None:
                history.requests.append(request_rate(before, look))
                history.decodes.append(float(sum(worker.running_decodes for worker in status.workers)))
            if watching.as_json:
                output.json_line(look_data(before, look))
            elif live is not None:
                live.update(view(status, history, output.out.width), refresh=True)
            else:
                output.out.print(view(status, history, output.out.width))
            before = look
            taken += 1
    if watching.svg is not None and before is not None:
        save_svg(view(before.status, history, SVG_WIDTH), "triptych top", watching.svg)
    return EXIT_OK


def look_data(before: Look | None, look: Look) -> dict[str, Any]:
    """A look as JSON data."""
    shown = {
        name: MessageToDict(part, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for name, part in (
            ("last_minute", look.status.last_minute),
            ("response_cache", look.status.response_cache),
        )
    }
    return {**status_data(look.status), "requests_per_s": request_rate(before, look), **shown}


def request_rate(before: Look | None, look: Look) -> float:
    """Dispatches a second between two looks; 0 at the first one."""
    if before is None or look.at_ns <= before.at_ns:
        return 0.0
    return round(max(look.placed - before.placed, 0) / (look.at_ns - before.at_ns) * NS_PER_S, 2)
