"""Replay over real sockets against a stub in its own process: right, planted wrong, and absent."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadgen.app import Run, judge_folder, load_report, replay, replay_simulated
from loadgen.replay import Limits
from loadgen.targets import TargetSpec, make_target
from services.core.clock import WallClock
from services.core.errors import ConfigError, UnavailableError
from services.core.report import Report
from services.core.slo import Outcome, RequestSample, Slo, sample_from_json
from tests.loadgen.schedules import Steady, connect_slowly
from tests.loadgen.stub import ROOT, stub_server

HTTP, GRPC = 0, 1
RELAXED = 600_000.0  # these tests are about what is found, not about how fast this machine is
EASY = Slo(600_000, 60_000)
doors = pytest.mark.parametrize("door", [HTTP, GRPC], ids=["http", "grpc"])


@pytest.fixture(scope="module")
def right() -> Iterator[tuple[str, str]]:
    """Both doors of a server that does nothing wrong."""
    with stub_server() as urls:
        yield urls


def run_of(url: str, folder: Path, schedule: Steady, **fields: Any) -> Run:
    return Run(schedule, TargetSpec(url), folder, **{"max_lag_ms": RELAXED, "slo": EASY, **fields})


def samples_of(folder: Path) -> list[RequestSample]:
    lines = [line for path in sorted(folder.glob("samples-*")) for line in path.read_text().splitlines()]
    return sorted((sample_from_json(json.loads(line)) for line in lines), key=lambda each: each.index)


def failures(report: Report) -> dict[tuple[str, str], int]:
    return {(each.outcome, each.reason): each.count for each in report.failures}


@doors
def test_every_request_is_sent_once_and_its_tokens_are_read(door: int, right: tuple[str, str], tmp_path: Path) -> None:
    report = replay(run_of(right[door], tmp_path, Steady(24, 80.0), processes=2))
    samples = samples_of(tmp_path)
    assert [each.index for each in samples] == list(range(24))
    assert {(each.outcome, each.output_tokens) for each in samples} == {(Outcome.OK, 16)}
    assert all(len(each.gaps_us) <= 7 for each in samples)  # several messages may be read at once
    assert all(each.intended_ns <= each.sent_ns < each.first_token_ns < each.end_ns for each in samples)
    assert (report.sent, report.succeeded, report.attainment.value) == (24, 24, 1.0)
    assert [phase.name for phase in report.phases] == (["queue", "prefill", "decode"] if door == GRPC else [])
    assert len(report.slowest) == (24 if door == GRPC else 0)
    assert all([bar.start_ms for bar in each.bars] == [0, 1, 3] for each in report.slowest)
    assert load_report(tmp_path) == report
    assert judge_folder(tmp_path, Slo(0.001)).met == 0


@doors
def test_a_bad_target_is_counted_and_the_rest_is_kept(door: int, tmp_path: Path) -> None:
    wrong = ["500", "429", "half"] + (["garbage"] if door == HTTP else [])  # nonsense would break gRPC's connection
    expected = {"500": "error", "429": "rejected", "half": "truncated", "garbage": "truncated"}
    with stub_server(every=2, wrong=wrong) as urls:
        report = replay(run_of(urls[door], tmp_path, Steady(24, 80.0)))
    counts = dict.fromkeys(expected.values(), 0)
    for (outcome, _), count in failures(report).items():
        counts[outcome] += count
    each = 12 // len(wrong)
    assert counts == {"error": each, "rejected": each, "truncated": 12 - 2 * each}
    assert (report.succeeded, report.attainment.value) == (12, 0.5)
    examples = " ".join(found.example for found in report.failures)
    assert "planted 500" in examples and "planted 429" in examples


@doors
async def test_an_unreachable_target_is_one_sentence(door: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"{('http', 'grpc')[door]}://127.0.0.1:{port}"
    target = make_target(TargetSpec(url), WallClock())
    with pytest.raises(UnavailableError, match=f"--target {url}: nobody answers"):
        await target.open()
    await target.close()


def test_an_unknown_scheme_is_told() -> None:
    with pytest.raises(ConfigError, match="write grpc://host:port"):
        make_target(TargetSpec("ftp://x"), WallClock())


def test_a_target_that_dies_leaves_counted_failures_and_the_results_so_far(tmp_path: Path) -> None:
    with stub_server() as urls:
        folder = tmp_path / "run"
        script = "import sys; from tests.loadgen.test_replay import in_background; in_background(sys.argv[1:])"
        process = subprocess.Popen([sys.executable, "-c", script, urls[HTTP], str(folder)], cwd=ROOT)
        wait_for_lines(folder, 10)
    assert process.wait(100) == 0
    report = load_report(folder)
    assert report.sent == 60 and 10 <= report.succeeded < 60
    assert {outcome for outcome, _ in failures(report)} <= {"unreachable", "truncated"}


def in_background(arguments: list[str]) -> None:
    """What the test above starts: a run whose target goes away."""
    url, folder = arguments
    replay(run_of(url, Path(folder), Steady(60, 40.0)))


def wait_for_lines(folder: Path, count: int) -> None:
    """Until so many samples were written."""
    for _ in range(1800):
        if sum(path.read_bytes().count(b"\n") for path in folder.glob("samples-*")) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("no samples came")


def test_closed_loop_turns_follow_the_end_of_the_turn_before(right: tuple[str, str], tmp_path: Path) -> None:
    replay(run_of(right[HTTP], tmp_path, Steady(12, 100.0, turns=3, think_s=0.05), processes=2))
    samples = samples_of(tmp_path)
    assert len(samples) == 12
    for before, after in itertools.pairwise(samples):
        if before.session == after.session:
            assert after.intended_ns == before.end_ns + 50_000_000


@doors
def test_planned_faults_of_clients(door: int, tmp_path: Path) -> None:
    faults = ({"leave_after_tokens": 4}, {"deadline_ns": 100_000_000}, {"read_delay_ns": 2_000_000}, {})
    with stub_server(gap_s=0.1) as urls:  # 0.8 s for a whole answer
        report = replay(run_of(urls[door], tmp_path, Steady(12, 50.0, fields=faults)))
    ends = [(each.outcome, each.fault) for each in samples_of(tmp_path)]
    assert (
        ends
        == [
            (Outcome.DISCONNECTED, "disconnect"),
            (Outcome.DEADLINE, "deadline"),
            (Outcome.OK, "slow_reader"),
            (Outcome.OK, ""),
        ]
        * 3
    )
    assert (report.judged, report.met) == (6, 3)  # who left or read slowly by plan is not judged
    assert all(4 <= each.output_tokens < 16 for each in samples_of(tmp_path) if each.fault == "disconnect")


def test_a_slow_generator_fails_the_run(right: tuple[str, str], tmp_path: Path) -> None:
    # The first second's requests are made ready before the start.
    report = replay(run_of(right[HTTP], tmp_path, Steady(110, 50.0), max_lag_ms=100.0, connect=connect_slowly))
    assert report.succeeded == 110
    assert any(reason.startswith("requests were sent late") for reason in report.generator.bottleneck)


def test_a_stall_moves_what_is_counted_from_the_intended_time_and_not_from_the_actual(tmp_path: Path) -> None:
    """Coordinated omission: a client with two slots cannot send while the server stalls, so few requests see it."""
    with stub_server(stall_at=10, stall_s=2.0) as urls:
        run = run_of(urls[HTTP], tmp_path, Steady(80, 50.0), limits=Limits(max_in_flight=2), max_lag_ms=500.0)
        report = replay(run)
    ttft = report.latency.ttft_ms
    assert ttft.intended is not None and ttft.sent is not None
    assert ttft.intended.p90.value > 1000
    assert ttft.sent.p90.value < 500 and ttft.sent.max > 1000  # the two that were under way saw it, no other
    assert "waited for a free slot" in report.generator.bottleneck[0]


def test_ctrl_c_still_writes_the_report(right: tuple[str, str], tmp_path: Path) -> None:
    workload = tmp_path / "workload.jsonl"
    rows = [{"arrival_s": index / 20, "input_tokens": 8, "output_tokens": 8} for index in range(2000)]
    workload.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "loadgen", "replay", "-w", str(workload), "-t", right[HTTP], "-o"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "run"), "--max-lag-ms", str(RELAXED)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_lines(tmp_path / "run", 10)
    os.killpg(process.pid, signal.SIGINT)
    shown, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert "(interrupted)" in shown and "Traceback" not in said
    report = load_report(tmp_path / "run")
    assert report.interrupted and 10 <= report.succeeded < 2000
    assert (tmp_path / "run" / "report.html").stat().st_size > 1_000_000


class Queue:
    """A simulator of one server that takes 20 ms for each request, in virtual time."""

    def run(self, requests: Any) -> Any:
        free_ns = 0
        for request in requests:
            start = max(free_ns, request.intended_ns)
            free_ns = start + 20_000_000
            yield RequestSample(
                request.index, request.session, 0, "", "", request.intended_ns, request.intended_ns,
                start + 5_000_000, free_ns, free_ns, 1, 4, 4, Outcome.OK,
            )  # fmt: skip


def test_a_simulator_fills_the_same_report(tmp_path: Path) -> None:
    report = replay_simulated(run_of("sim://", tmp_path, Steady(100, 40.0)), Queue())
    assert (report.sent, report.succeeded, report.generator.bottleneck) == (100, 100, ())
    assert report.latency.ttft_ms.intended is not None
    assert report.latency.ttft_ms.intended.p50.value == 5.0
