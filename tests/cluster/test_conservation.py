"""Twelve seeded runs of faults on two prefill and two decode workers; the accept test has two hundred."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.conservation import Conservation, completion, config
from tests.cluster.harness import running

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
SEEDS = range(12)


@pytest.fixture(scope="module")
def conservation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conservation]:
    """A tiny model on four workers."""
    folder = tmp_path_factory.mktemp("conservation")
    with running(folder, config(folder / "model")) as cluster:
        yield Conservation(cluster)


def test_every_block_lease_and_token_is_accounted_for(conservation: Conservation) -> None:
    reports = []
    for seed in SEEDS:
        reports.append(conservation.run(seed, everyone=seed == SEEDS[-1]))
        print(reports[-1])
    assert [report for report in reports if report.problems] == []
    complete, wanted = completion(reports)
    assert complete >= 0.95 * wanted, reports
    moves = [mark for report in reports for each in report.results for mark in each.marks]
    assert {"retried", "continued"} & set(moves), "some request was moved"
