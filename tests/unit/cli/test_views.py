"""What `triptych top` and `triptych trace` draw: within 80 columns, every number in its place, nothing wraps."""

from __future__ import annotations

import io
from collections import deque

import pytest
from rich.console import Console, RenderableType

from services.cli.top_view import History, bar, spark, view
from services.cli.trace_view import waterfall
from services.pb import cluster_pb2, trace_pb2

WORKERS = [
    cluster_pb2.WorkerStatus(
        id="decode-0", role="decode", pool="decode", pid=41, kv_blocks_total=1200, kv_blocks_used=1100,
        kv_blocks_cached=60, running_decodes=12, transfers=2, waiting_offers=3, back_pressure="blocks",
        counters={"preempted/no_blocks": 4},
    ),
    cluster_pb2.WorkerStatus(
        id="prefill-0", role="prefill", pool="prefill", pid=42, kv_blocks_total=1200, kv_blocks_cached=600,
        queued_prefill_tokens=812, report_age_ms=1300, draining=True,
    ),
]  # fmt: skip
STATUS = cluster_pb2.GetStatusResponse(
    cluster_id="tiny-1",
    model="tiny",
    ready=True,
    front_door="frontdoor-123456789",
    workers=WORKERS,
    counters={"retried/worker_lost": 2, "handoff": 9},
    last_minute=cluster_pb2.LastMinute(
        requests=120,
        failed=1,
        prompt_tokens=100,
        cached_tokens=25,
        output_tokens=600,
        ttft=cluster_pb2.LatencySpread(p50_ms=212, p90_ms=500, p99_ms=803, kept=0.98, bound_ms=1000),
        itl=cluster_pb2.LatencySpread(p50_ms=61, p90_ms=90, p99_ms=141, kept=0.41, bound_ms=100),
    ),
    response_cache=cluster_pb2.ResponseCacheStatus(enabled=True, lookups=44, hits=11),
)


def shown(drawn: RenderableType, width: int) -> str:
    """As text without colour."""
    console = Console(file=io.StringIO(), width=width)
    console.print(drawn)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_top_fits_and_shows_each_number_once(width: int) -> None:
    history = History(deque([1.0, 2.0, 4.0]), deque([0.0, 12.0]))
    text = shown(view(STATUS, history, width), width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("tiny-1: ready", "4.0/s", "2.0/s", "1 failed", "10 tok/s", "25%", "11 of 44 looks", "812", "1300"):
        assert word in text, word
    for row in ("TTFT ms 212 500 803  1000  98%", "ITL ms   61  90 141   100  41%", "retried/worker_lost 2"):
        assert row in text, row
    rows = [line for line in text.splitlines() if line.startswith("decode-0")]
    assert len(rows) == 1
    assert "1100/1200" in rows[0]
    assert ("2+3 blocks" in rows[0]) is (width >= 100)
    assert "handoff 9" not in text, "how requests are placed is no move"


def test_an_empty_cluster_is_drawn() -> None:
    text = shown(view(cluster_pb2.GetStatusResponse(), History(deque(), deque()), 80), 80)
    assert "not ready" in text
    assert "moved: none" in text


def test_bars_never_overflow() -> None:
    for used in range(0, 101, 5):
        for cached in range(0, 101 - used, 5):
            assert len(bar(used, cached, 100, 16).plain) == len("[]") + 16 + 4
    assert bar(1, 0, 1000, 16).plain.count("|") == 1, "little is not nothing"
    assert bar(0, 0, 0, 16).plain == "[" + " " * 16 + "]  0%"
    assert spark([0.0, 1.0, 2.0], 2) == "▅█"


def test_a_waterfall_has_a_bar_for_each_stage_in_order() -> None:
    call = trace_pb2.Span(span_id="aa", name="chat tiny", worker="frontdoor-1", duration_us=1000.0)
    call.attributes.update({"gen_ai.usage.input_tokens": "5", "gen_ai.usage.output_tokens": "3"})
    places = (("receive", "frontdoor-1"), ("dispatch", "frontdoor-1"), ("prefill", "prefill-0"))
    places += (("handoff", "prefill-0"), ("decode", "decode-0"))
    stages = [
        trace_pb2.Span(parent_span_id="aa", name=name, worker=worker, start_us=200.0 * place, duration_us=200.0)
        for place, (name, worker) in enumerate(places)
    ]
    text = shown(waterfall(trace_pb2.Trace(trace_id="ff", request_id="r", spans=[call, *stages]), 80), 80)
    lines = text.splitlines()[-5:]
    assert [line.split()[0] for line in lines] == [name for name, _ in places]
    assert "frontdoor > prefill-0" in lines[1]
    assert "prefill-0 > decode-0" in lines[3]
    begins = [min(line.find(mark) for mark in "█▐" if mark in line) for line in lines]
    assert begins == sorted(begins)
    assert all("20%" in line for line in lines)
    assert max(map(len, text.splitlines())) <= 80
