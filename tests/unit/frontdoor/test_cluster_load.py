"""The fullest of queue, decodes and memory is the load that the cache's policy sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.core.config import parse
from services.core.request import WorkerRef
from services.frontdoor.cluster_load import cluster_load
from services.router.view import WorkerView
from services.semcache.config import LoadConfig
from tests.unit.frontdoor.reports import report_of

CONFIG = parse(LoadConfig, {"full_queue_tokens": 1000, "full_decodes": 10})


def worker(name: str, reserved: int = 0, placed: int = 0, **fields: Any) -> WorkerView:
    report = replace(
        report_of(WorkerRef(name, 1)), kv_blocks_used=0, queued_prefill_tokens=0, running_decodes=0, **fields
    )
    return WorkerView(report, 0, reserved_prompt_tokens=reserved, reserved_decodes=placed)


def with_report(name: str, **fields: Any) -> WorkerView:
    view = worker(name)
    return replace(view, report=replace(view.report, **fields))


@pytest.mark.parametrize(
    ("workers", "load"),
    [
        ([], 0.0),
        ([worker("prefill-0"), worker("decode-0")], 0.0),
        ([with_report("prefill-0", queued_prefill_tokens=500), worker("decode-0")], 0.5),
        ([with_report("prefill-0", queued_prefill_tokens=500), worker("prefill-1")], 0.25),
        ([worker("prefill-0", reserved=1500)], 1.5),
        ([with_report("decode-0", running_decodes=7)], 0.7),
        ([worker("decode-0", placed=20)], 2.0),
        ([with_report("decode-0", kv_blocks_used=90), worker("decode-1")], 0.45),
        ([with_report("decode-0", kv_blocks_used=100, draining=True), worker("decode-1")], 0.0),
    ],
)
def test_the_fullest_counts(workers: list[WorkerView], load: float) -> None:
    assert cluster_load(workers, False, CONFIG) == pytest.approx(load)
    assert cluster_load(workers, True, CONFIG) == max(load, 1.0), "requests wait at the front door"
