"""Issue 3, conservation: 200 seeded runs of faults, resumable, and deadlines that hold while others are stuck."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import grpc
import pytest

from tests.cluster.conservation import OUTLIVES_S, WORKERS, Conservation, Result, RunReport, completion, config, wake
from tests.cluster.harness import Cluster, collect, running, wait_for

pytestmark = [pytest.mark.accept, pytest.mark.timeout(3600)]
SEEDS = range(200)
FOUND = Path(__file__).parents[2] / ".cache" / "accept" / "issue_3_conservation.json"
DEADLINE_S = 1.5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A tiny model on four workers."""
    folder = tmp_path_factory.mktemp("conservation")
    with running(folder, config(folder / "model")) as started:
        yield started


def known() -> dict[int, RunReport]:
    """Runs of an earlier, interrupted call; delete the file to begin anew."""
    if not FOUND.exists():
        return {}
    rows = json.loads(FOUND.read_text())["runs"]
    return {row["seed"]: RunReport(**{**row, "results": [Result(**each) for each in row["results"]]}) for row in rows}


def save(reports: dict[int, RunReport]) -> None:
    """Everything that was found so far."""
    complete, wanted = completion(list(reports.values()))
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, int] = {}
    moves: dict[str, int] = {}
    for report in reports.values():
        for each in report.results:
            outcomes[each.outcome] = outcomes.get(each.outcome, 0) + 1
            for mark in ("retried", "continued"):
                moves[mark] = moves.get(mark, 0) + each.marks.count(mark)
    summary = {
        "runs": len(reports),
        "whole requests": wanted,
        "complete": complete,
        "outcomes": outcomes,
        "moves": moves,
        "slowest release, s": max((report.idle_s for report in reports.values()), default=0.0),
        "runs with problems": [report.seed for report in reports.values() if report.problems],
    }
    rows = [asdict(report) for report in reports.values()]
    FOUND.write_text(json.dumps({"summary": summary, "runs": rows}, indent=1) + "\n")


def test_two_hundred_runs(cluster: Cluster) -> None:
    conservation = Conservation(cluster)
    reports = known()
    for seed in SEEDS:
        if seed in reports and not reports[seed].problems:
            continue
        reports[seed] = conservation.run(seed)
        save(reports)
        outcomes = " ".join(each.outcome for each in reports[seed].results)
        print(f"{seed + 1}/{len(SEEDS)} {', '.join(reports[seed].faults)}: {outcomes} {reports[seed].problems or ''}")
    assert [report for report in reports.values() if report.problems] == []
    complete, wanted = completion(list(reports.values()))
    print(f"{complete} of {wanted} requests complete ({complete / wanted:.1%}); {FOUND}")
    assert complete >= 0.95 * wanted


@pytest.mark.parametrize("stuck", ["prefill", "decode", "front door", "controller and decode"])
def test_nothing_outlives_its_deadline_on_any_worker(cluster: Cluster, stuck: str) -> None:
    wait_for(lambda: len(cluster.workers()) == len(WORKERS), 40.0, "four workers")
    cluster.wait_idle(10.0)
    for delay_s in (0.0, 0.05, 0.2, 0.5, 1.0):
        calls = [cluster.stream([5, 6, n] * 40, DEADLINE_S, max_tokens=1500, ignore_eos=True) for n in range(3)]
        begun = time.monotonic()
        time.sleep(delay_s)
        pids = []
        if stuck in ("prefill", "decode"):
            pids = [int(row["pid"]) for row in cluster.workers().values() if row["pool"] == stuck]
        if "front door" in stuck:
            pids = [process.pid for process in cluster.find("ServeReplica:triptych:frontdoor")]
        if "controller" in stuck:
            pids = [process.pid for process in cluster.find("ServeReplica:control:controller")]
            pids += [int(row["pid"]) for row in cluster.workers().values() if row["pool"] == "decode"]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        others = [each for each in WORKERS if not each.startswith(stuck.split()[-1])]
        time.sleep(max(0.0, begun + DEADLINE_S + OUTLIVES_S - time.monotonic()))
        held = {each: cluster.tell(each, "report") for each in others}
        wake(dict.fromkeys(pids, 0.0), 1.0)
        assert set(held.values()) == {"0 0 0 0"}, (stuck, delay_s, held)
        for call in calls:
            assert collect(call).error in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        wait_for(lambda: len(cluster.workers()) == len(WORKERS), 40.0, "four workers")
        cluster.wait_idle(10.0)
