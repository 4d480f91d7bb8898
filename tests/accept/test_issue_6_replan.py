"""A real cluster whose traffic drifts is planned anew, says so, and scales its pools where that is allowed.

The planner is the real command in a process of its own, on the served model's folder and three devices that are so slow
that one decodes three requests of the later kind in four seconds. One is sent each second: prompts of 40 tokens with
outputs of 12, then prompts of 8 with outputs of 60. (Outputs of few tokens would not keep the bound between tokens, of
which the hand-off is a part.)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.pb import cluster_pb2, cluster_pb2_grpc
from tests.cluster.harness import Cluster, running, wait_for
from tests.cluster.test_cli import scraped
from tests.cluster.test_lifecycle import tiny_config

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1200)]
POOL = """groups:
  - {device: core, hosts: 1, devices_per_host: 3, tflops: 0.000011, memory_gbytes_per_s: 0.011, memory_gbytes: 1,
     link_gbytes_per_s: 1, watts: 10}
between_hosts: {gbytes_per_s: 1}
"""
WATCHED = {"window_s": 2.0, "windows": 2, "ratio": 3.0, "calm_ratio": 2.0, "min_requests": 6, "requests": 40}
"""The rate may be twice off, as on a busy machine; lengths are five times."""


def replanning(folder: Path, mode: str, pool: str = POOL) -> dict[str, Any]:
    """A tiny cluster that watches its traffic."""
    (folder / "pool.yaml").write_text(pool, encoding="utf-8")
    replan = {**WATCHED, "mode": mode, "hardware": str(folder / "pool.yaml"), "slo": "ttft=5s,tpot=600ms"}
    return {**tiny_config(folder), "controller": {"replan": replan}}


def asked(cluster: Cluster) -> cluster_pb2.GetStatusResponse:
    """The cluster's status."""
    return cluster_pb2_grpc.ClusterServiceStub(cluster.channel).GetStatus(cluster_pb2.GetStatusRequest(), timeout=60)


def drift(cluster: Cluster) -> str:
    """Send long prompts with short outputs until they are known, then the opposite until there is a proposal."""
    begun, number = time.monotonic(), 0
    for tokens, output, most in ((40, 12, 30), (8, 60, 300)):
        for sent in range(most):
            number += 1
            time.sleep(max(0.0, begun + number - time.monotonic()))
            prompt = [5 + (sent + place) % 90 for place in range(tokens)]
            done = cluster.generate(prompt, max_tokens=output, ignore_eos=True)
            assert done.error is None, done
            if sent % 4 == 3 and (proposal := asked(cluster).proposal):
                return str(proposal)
    raise AssertionError("outputs that are five times longer are a drift")


def planned(cluster: Cluster) -> Iterator[str]:
    """What watchers were told of plans."""
    stub = cluster_pb2_grpc.ClusterServiceStub(cluster.channel)
    for event in stub.WatchEvents(cluster_pb2.WatchEventsRequest(after_sequence=0), timeout=60):
        if event.kind == cluster_pb2.EVENT_KIND_PLANNED:
            yield str(event.reason)


def outcomes(cluster: Cluster) -> dict[str, float]:
    """Of the controller's metric."""
    address = wait_for(lambda: asked(cluster).metrics_address, 60, "the controller's address")
    return {labels["outcome"]: value for labels, value in scraped(address).get("triptych_replans_total", ())}


def test_a_cluster_whose_traffic_drifts_is_scaled_to_another_plan(tmp_path: Path) -> None:
    with running(tmp_path / "c", replanning(tmp_path, "apply")) as cluster:
        proposal = drift(cluster)
        print(f"\n{proposal}")
        assert "traffic drifted from" in proposal and "applied: " in proposal and "decode 1 -> 2" in proposal
        assert proposal in next(planned(cluster))
        assert "plan: traffic drifted" in cluster.cli("status", timeout_s=300).stdout.replace("\n", " ")
        assert outcomes(cluster) == {"applied": 1.0}
        rows = wait_for(lambda: (rows := cluster.workers()).keys() and len(rows) == 3 and rows, 120, "three workers")
        print(json.dumps(sorted(rows)))
        assert cluster.generate([5, 6, 7], max_tokens=4, ignore_eos=True).error is None


def test_a_plan_is_only_shown_where_that_is_all_that_is_allowed_or_possible(tmp_path: Path) -> None:
    """Hardware that is too slow for every bound: the answer names what binds, and the pools stay."""
    slow = POOL.replace("0.000011", "0.0000000001")
    with running(tmp_path / "c", replanning(tmp_path, "propose", slow)) as cluster:
        proposal = drift(cluster)
        print(f"\n{proposal}")
        assert "no plan: " in proposal and ("ttft" in proposal.lower() or "tpot" in proposal.lower())
        assert outcomes(cluster) == {"refused": 1.0}
        assert sorted(cluster.workers()) == ["decode-0", "prefill-0"]
