"""Issue 5, truth: faults that are planted in the generator, the server and the trace are found, and none where none is.

What it shows besides is in every `make test`: tests/loadgen/test_replay.py, test_command.py and test_fidelity.py.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from loadgen.app import Run, replay
from loadgen.plan import Plan
from loadgen.prompts import PromptMaker, plain_vocabulary
from loadgen.replay import Limits
from loadgen.targets import TargetSpec
from loadgen.traces import Trace
from services.core.report import Metric
from services.core.slo import Slo
from tests.loadgen.schedules import Steady, connect_slowly
from tests.loadgen.stub import stub_server

pytestmark = [pytest.mark.accept, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
MOONCAKE = DATA / "mooncake_fast25" / "conversation_trace.jsonl.gz"
EVERY = 10
REQUESTS = 400
doors = pytest.mark.parametrize("door", [0, 1], ids=["http", "grpc"])


def public(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the checkout: put the public trace into ../shared/data")
    return path


def test_a_generator_fails_the_run_where_it_is_too_slow_and_only_there(tmp_path: Path) -> None:
    """It is planted to need 50 ms a request: 10 a second are sent on time, 50 are not."""
    with stub_server() as (url, _):
        run = partial(Run, target=TargetSpec(url), slo=Slo(1000, 100), max_lag_ms=1000.0, connect=connect_slowly)
        enough = replay(run(Steady(100, 10.0), folder=tmp_path / "10"))
        slow = replay(run(Steady(150, 50.0), folder=tmp_path / "50"))
    print(slow.generator.bottleneck)
    assert enough.succeeded == 100 and slow.sent == 150
    assert enough.generator.bottleneck == ()
    assert any(reason.startswith("requests were sent late") for reason in slow.generator.bottleneck)


@doors
def test_a_stall_moves_the_intended_percentiles_and_not_the_actual(door: int, tmp_path: Path) -> None:
    """A client with two slots cannot send while the server stalls for 3 of 10 s: 30 % of the requests wait unseen."""
    found: list[Metric] = []
    for name, stall in (("control", {}), ("stall", {"stall_at": 100, "stall_s": 3.0})):
        with stub_server(**stall) as urls:
            spec, limits = TargetSpec(urls[door]), Limits(max_in_flight=2)
            short = Steady(300, 30.0, output_tokens=2)
            report = replay(Run(short, spec, tmp_path / name, Slo(500, 100), limits, max_lag_ms=500.0))
        found.append(report.latency.ttft_ms)
        assert bool(report.generator.bottleneck) == (name == "stall")
    control, stalled = ({"intended": each.intended, "actual": each.sent} for each in found)
    for since in ("intended", "actual"):
        one, other = control[since], stalled[since]
        assert one is not None and other is not None
        print(since, *(f"{name} {a.value:.1f} → {b.value:.1f} ms" for name, a, b in (
            ("p50", one.p50, other.p50), ("p90", one.p90, other.p90), ("p99", one.p99, other.p99))))  # fmt: skip
        assert (other.p90.value - one.p90.value > 1000) == (since == "intended")
        assert (other.p99.value - one.p99.value > 1000) == (since == "intended")


def digest() -> str:
    """Of the prompts, times and lengths of many requests of a whole public trace."""
    found = hashlib.sha256()
    plan = Plan(Trace(MOONCAKE), PromptMaker(plain_vocabulary(), 3).prompt, seed=3, dither_s=3.0)
    for each in itertools.islice(plan(), REQUESTS):
        found.update(repr((each.intended_ns, list(each.prompt()), each.output_tokens)).encode())
    return found.hexdigest()


def test_processes_with_different_hash_seeds_send_the_same_bytes() -> None:
    public(MOONCAKE)
    script = "from tests.accept.test_issue_5_truth import digest; print(digest())"
    told = {
        subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, text=True,
            capture_output=True, check=True,
        ).stdout.strip()
        for seed in ("0", "1", "random")
    }  # fmt: skip
    assert told == {digest()}


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (
            "azure_llm_2023/AzureLLMInferenceTrace_conv.csv",
            lambda line: line.rsplit(",", 1)[0],
            "wrong number of columns",
        ),
        ("azure_llm_2023/AzureLLMInferenceTrace_conv.csv", lambda line: line[::-1], "bad TIMESTAMP"),
        ("mooncake_fast25/conversation_trace.jsonl.gz", lambda line: line[: len(line) // 2], "not a JSON object"),
    ],
    ids=["short", "reversed", "cut"],
)
def test_damaged_rows_of_a_whole_trace_are_counted_and_the_others_kept(
    name: str, damage: object, reason: str, tmp_path: Path
) -> None:
    path = public(DATA / name)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        lines = file.read().splitlines()
    head, rows = (lines[:1], lines[1:]) if name.endswith(".csv") else ([], lines)
    assert callable(damage)
    damaged = [damage(row) if place % EVERY == EVERY - 1 else row for place, row in enumerate(rows)]
    found = tmp_path / Path(name).name.removesuffix(".gz")
    found.write_text("\n".join([*head, *damaged]) + "\n")
    trace = Trace(found)
    kept = sum(1 for _ in trace)
    print(trace.summary())
    bad = len(rows) // EVERY
    assert trace.counts["read"] == len(rows) and trace.counts["kept"] == kept == len(rows) - bad
    assert {key: count for key, count in trace.counts.items() if key.startswith("dropped")} == {
        f"dropped: {reason}": bad
    }
