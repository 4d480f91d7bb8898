"""A trace of a real request: every stage, on the process where it happened, end to end."""

from __future__ import annotations

import json

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.traced import STAGES, traced_request

pytestmark = pytest.mark.cluster


def test_a_trace_has_every_stage_and_they_add_up(cluster: Cluster) -> None:
    found = [traced_request(cluster, f"traced.{n}", [n + 5, *range(20, 60)], 8) for n in range(7)]
    for each in found:
        call, stages = each.trace.spans[0], each.trace.spans[1:]
        assert [span.name for span in stages] == STAGES
        assert all(span.parent_span_id == call.span_id for span in stages)
        assert all(span.duration_us >= 0 for span in stages)
        assert each.stages_ms == pytest.approx(call.duration_us / 1e3, abs=0.01)
        at = {span.name: span.worker for span in stages}
        assert (at["prefill"], at["decode"]) == ("prefill-0", "decode-0")
        assert at["receive"] == at["route"] == call.worker
    # How far this is from the client's time is a time itself, and so is asked by `make accept ISSUE=8`.


def test_the_command_shows_the_waterfall_and_the_last_requests(cluster: Cluster) -> None:
    found = traced_request(cluster, "traced.shown", [9, *range(20, 60)], 4)
    shown = cluster.cli("trace", "traced.shown")
    assert shown.returncode == 0, shown.stderr
    assert "prefill-0 > decode-0" in shown.stdout
    assert all(stage in shown.stdout for stage in STAGES)
    (told,) = json.loads(cluster.cli("trace", found.trace.trace_id, "--json").stdout)
    assert [span["name"] for span in told["spans"][1:]] == STAGES
    assert "traced.shown" in cluster.cli("trace").stdout
    unknown = cluster.cli("trace", "nobody")
    assert unknown.returncode == 1
    assert "nobody" in unknown.stderr
