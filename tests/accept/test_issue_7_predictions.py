"""What the router predicts on a real cluster, against what requests then took: its own exported errors."""

from __future__ import annotations

import re
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cluster.conftest import cluster_config, model_folder  # noqa: F401
from tests.cluster.harness import Cluster, running

pytestmark = [pytest.mark.accept, pytest.mark.cluster, pytest.mark.timeout(1800)]
LEARNED_AFTER, JUDGED, LIMIT = 200, 60, 0.15
BUCKET = re.compile(r'triptych_prediction_error_ratio_bucket\{kind="(\w+)",le="([^"]+)"\} ([\d.e+]+)')


def errors(cluster: Cluster) -> dict[str, dict[float, float]]:
    """Cumulated counts by kind and upper bound."""
    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.http_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, dict[float, float]] = {}
    for kind, bound, count in BUCKET.findall(text):
        found.setdefault(kind, {})[float(bound)] = float(count)
    return found


def ask(cluster: Cluster, first: int, count: int) -> None:
    """One request after another, of other lengths, with nothing in common."""
    for number in range(first, first + count):
        length = 16 + 37 * number % 240
        prompt = [(number * 7919 + place * 31) % 40_000 for place in range(length)]
        generation = cluster.generate(prompt, max_tokens=8, ignore_eos=True)
        assert generation.error is None


def test_the_median_error_is_below_15_percent_after_200_requests(
    model_folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = cluster_config(model_folder, tmp_path)
    del config["model"]["dtype"]  # as it is served by default
    with running(tmp_path, config) as cluster:
        ask(cluster, 0, LEARNED_AFTER)
        before = errors(cluster)
        ask(cluster, LEARNED_AFTER, JUDGED)
        after = errors(cluster)
    for kind in ("ttft", "itl"):
        new = {bound: after[kind][bound] - before[kind][bound] for bound in after[kind]}
        shares = {bound: (new[bound] - new[last]) / JUDGED for last, bound in pairwise(sorted(new))}
        print(f"{kind}: share of the last {JUDGED} by upper bound of the error: {shares}")
        assert new[LIMIT] - new[-LIMIT] >= 0.5 * JUDGED, kind
