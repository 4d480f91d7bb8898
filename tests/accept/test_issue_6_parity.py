"""Issue 6, parity: a real cluster's log, with killed workers, replays exactly; a changed policy is caught at once."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.cluster.replay import build_machine, replay_file
from services.core.decision_log import replay
from services.core.seeds import numpy_stream
from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from tests.cluster.harness import Cluster, Generation, collect, running, wait_for

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
SAVED = ROOT / ".cache" / "accept"
DECISIONS, AT_ONCE, OUTPUT, TIMEOUT_S = 2000, 8, 48, 600.0
EARLY_TOKENS, CHUNK_TOKENS = 150, 128
Entry = dict[str, Any]


def config(folder: Path) -> dict[str, Any]:
    return {
        "model": {"path": str(prepare_model(DEFAULT_MODEL, ROOT / ".cache" / "models")), "name": DEFAULT_MODEL},
        "cache": {"memory_bytes": 96 * 2**20},
        "router": {"early_grant_tokens": EARLY_TOKENS},
        "scheduler": {"max_chunk_tokens": CHUNK_TOKENS},
        "record": {"folder": str(folder / "decisions")},
    }


def entries(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def wave(cluster: Cluster, number: int) -> list[Generation]:
    """Some requests at once, of lengths that take both ways of handing off."""
    drawn = numpy_stream(number, "parity")
    found: list[Generation] = []
    calls = []
    for _ in range(AT_ONCE):
        prompt = drawn.integers(10, 2000, drawn.integers(20, 320)).tolist()
        calls.append(cluster.stream(prompt, TIMEOUT_S, max_tokens=OUTPUT, ignore_eos=True))
    threads = [threading.Thread(target=lambda call=call: found.append(collect(call))) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def decisions(folder: Path) -> int:
    return sum(bool(entry.get("actions")) for path in folder.glob("*.jsonl") for entry in entries(path))


def answered(got: list[Generation]) -> None:
    assert all(each.error is None and len(each.token_ids) == OUTPUT for each in got), got


def kill_amid(cluster: Cluster, victim: str, number: int) -> None:
    """A wave, a worker killed in it, and its successor."""
    before = cluster.workers()[victim]
    timer = threading.Timer(1.0, os.kill, (int(before["pid"]), signal.SIGKILL))
    timer.start()
    answered(wave(cluster, number))
    timer.join()
    wait_for(lambda: cluster.workers().get(victim, before)["incarnation"] != before["incarnation"], 60, "a new one")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Logs of one run: waves of requests, a worker of each role killed amid one, until there are decisions enough."""
    folder = tmp_path_factory.mktemp("parity")
    with running(folder, config(folder)) as cluster:
        for number, victim in enumerate(("", "decode-0", "", "prefill-0", *("",) * 8)):
            if victim:
                kill_amid(cluster, victim, number)
            else:
                answered(wave(cluster, number))
            if number >= 3 and decisions(folder / "decisions") >= DECISIONS:
                break
    return sorted((folder / "decisions").glob("*.jsonl"))


def test_a_recorded_run_replays_without_a_mismatch(logs: list[Path]) -> None:
    rows = []
    for path in logs:
        result = replay_file(path)
        rows.append({"log": path.name.split(".")[0], "entries": result.entries, "decisions": result.decisions})
        assert result.mismatch is None, (path.name, result.mismatch)
    print(json.dumps(rows))
    SAVED.mkdir(parents=True, exist_ok=True)
    (SAVED / "issue_6_parity.json").write_text(json.dumps(rows, indent=1))
    assert sum(int(row["decisions"]) for row in rows) >= DECISIONS
    kinds = [str(row["log"]) for row in rows]
    assert kinds.count("decode-0") >= 2, "a decode worker was killed and started again"
    assert kinds.count("prefill-0") >= 2
    assert any(kind.startswith("controller") for kind in kinds)
    assert any(kind.startswith("frontdoor") for kind in kinds)


def smaller_chunks(header: Entry) -> None:
    header["built_from"]["spec"]["scheduler"]["max_chunk_tokens"] = CHUNK_TOKENS // 2


def no_early_grants(header: Entry) -> None:
    header["built_from"]["router"]["early_grant_tokens"] = 10**6


def no_patience(header: Entry) -> None:
    header["built_from"]["config"]["start_timeout_s"] = 1e-9


def first_long_chunk(entries: list[Entry]) -> int:
    def is_long(entry: Entry) -> bool:
        steps = [action["batch"] for action in entry["actions"] if action["_"] == "RunStep"]
        return any(len(row["token_ids"]) > CHUNK_TOKENS // 2 for batch in steps for row in batch["chunks"])

    return next(entry["sequence"] for entry in entries if is_long(entry))


def first_early_grant(entries: list[Entry]) -> int:
    def is_early(entry: Entry) -> bool:
        sent = [action["request"] for action in entry["actions"] if action["_"] == "Dispatch"]
        return any(request["discipline"]["v"] == "early" for request in sent)

    return next(entry["sequence"] for entry in entries if is_early(entry))


def first_look_at_a_start(entries: list[Entry]) -> int:
    launched = next(entry for entry in entries if any(action["_"] == "Launch" for action in entry["actions"]))
    later = (entry for entry in entries if entry["sequence"] > launched["sequence"])
    return next(entry["sequence"] for entry in later if entry["event"]["_"] == "Tick")


@pytest.mark.parametrize(
    ("log", "change", "first_affected"),
    [
        ("prefill-0", smaller_chunks, first_long_chunk),
        ("frontdoor", no_early_grants, first_early_grant),
        ("controller", no_patience, first_look_at_a_start),
    ],
)
def test_a_changed_policy_is_caught_at_the_first_affected_entry(
    logs: list[Path], log: str, change: Callable[[Entry], None], first_affected: Callable[[list[Entry]], int]
) -> None:
    path = next(path for path in logs if path.name.startswith(log))
    header, *rest = list(entries(path))
    first = first_affected(rest)
    change(header)
    lines = [json.dumps(header) + "\n", *(json.dumps(entry) + "\n" for entry in rest)]
    found = replay(iter(lines), build_machine).mismatch
    assert found is not None
    assert found.sequence == first
