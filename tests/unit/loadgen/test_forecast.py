"""What is told before sending: every row accounted for, the window and its warning, rate, sharing, clients."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadgen.forecast import choose, describe, forecast_json, forecast_tables
from loadgen.plan import Clients, Lengths, Plan
from loadgen.traces import Trace
from services.core.errors import ConfigError
from services.core.workload import WorkloadRow


class Rows:
    """A trace that was read: 2 of its rows were none."""

    format = "rows"

    def __init__(self, rows: list[WorkloadRow]) -> None:
        self.rows = rows
        self.counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[WorkloadRow]:
        self.counts = Counter({"read": 2, "dropped: bad arrival_s": 2})
        for row in self.rows:
            self.counts.update(("read", "kept"))
            yield row

    def summary(self) -> str:
        return f"{self.counts['read']} read"


QUIET = [WorkloadRow(at * 10.0, 100, 10) for at in range(20)]
BUSY = [
    WorkloadRow(
        200.0 + at, 100, 0 if at % 50 == 7 else 10, session=f"s{at // 2}", turn=at % 2,
        think_s=0.1 if at % 2 else None, prefix=(1, 2 + at), prefix_block_tokens=50, images=1, failed=at % 50 == 7,
    )
    for at in range(800)
]  # fmt: skip


def plan(trace: Rows, **fields: Any) -> Plan:
    return Plan(trace, lambda row, own: own, **fields)


def test_every_row_is_accounted_for() -> None:
    trace = Rows(QUIET + BUSY)
    chosen, found = choose(
        trace,
        plan(trace, keep_sessions=0.5, clients=Clients("leave-out", disconnect_share=0.1), lengths=Lengths(1, 1, 60)),
        *(200.0, None, 0.5),
    )
    sent = list(chosen())
    left_out = found.changes["failed requests left out"]
    assert (found.read, found.kept, found.dropped) == (822, 820, {"bad arrival_s": 2})
    assert found.kept == len(sent) + left_out + sum(found.outside.values()) and left_out > 0
    assert found.outside.keys() == {"in sessions that are not kept", "outside the window"}
    assert found.changes["prompts cut to 60 tokens"] == len(sent) == found.survey.rows
    assert found.input_tokens == 60 * len(sent) and found.output_tokens == 10 * len(sent)
    assert found.faults["leave within the output"] == sum(each.fault == "disconnect" for each in sent)
    assert found.closed_loop == sum(each.think_ns is not None for each in sent) > 20
    assert found.hit_tokens == 50 * (len(sent) - 1)  # the first block is everybody's
    assert found.window is not None and found.offered_rps == pytest.approx(len(sent) / 200)
    assert found.warnings == [f"{len(sent)} images of the trace are not sent: prompts are tokens or text only"]
    assert describe("x", chosen, found) == (
        f"x, 200 s from {found.window.start_s:.0f} s on, 50% of the sessions"
    )  # fmt: skip


def test_all_of_a_trace_at_another_speed() -> None:
    trace = Rows(BUSY[1:400:2])
    chosen, found = choose(trace, plan(trace, speed=4.0, dither_s=0.5))
    assert found.window is None and not found.outside and not found.closed_loop and not chosen.closed_loop
    assert found.offered_rps == pytest.approx(2.0, rel=0.02)
    assert describe("x", chosen, found) == "x, 4 times as fast, dithered by 0.5 s with seed 0"
    (failed,) = (count for what, count in found.faults.items() if "failed in the trace" in what)
    assert failed == sum(row.failed for row in trace.rows)


def test_a_window_may_begin_anywhere_and_the_head_warns() -> None:
    trace = Rows(QUIET + BUSY)
    chosen, found = choose(trace, plan(trace), 100.0, 0.0)
    assert len(list(chosen())) == 10 and "ramp-up" in found.warnings[0]
    chosen, found = choose(trace, plan(trace), None, 990.0)
    assert len(list(chosen())) == 10 and not found.window.warning


def test_texts_that_are_not_sent_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"arrival_s": 0, "input_tokens": 4, "output_tokens": 1, "prompt": "Who?"}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"arrival_s": 1}) + "\n")
    trace = Trace(path)
    _, found = choose(trace, Plan(trace, lambda row, own: own))
    assert "the texts of 2 rows are not sent" in found.warnings[0]


def test_sessions_that_begin_at_once_warn() -> None:
    trace = Rows([WorkloadRow(0.0, 10, 5, session=f"s{each}") for each in range(9)])
    _, found = choose(trace, plan(trace))
    assert "9 sessions begin at once" in " ".join(found.warnings) and found.offered_rps == 0
    chosen, found = choose(trace, plan(trace, session_rate=2.0))
    assert not found.warnings and describe("x", chosen, found) == "x, 2 sessions begun a second with seed 0"


def test_it_is_shown_as_tables_and_as_json() -> None:
    trace = Rows(QUIET + BUSY)
    _, found = choose(trace, plan(trace, clients=Clients(deadline_s=3.0)), 200.0, None, 1.0)
    said = dict(forecast_tables(found, trace)[0].rows)
    assert said["trace"] == "rows: 822 read"
    assert said["not sent"] == "620 outside the window"
    assert said["to be sent"].startswith("200 requests in 200 s: 1.00 requests/s, CV of gaps ")
    assert said["oracle of prefix hits"].startswith("49.75% of blocks, 49.75% of tokens")
    assert "200 give up after 3 s" in said["clients"]
    told = json.loads(json.dumps(forecast_json(found)))
    assert (told["read"], told["survey"]["rows"], told["token_hit_rate"]) == (822, 200, 0.4975)


@pytest.mark.parametrize(
    ("rows", "window", "fields", "said"),
    [
        ([], (), {}, "--trace = 'rows': no row can be sent: 2 read"),
        (QUIET, (None, None, 1.0), {}, "--rate = 1.0: chooses a window"),
        (QUIET, (10.0, None, 50.0), {}, "--rate = 50.0: windows of 10 s have"),
        (QUIET, (10.0, 5.0, 0.1), {}, "--start-s = 5.0: choose a window by its beginning or by its --rate"),
        (QUIET, (0.0, None, None), {}, "--window-s = 0.0: must be above 0"),
        (QUIET, (500.0, None, None), {}, "--window-s = 500.0: the trace is 190 s long"),
        (QUIET, (50.0, 180.0, None), {}, "--window-s = 50.0: the trace is 190 s long"),
        (QUIET, (None, 500.0, None), {}, "--start-s = 500.0: must be within the trace, which is 190 s long"),
        (QUIET, (5.0, 2.0, None), {}, "--start-s = 2.0: the trace has no request in the 5 s from there"),
        (BUSY[7:8], (), {"clients": Clients("leave-out")}, "--failed-rows = 'leave-out': leaves nothing to send"),
    ],
)
def test_what_cannot_be_is_refused_by_name(rows: list, window: tuple, fields: dict, said: str) -> None:
    trace = Rows(rows)
    with pytest.raises(ConfigError, match=said):
        choose(trace, plan(trace, **fields), *window)
