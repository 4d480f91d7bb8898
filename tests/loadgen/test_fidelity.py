"""A replay is the trace, on the shipped excerpts: times, scaling, sharing, the same bytes everywhere.

`tests/accept/test_issue_5_fidelity.py` does the same with whole traces.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from loadgen.plan import Clients, Lengths, Plan
from loadgen.prompts import PromptMaker, block_chain, plain_vocabulary
from loadgen.survey import PrefixTree, dispersion, gap_cv
from loadgen.traces import Trace
from services.core.clock import NS_PER_S

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "loadgen" / "samples"
US = 1000


def plan_of(path: Path, **fields: object) -> Plan:
    return Plan(Trace(path), PromptMaker(plain_vocabulary(), 7).prompt, seed=7, **fields)


def azure_times_us(path: Path) -> list[int]:
    """Arrivals in microseconds since the first, read without any of the readers' code; 100 ns are rounded off."""
    with path.open(newline="") as file:
        stamps = [datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in csv.DictReader(file)]
    return [round((each - stamps[0]).total_seconds() * 1e6) for each in stamps]


def test_the_schedule_is_the_trace_to_a_microsecond() -> None:
    path = SAMPLES / "azure_2023_code_bursts.csv"
    source, requests = azure_times_us(path), list(plan_of(path)())
    assert len(requests) == len(source) == 1300
    assert max(abs(each.intended_ns - at * US) for each, at in zip(requests, source, strict=True)) <= US
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(each.input_tokens, each.output_tokens) for each in requests] == [
        (int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in rows
    ]


@pytest.mark.parametrize("speed", [0.5, 7.3])
def test_scaling_keeps_the_cv_and_moves_the_dispersion(speed: float) -> None:
    path = SAMPLES / "azure_2023_code_bursts.csv"

    def times(plan: Plan) -> np.ndarray:
        return np.array([each.intended_ns for each in plan()], dtype=np.float64) / NS_PER_S

    plain, scaled = times(plan_of(path)), times(plan_of(path, speed=speed))
    assert gap_cv(plain) > 10
    assert gap_cv(scaled) == pytest.approx(gap_cv(plain), rel=1e-6)
    assert dispersion(scaled, 10 / speed) == pytest.approx(dispersion(plain, 10), rel=0.01)


@pytest.mark.parametrize("scale", [1.0, 1 / 32])
def test_prompts_give_back_the_sharing_of_the_trace_at_any_length(scale: float) -> None:
    path = SAMPLES / "mooncake_conversation.jsonl"
    source, found = PrefixTree(), PrefixTree()
    for row, request in zip(Trace(path), plan_of(path, lengths=Lengths(scale))(), strict=True):
        prompt = request.prompt()
        assert len(prompt) == request.input_tokens and not isinstance(prompt, str)
        assert found.add(block_chain(prompt, round(512 * scale))) == source.add(row.prefix)
    assert (found.hits, found.blocks) == (source.hits, source.blocks) and source.hits > 300


def digest() -> str:
    """Of everything that is sent for an excerpt, with all that is drawn; other processes compute it, too."""
    lengths, clients = Lengths(1 / 32, 1.0, 400, 64), Clients("disconnect", 0.2, 0.2, 0.5, 9.0)
    plan = plan_of(
        SAMPLES / "mooncake_conversation.jsonl", dither_s=3.0, keep_sessions=0.8, lengths=lengths, clients=clients
    )
    told = [
        [each.intended_ns, list(each.prompt()), each.output_tokens, each.session, each.leave_after_tokens,
         each.read_delay_ns, each.deadline_ns]
        for each in plan()
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def test_the_same_bytes_in_every_process_and_under_every_hash_seed() -> None:
    script = "from tests.loadgen.test_fidelity import digest; print(digest())"
    found = {
        subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, text=True,
            capture_output=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert found == {digest()}


def test_every_change_of_lengths_is_counted() -> None:
    plan, changes = plan_of(SAMPLES / "mooncake_conversation.jsonl", lengths=Lengths(1, 1, 2048, 100)), Counter()
    rows = list(Trace(SAMPLES / "mooncake_conversation.jsonl"))
    fitted = [each.row for each in plan.planned(changes)]
    assert changes == {
        "prompts cut to 2048 tokens": sum(row.input_tokens > 2048 for row in rows),
        "outputs cut to 100 tokens": sum(row.output_tokens > 100 for row in rows),
    }
    assert max(row.input_tokens for row in fitted) == 2048 and max(row.output_tokens for row in fitted) == 100
