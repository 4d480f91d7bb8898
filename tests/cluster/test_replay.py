"""The decision logs of the real cluster replay through the same classes without a mismatch."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cluster.replay import replay_file
from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster


def test_a_recorded_run_replays(cluster: Cluster) -> None:
    calls = [cluster.stream([20 + n, *range(100, 160)], max_tokens=40, ignore_eos=True) for n in range(6)]
    for call in calls:
        list(call)
    cluster.wait_idle()
    folder = cluster.folder / "decisions"
    decisions: dict[str, int] = {"prefill": 0, "decode": 0, "frontdoor": 0}
    for path in sorted(Path(folder).glob("*.jsonl")):
        result = replay_file(path)
        assert result.mismatch is None, (path.name, result.mismatch)
        decisions[path.name.split("-")[0]] += result.decisions
    assert sum(decisions.values()) >= 300, decisions
    assert min(decisions.values()) >= 20, decisions
