"""Issue 2, cluster: 20 prompts through prefill and decode, kills at 20 points, a long replay, memory at rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cluster.replay import replay_file
from services.cluster.supervise import memory_table
from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from tests.cluster.conftest import cluster_config
from tests.cluster.harness import Cluster, collect, running
from tests.cluster.test_faults import ALL_POINTS, kill_at
from tests.engine.reference_rule import PROMPTS, Reference, assert_rule

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
CACHE = Path(__file__).parents[2] / ".cache" / "models"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A float32 cluster with test hooks."""
    folder = tmp_path_factory.mktemp("accept")
    with running(folder, cluster_config(prepare_model(DEFAULT_MODEL, CACHE), folder)) as started:
        yield started


def test_twenty_prompts_through_two_workers_agree_with_transformers(cluster: Cluster) -> None:
    reference = Reference(prepare_model(DEFAULT_MODEL, CACHE))
    results = {}
    for first in range(0, len(PROMPTS), 4):
        calls = {text: cluster.stream(text, max_tokens=48) for text in PROMPTS[first : first + 4]}
        results.update({text: collect(call) for text, call in calls.items()})
    assert all(got.error is None for got in results.values())
    found = {
        text: reference.divergences(reference.chat_prompt(text), tuple(got.token_ids)) for text, got in results.items()
    }
    tokens = sum(len(got.token_ids) for got in results.values())
    print(f"\n{len(results)} prompts, {tokens} tokens, {sum(map(len, found.values()))} divergences", *found.values())
    assert_rule(found)


def test_a_long_recorded_run_replays(cluster: Cluster) -> None:
    for first in range(4):
        calls = [cluster.stream([20 + n, first, *range(100, 160)], max_tokens=60, ignore_eos=True) for n in range(6)]
        for call in calls:
            list(call)
    cluster.wait_idle()
    decisions = {}
    for path in sorted((cluster.folder / "decisions").glob("*.jsonl")):
        result = replay_file(path)
        print(path.name, result)
        assert result.mismatch is None
        decisions[path.name.split("-")[0]] = result.decisions
    assert sum(decisions.values()) >= 300
    assert min(decisions.values()) >= 20


@pytest.mark.parametrize(("worker_id", "fault"), ALL_POINTS)
def test_kills(cluster: Cluster, worker_id: str, fault: str) -> None:
    kill_at(cluster, worker_id, fault, 100 + ALL_POINTS.index((worker_id, fault)))


def test_memory_of_an_idle_default_cluster(tmp_path: Path) -> None:
    config = {"model": {"path": str(prepare_model(DEFAULT_MODEL, CACHE)), "name": DEFAULT_MODEL}}
    with running(tmp_path, config) as started:
        time.sleep(30)
        rows = memory_table(started.cluster_id)
        total = sum(row.pss_bytes for row in rows)
        print("", *(f"{row.pss_bytes >> 20:6} MB {row.title}" for row in rows), f"{total >> 20:6} MB PSS", sep="\n")
        assert total <= 3.5e9
