"""The example that is worked by hand in docs/simulated-example.md is what the simulator computes."""

import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from services.core.timeline import MarkKind
from services.sim.cluster import START_NS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "simulated-example.md").read_text()
COLUMNS = (
    MarkKind.RECEIVED,
    MarkKind.PREFILL_START,
    MarkKind.PREFILL_END,
    MarkKind.HANDOFF_OFFERED,
    MarkKind.HANDOFF_COMMITTED,
    MarkKind.DECODE_START,
)


def table(header: str) -> list[list[str]]:
    lines = PAGE[PAGE.index(f"| request | {header}") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_time_of_the_page_is_the_simulators() -> None:
    found: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.S)[0], found)
    run = found["run"]
    marks = {number: {kind: at_ns for kind, at_ns, _ in reversed(events)} for number, _, events in run.timelines}
    rows = table("router")
    assert len(rows) == len(run.samples) == 3
    for number, (_, *cells, tokens) in enumerate(rows):
        sample = next(each for each in run.samples if each.index == number)
        assert [(marks[number][kind] - START_NS) / 1e6 for kind in COLUMNS] == [int(cell) for cell in cells]
        at_us = accumulate((sample.first_token_ns // 1000, *sample.gaps_us))
        assert [each / 1000 for each in at_us] == [int(each) for each in tokens.split()]


def test_the_page_repeats_the_workload_and_its_latencies() -> None:
    found: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.S)[0], found)
    told = [[float(cell) for cell in cells[1:]] for cells in table("sent")]
    asked = [[each.arrival_s * 1000, each.input_tokens, each.output_tokens] for each in found["rows"]]
    assert [cells[:3] for cells in told] == asked
    assert [cells[3] for cells in told] == [each.input_tokens / 16 for each in found["rows"]]
    samples = sorted(found["run"].samples, key=lambda each: each.index)
    assert [each.ttft_ms() for each in samples] == [30, 62, 30] and "TTFT is 30, 62 and 30 ms" in PAGE
    tpots = [each.tpot_ms for each in samples]
    assert tpots == pytest.approx([82 / 3, 108 / 3, 72 / 2]) and "82/3, 108/3\nand 72/2 ms" in PAGE
