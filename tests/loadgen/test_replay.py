"""Replay over real sockets against a stub in its own process: right, planted wrong, and absent."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from loadgen.app import Run, judge_folder, load_report, replay, replay_simulated
from loadgen.replay import Limits
from loadgen.targets import TargetSpec
from services.core.errors import ConfigError, UnavailableError
from services.core.report import Report
from services.core.slo import Outcome, RequestSample, Slo, sample_from_json
from tests.loadgen.schedules import Steady, connect_slowly
from tests.loadgen.stub import ROOT, stub_server

HTTP, GRPC = 0, 1
RELAXED = 10_000.0  # these tests are about what is found, not about how fast this machine is
doors = pytest.mark.parametrize("door", [HTTP, GRPC], ids=["http", "grpc"])


def run_of(url: str, folder: Path, schedule: Steady, **fields: Any) -> Run:
    return Run(schedule, TargetSpec(url), folder, **{"max_lag_ms": RELAXED, "slo": Slo(5000, 1000), **fields})


def samples_of(folder: Path) -> list[RequestSample]:
    lines = [line for path in sorted(folder.glob("samples-*")) for line in path.read_text().splitlines()]
    return sorted((sample_from_json(json.loads(line)) for line in lines), key=lambda each: each.index)


def failures(report: Report) -> dict[tuple[str, str], int]:
    return {(each.outcome, each.reason): each.count for each in report.failures}


@doors
def test_every_request_is_sent_once_and_its_tokens_are_read(door: int, tmp_path: Path) -> None:
    with stub_server() as urls:
        report = replay(run_of(urls[door], tmp_path, Steady(40, 80.0), processes=2))
    samples = samples_of(tmp_path)
    assert [each.index for each in samples] == list(range(40))
    assert {(each.outcome, each.output_tokens) for each in samples} == {(Outcome.OK, 16)}
    assert all(1 <= len(each.gaps_us) <= 7 for each in samples)  # two messages may be read at once
    assert all(each.intended_ns <= each.sent_ns < each.first_token_ns < each.end_ns for each in samples)
    assert (report.sent, report.succeeded, report.attainment.value) == (40, 40, 1.0)
    assert [phase.name for phase in report.phases] == (["queue", "prefill", "decode"] if door == GRPC else [])
    assert load_report(tmp_path) == report
    assert judge_folder(tmp_path, Slo(0.001)).met == 0


@doors
@pytest.mark.parametrize(
    ("wrong", "outcome"), [("500", "error"), ("429", "rejected"), ("half", "truncated"), ("garbage", "truncated")]
)
def test_a_bad_target_is_counted_and_the_rest_is_kept(door: int, wrong: str, outcome: str, tmp_path: Path) -> None:
    if door == GRPC and wrong == "garbage":
        pytest.skip("gRPC frames cannot be nonsense without breaking the connection")
    with stub_server(every=4, wrong=wrong) as urls:
        report = replay(run_of(urls[door], tmp_path, Steady(24, 80.0)))
    ((found, _), count) = next(iter(failures(report).items()))
    assert (found, count, report.succeeded) == (outcome, 6, 18)
    assert report.attainment.value == 18 / 24
    if wrong in {"500", "429"}:
        assert f"planted {wrong}" in report.failures[0].example


@doors
def test_an_unreachable_target_is_one_sentence(door: int, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"{('http', 'grpc')[door]}://127.0.0.1:{port}"
    with pytest.raises(UnavailableError, match=f"--target {url}: nobody answers"):
        replay(run_of(url, tmp_path, Steady(2, 10.0)))
    with pytest.raises(ConfigError, match="write grpc://host:port"):
        raise_for_scheme("ftp://x")


def raise_for_scheme(url: str) -> None:
    """The check that a sending process makes, in this one."""
    from loadgen.targets import make_target
    from services.core.clock import WallClock

    make_target(TargetSpec(url), WallClock())


def test_a_target_that_dies_leaves_counted_failures_and_the_results_so_far(tmp_path: Path) -> None:
    with stub_server() as urls:
        folder = tmp_path / "run"
        script = "import sys; from tests.loadgen.test_replay import in_background; in_background(sys.argv[1:])"
        process = subprocess.Popen([sys.executable, "-c", script, urls[HTTP], str(folder)], cwd=ROOT)
        wait_for_lines(folder, 10)
    assert process.wait(60) == 0
    report = load_report(folder)
    assert report.sent == 60 and 10 <= report.succeeded < 60
    assert {outcome for outcome, _ in failures(report)} <= {"unreachable", "truncated"}


def in_background(arguments: list[str]) -> None:
    """What the test above starts: a run whose target goes away."""
    url, folder = arguments
    replay(run_of(url, Path(folder), Steady(60, 40.0)))


def wait_for_lines(folder: Path, count: int) -> None:
    """Until so many samples were written."""
    for _ in range(600):
        if sum(path.read_bytes().count(b"\n") for path in folder.glob("samples-*")) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("no samples came")


def test_closed_loop_turns_follow_the_end_of_the_turn_before(tmp_path: Path) -> None:
    with stub_server() as urls:
        replay(run_of(urls[HTTP], tmp_path, Steady(12, 100.0, turns=3, think_s=0.05), processes=2))
    samples = samples_of(tmp_path)
    assert len(samples) == 12
    for before, after in itertools.pairwise(samples):
        if before.session == after.session:
            assert after.intended_ns == before.end_ns + 50_000_000


@doors
@pytest.mark.parametrize(
    ("fields", "outcome", "fault"),
    [
        ({"leave_after_tokens": 4}, Outcome.DISCONNECTED, "disconnect"),
        ({"deadline_ns": 200_000_000}, Outcome.DEADLINE, "deadline"),
        ({"read_delay_ns": 2_000_000}, Outcome.OK, "slow_reader"),
    ],
    ids=["disconnect", "deadline", "slow_reader"],
)
def test_planned_faults_of_clients(door: int, fields: dict, outcome: Outcome, fault: str, tmp_path: Path) -> None:
    wrong = {"every": 1, "wrong": "slow"} if fault == "deadline" else {}
    with stub_server(**wrong) as urls:
        report = replay(run_of(urls[door], tmp_path, Steady(6, 50.0, fields=tuple(fields.items()))))
    samples = samples_of(tmp_path)
    assert {(each.outcome, each.fault) for each in samples} == {(outcome, fault)}
    assert report.judged == (6 if fault == "deadline" else 0)
    if fault == "disconnect":
        assert all(4 <= each.output_tokens < 16 for each in samples)


def test_a_slow_generator_fails_the_run(tmp_path: Path) -> None:
    with stub_server() as urls:
        # The first second's requests are made ready before the start.
        report = replay(run_of(urls[HTTP], tmp_path, Steady(300, 100.0), max_lag_ms=100.0, connect=connect_slowly))
    assert report.succeeded == 300
    assert any(reason.startswith("requests were sent late") for reason in report.generator.bottleneck)


def test_a_stall_moves_what_is_counted_from_the_intended_time_and_not_from_the_actual(tmp_path: Path) -> None:
    """Coordinated omission: a client with two slots cannot send while the server stalls, so few requests see it."""
    with stub_server(stall_at=30, stall_s=2.0) as urls:
        run = run_of(urls[HTTP], tmp_path, Steady(240, 60.0), limits=Limits(max_in_flight=2), max_lag_ms=500.0)
        report = replay(run)
    ttft = report.latency.ttft_ms
    assert ttft.intended is not None and ttft.sent is not None
    assert ttft.intended.p90.value > 1000 > 5 * ttft.sent.p90.value
    assert "waited for a free slot" in report.generator.bottleneck[0]


def test_ctrl_c_still_writes_the_report(tmp_path: Path) -> None:
    workload = tmp_path / "workload.jsonl"
    rows = [{"arrival_s": index / 20, "input_tokens": 8, "output_tokens": 8} for index in range(2000)]
    workload.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with stub_server() as urls:
        command = [sys.executable, "-m", "loadgen", "replay", "-w", str(workload), "-t", urls[HTTP], "-o"]
        process = subprocess.Popen(
            [*command, str(tmp_path / "run"), "--max-lag-ms", "10000"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        wait_for_lines(tmp_path / "run", 10)
        os.killpg(process.pid, signal.SIGINT)
        shown, said = process.communicate(timeout=60)
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
