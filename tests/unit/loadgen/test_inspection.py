"""Tables and JSON of a survey, on the excerpts that ship with the product and on traces with faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadgen.inspection import bars, inspection_json, inspection_tables
from loadgen.survey import survey
from loadgen.traces import Trace

SAMPLES = Path(__file__).parents[3] / "loadgen" / "samples"


@pytest.mark.parametrize(
    ("name", "file_format", "input_mean"),
    [
        ("azure_2023_conv.csv", "azure", 903),
        ("azure_2023_code.csv", "azure", 2071),
        ("mooncake_conversation.jsonl", "mooncake", 13_911),
    ],
)
def test_the_excerpts_are_read_whole(name: str, file_format: str, input_mean: int) -> None:
    trace = Trace(SAMPLES / name)
    found = survey(trace)
    told = inspection_json(trace, found)
    assert (told["format"], told["rows_read"], told["rows"], told["dropped"]) == (file_format, 200, 200, {})
    assert found.input_tokens["mean"] == pytest.approx(input_mean, abs=0.6)
    assert sum(found.rates) / len(found.rates) == pytest.approx(200 / found.span_s)
    json.dumps(told, allow_nan=False)


def test_every_excerpt_has_a_licence_beside_it() -> None:
    said = (SAMPLES / "README.md").read_text()
    assert all(f"`{each.name}`" in said for each in SAMPLES.iterdir() if each.suffix in (".csv", ".jsonl"))
    assert all(
        (SAMPLES / name).is_file() and name in said for name in ("LICENSE.CC-BY-4.0.txt", "LICENSE-APACHE-2.0.txt")
    )


def test_dropped_rows_are_told_with_their_reasons(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,0,44\nnever,5,5\n")
    trace = Trace(path)
    found = survey(trace)
    told = inspection_json(trace, found)
    assert told["dropped"] == {"bad ContextTokens": 1, "bad TIMESTAMP": 1}
    (table,) = inspection_tables(trace, found)
    assert table.rows[0][1] == (
        "2 rows read, 0 kept; dropped: 1 bad ContextTokens (first: row 1), 1 bad TIMESTAMP (first: row 2)"
    )


def test_tables_tell_only_what_the_trace_knows() -> None:
    trace = Trace(SAMPLES / "mooncake_conversation.jsonl")
    tables = {table.title: dict(row[:2] for row in table.rows) for table in inspection_tables(trace, survey(trace))}
    assert list(tables["requests"]) == ["prefix hits"]
    assert tables["requests"]["prefix hits"].startswith("5.82% of blocks of 512 tokens")
    assert "60 s" not in tables["arrivals"]["variance / mean of counts"]  # 72 s hold one such window


def test_one_arrival_has_no_curve(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,5,44\n")
    trace = Trace(path)
    assert "curve" not in dict(inspection_tables(trace, survey(trace))[1].rows)


def test_bars_show_whatever_is_not_zero() -> None:
    assert bars([0, 0.001, 4, 8]) == " ▁▄█"
    assert bars([]) == ""
