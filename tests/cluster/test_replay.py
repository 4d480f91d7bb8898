"""The decision logs of the real cluster replay through the same classes without a mismatch."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cluster.replay import replay_file
from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster


MAX_ROUNDS = 4  # one is enough after the other tests of the cluster


def decisions_of(folder: Path) -> dict[str, int]:
    """Replay every log; decisions by kind of machine."""
    decisions = {"prefill": 0, "decode": 0, "frontdoor": 0, "controller": 0}
    for path in sorted(folder.glob("*.jsonl")):
        result = replay_file(path)
        assert result.mismatch is None, (path.name, result.mismatch)
        decisions[path.name.split("-")[0]] += result.decisions
    return decisions


def test_a_recorded_run_replays(cluster: Cluster) -> None:
    decisions: dict[str, int] = {}
    for first in range(MAX_ROUNDS):
        calls = [cluster.stream([20 + n, first, *range(100, 160)], max_tokens=40, ignore_eos=True) for n in range(6)]
        for call in calls:
            list(call)
        cluster.wait_idle()
        decisions = decisions_of(cluster.folder / "decisions")
        if sum(decisions.values()) >= 300:
            break
    assert sum(decisions.values()) >= 300, decisions
    assert decisions.pop("controller") >= 1, "it launched the workers"
    assert min(decisions.values()) >= 20, decisions
