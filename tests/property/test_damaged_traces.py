"""Whatever is done to the bytes of a trace: a sentence says what is wrong, or every row is counted."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.traces import Trace
from services.core.errors import ConfigError

SPAN = {
    "trace_id": "t",
    "start_time": "2026-02-25T10:00:01.5",
    "end_time": "2026-02-25T10:00:02Z",
    "attributes": {"gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 9},
}
WEKA = {
    "id": "a",
    "block_size": 64,
    "requests": [
        {"t": at, "in": 100, "out": 5, "hash_ids": [1, 2], "think_time": 0.5, "requests": None} for at in (0, 1.5)
    ],
}
HASHED = {"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [0, 46]}
ROW = {
    "arrival_s": 0.5, "input_tokens": 20, "output_tokens": 3, "session": "s", "turn": 0, "think_s": 0.25,
    "prefix": [5, 6], "prefix_block_tokens": 16, "images": 1, "tenant": "t", "category": "c", "model": "m",
    "failed": False,
}  # fmt: skip


def lines(*records: dict) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def tar(data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        member = tarfile.TarInfo("a.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


FILES = {
    "burst.csv": b"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    + b"5.5,7,3.5,ChatGPT,472,18,490,Conversation log\n" * 3,
    "azure.csv": b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + b"2023-11-16 18:17:03.9799600,4808,10\n" * 3,
    "tracelab.csv": b"id,arrival_time,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms\n"
    + b"0,100,0,0,64,8,250\n0,100,1,72,24,8,0\n",
    "mooncake.jsonl": lines(*[HASHED] * 3),
    "bailian.jsonl": lines(
        {**HASHED, "hash_ids": [1] * 44, "chat_id": 1, "parent_chat_id": -1, "turn": 1, "type": "x"}
    ),
    "rows.jsonl": lines(*[ROW] * 3),
    "weka.json": json.dumps(WEKA).encode(),
    "otel.json": json.dumps({"spans": [SPAN, SPAN]}).encode(),
    "mooncake.jsonl.gz": gzip.compress(lines(*[HASHED] * 9)),
    "weka.tar.xz": tar(json.dumps(WEKA).encode()),
}
NASTY = [
    b"",
    b"-1",
    b"nan",
    b"1e999",
    b"9" * 400,
    b'"',
    b"\0",
    b"\xff",
    b"null",
    b"[]",
    b"{}",
    b",",
    b"\n",
    b"\xc2\xb2",
]


@pytest.mark.parametrize("name", list(FILES))
@given(data=st.data())
def test_damage_is_counted_or_told(name: str, data: st.DataObject) -> None:
    content = FILES[name]
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(content)))
        content = content[:at] + data.draw(st.sampled_from(NASTY)) + content[at + data.draw(st.integers(0, 12)) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        with contextlib.suppress(ConfigError):
            trace = Trace(path)
            rows = list(trace)
            dropped = sum(count for key, count in trace.counts.items() if key.startswith("dropped: "))
            assert trace.counts["read"] == trace.counts["kept"] + dropped
            assert trace.counts["kept"] == len(rows)
            assert all(math.isfinite(row.arrival_s) and row.input_tokens >= 1 for row in rows)
            assert trace.counts["read"] > 0 or not trace.counts
            trace.summary()
