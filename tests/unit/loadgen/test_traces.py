"""Readers of traces: columns by name, exact times, and every dropped row counted with its reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from loadgen.formats import generic_record
from loadgen.traces import Trace
from services.core.errors import ConfigError
from services.core.workload import WorkloadRow

BURST_6 = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,API log
45,GPT-4,417,276,693,API log
49,GPT-4,0,0,0,API log
"""
BURST_8 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.25,7,3.5,ChatGPT,472,18,490,Conversation log
19440111.75,,1.0,GPT-4,10,5,15,API log
19440119.0,7,2.0,ChatGPT,600,20,620,Conversation log
"""


def write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_burstgpt_of_both_schemas_is_read_by_name(tmp_path: Path) -> None:
    six, eight = Trace(write(tmp_path, BURST_6)), Trace(write(tmp_path, BURST_8, "b.csv"))
    rows = list(six)
    assert [(r.arrival_s, r.input_tokens, r.output_tokens, r.failed) for r in rows] == [
        (0.0, 472, 18, False),
        (40.0, 1087, 0, True),
        (40.0, 417, 276, False),
        (44.0, 0, 0, True),  # a failure whose prompt is not known either, and no bad row
    ]
    assert six.summary() == "4 rows read, 4 kept"
    assert [r.category for r in rows] == ["conversation", "api", "api", "api"]
    rows = list(eight)
    assert [(r.arrival_s, r.input_tokens, r.session, r.turn) for r in rows] == [
        (0.0, 472, "7", 0),
        (1.5, 10, "", 0),
        (8.75, 600, "7", 1),
    ]
    assert eight.format == "burstgpt" and eight.summary() == "3 rows read, 3 kept"


def test_azure_times_of_any_precision_and_zone(tmp_path: Path) -> None:
    text = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"
    text += "2023-11-16 18:15:46.6805900,1,10,4\n2023-11-16 18:15:46.680591+00:00,0,10,4\n2023-11-16T18:15:47Z,0,10,4\n"
    rows = list(Trace(write(tmp_path, text)))
    assert [r.arrival_s for r in rows] == [0.0, 1e-6, 0.31941]
    assert [r.images for r in rows] == [1, 0, 0]


def test_what_is_no_row_is_counted_by_reason_and_nothing_is_silent(tmp_path: Path) -> None:
    text = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    text += "10,A,5,5,10,API log\n10,A,0,5,5,API log\nx,A,5,5,10,API log\n10,A,5\n9,A,5,5,10,API log\n"
    text += "11,A,nan,5,9,API log\n"
    text += "12,A,5,-1,4,API log\n12,A,5,7,12,API log\n"
    trace = Trace(write(tmp_path, text))
    assert len(list(trace)) == 2
    assert dict(trace.counts) == {
        "read": 8,
        "kept": 2,
        "dropped: bad Request tokens": 2,
        "dropped: bad Timestamp": 1,
        "dropped: wrong number of columns": 1,
        "dropped: unsorted": 1,
        "dropped: bad Response tokens": 1,
    }
    said = "8 rows read, 2 kept; dropped: 2 bad Request tokens (first: row 2), 1 bad Response tokens (first: row 7)"
    assert said in trace.summary()


def test_hashes_must_cover_the_prompt(tmp_path: Path) -> None:
    text = lines(
        {"timestamp": 0, "input_length": 1024, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 1500, "input_length": 1025, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 1500, "input_length": 5, "output_length": 5, "hash_ids": "no"},
    )
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(gzip.compress((text + "{broken\n[1]\n").encode()))
    trace = Trace(path)
    (row,) = trace
    assert (row.prefix, row.prefix_block_tokens) == ((0, 1), 512)
    assert trace.counts["dropped: hash_ids too short for input_length"] == 1
    assert trace.counts["dropped: bad hash_ids"] == 1 and trace.counts["dropped: not a JSON object"] == 2


def test_bailian_turns_find_their_conversation(tmp_path: Path) -> None:
    common = {"input_length": 16, "output_length": 3, "hash_ids": [4], "type": "text"}
    text = lines(
        {"timestamp": 1.5, "chat_id": 11, "parent_chat_id": -1, "turn": 1, **common},
        {"timestamp": 2.5, "chat_id": 12, "parent_chat_id": -1, "turn": 1, **common},
        {"timestamp": 3.5, "chat_id": 13, "parent_chat_id": 11, "turn": 2, **common},
        {"timestamp": 4.5, "chat_id": 14, "parent_chat_id": 13, "turn": 3, **common},
    )
    rows = list(Trace(write(tmp_path, text, "b.jsonl")))
    assert [(r.session, r.turn) for r in rows] == [("11", 0), ("12", 0), ("11", 1), ("11", 2)]


def test_tracelab_rounds_extend_each_other_and_wait_for_tools(tmp_path: Path) -> None:
    text = "session_id,arrival_time,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms\n"
    text += "0,100,0,0,64,8,250\n0,100,1,72,24,8,0\n1,350,0,0,32,8,0\n"
    rows = list(Trace(write(tmp_path, text)))
    assert [(r.arrival_s, r.input_tokens, r.turn, r.think_s) for r in rows] == [
        (0.0, 64, 0, None),
        (0.0, 96, 1, 0.25),
        (0.25, 32, 0, None),
    ]
    assert rows[1].prefix[:4] == rows[0].prefix and not set(rows[2].prefix) & set(rows[1].prefix)


def test_weka_ids_are_the_sessions_own_and_sub_agents_are_sessions(tmp_path: Path) -> None:
    request = {"t": 0.0, "type": "n", "model": "m", "in": 130, "out": 5, "hash_ids": [1, 2], "think_time": 3}
    session = {
        "block_size": 64,
        "requests": [request, {"type": "subagent", "requests": [request]}, {**request, "t": 9}],
    }
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"id": name, **session}))
    (tmp_path / "c.json").write_text("{")
    trace = Trace(tmp_path)
    rows = list(trace)
    assert sorted((r.session, r.turn, r.think_s) for r in rows) == [
        ("a", 0, None), ("a", 1, 3.0), ("a/1", 0, None), ("b", 0, None), ("b", 1, 3.0), ("b/1", 0, None),
    ]  # fmt: skip
    by_session = {(r.session, r.turn): r.prefix for r in rows}
    assert by_session["a", 0][:2] == by_session["a", 1][:2] == by_session["a/1", 0][:2] != by_session["b", 0][:2]
    assert all(len(r.prefix) * 64 >= r.input_tokens for r in rows)
    assert trace.counts["dropped: no session file"] == 1


def test_spans_are_requests_of_their_conversation(tmp_path: Path) -> None:
    def span(start: str, end: str, **attributes: Any) -> dict[str, Any]:
        model = {"gen_ai.request.model": "m"} if attributes else {}
        return {"trace_id": "t", "start_time": start, "end_time": end, "attributes": {**model, **attributes}}

    day = "2026-02-25T10:00:0"
    spans = [
        span(day + "3.0", day + "4.0", **{"gen_ai.input.messages": "x" * 40, "gen_ai.output.text": "y" * 8}),
        span(day + "0.0", day + "2.5", **{"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 9}),
        span(day + "1.0", day + "1.5"),
    ]
    path = write(tmp_path, json.dumps({"spans": spans}), "s.json")
    trace = Trace(path)
    rows = [(r.arrival_s, r.input_tokens, r.output_tokens, r.turn, r.think_s) for r in trace]
    assert rows == [(0.0, 7, 9, 0, None), (3.0, 10, 2, 1, 0.5)]
    assert trace.counts["dropped: no GenAI span"] == 1 and trace.counts["estimated tokens"] == 2


def test_our_own_rows_are_read_back(tmp_path: Path) -> None:
    text = lines(
        {"arrival_s": 0.5, "input_tokens": 20, "output_tokens": 3, "prefix": [5, 6], "prefix_block_tokens": 16},
        {"arrival_s": 1.25, "input_tokens": 20, "output_tokens": 3, "session": "a", "turn": 1, "think_s": 0.5},
        {"arrival_s": 1.25, "input_tokens": 20, "output_tokens": 3, "colour": "red"},
        {"arrival_s": 1.25, "input_tokens": 40, "output_tokens": 3, "prefix": [5, 6], "prefix_block_tokens": 16},
    )
    trace = Trace(write(tmp_path, text, "rows.jsonl"))
    assert [(r.arrival_s, r.session, r.think_s, r.prefix) for r in trace] == [
        (0.0, "", None, (5, 6)),
        (0.75, "a", 0.5, ()),
    ]
    assert (
        trace.counts["dropped: unknown field"] == 1 and trace.counts["dropped: prefix too short for input_tokens"] == 1
    )


@pytest.mark.parametrize(
    ("text", "name", "format_name", "words"),
    [
        ("a,b\n1,2\n", "x.csv", None, "no known format"),
        ('{"a": 1}\n', "x.jsonl", None, "no known format"),
        ("", "x.csv", None, "no known format"),
        ("\x80\x05N.", "x.csv", None, "no known format"),
        (BURST_6, "x.csv", "azure", "not the columns of azure"),
        (BURST_6, "x.csv", "nonsense", "--format"),
    ],
)
def test_an_unknown_file_is_told_with_what_is_known(
    tmp_path: Path, text: str, name: str, format_name: str | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Trace(write(tmp_path, text, name), format_name)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not there"):
        Trace(tmp_path / "absent.csv")


def test_rows_that_were_made_are_read_back_as_they_were(tmp_path: Path) -> None:
    rows = [
        WorkloadRow(0.0, 10, 5),
        WorkloadRow(0.123457, 10, 0, category="api", model="GPT-4", failed=True),
        WorkloadRow(0.2, 0, 0, failed=True),
        WorkloadRow(1.5, 40, 7, "s", 2, 0.5, (3, 4, 5), 16, 1, "t"),
    ]
    text = lines(*(generic_record(row) for row in rows), {**generic_record(rows[0]), "arrival_s": 2, "prompt": "Hi"})
    assert list(Trace(write(tmp_path, text))) == [*rows, WorkloadRow(2.0, 10, 5)]
