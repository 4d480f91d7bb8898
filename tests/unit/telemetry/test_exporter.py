"""What is declared is what is exported: names, help, labels that are bounded, state of workers."""

import re
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.core.errors import PortBusyError
from services.core.request import WorkerRef
from services.telemetry import metrics
from services.telemetry.exporter import MAX_LABEL_VALUES, OTHER, Exporter, Sample
from services.telemetry.metrics import METRICS, Kind
from services.telemetry.workers import pool_samples, worker_samples
from tests.unit.frontdoor.reports import report_of


def families(exporter: Exporter) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by family name, then label values in the order of the labels' names."""
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(exporter.text()[0].decode())
    }


def test_declarations_follow_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    declared = {value.name for value in vars(metrics).values() if isinstance(value, metrics.Metric)}
    assert declared == set(names), "METRICS lists every declaration"
    for metric in METRICS:
        assert re.fullmatch(r"triptych_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        stem = metric.name.removesuffix("_total")
        assert (metric.unit == "seconds") == stem.endswith("_seconds"), metric.name
        assert metric.help.endswith("."), metric.name
        assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets))


def test_every_state_of_kv_blocks_adds_up() -> None:
    exporter = Exporter("worker")
    told = replace(report_of(WorkerRef("prefill-0", 1)), kv_blocks_used=30, kv_blocks_cached=20)
    exporter.add_source(lambda: worker_samples(told))
    found = families(exporter)
    blocks = {labels[1]: value for labels, value in found["triptych_kv_blocks"].items()}
    assert blocks == {"used": 30, "cached": 20, "free": 50}
    assert found["triptych_kv_cache_usage_perc"] == {("prefill", "prefill-0"): 0.3}


def test_counters_of_a_worker_keep_kind_and_reason() -> None:
    exporter = Exporter("worker")
    counters = (("preempted/no_blocks", 3), ("ended/OVERLOADED", 2))
    told = replace(report_of(WorkerRef("decode-0", 1)), counters=counters)
    exporter.add_source(lambda: worker_samples(told))
    found = families(exporter)
    assert found["triptych_num_preemptions"] == {("decode", "decode-0"): 3}
    assert found["triptych_worker_events"][("ended", "OVERLOADED", "decode", "decode-0")] == 2


def test_pools_are_counted_by_state() -> None:
    exporter = Exporter("controller")
    exporter.add_source(lambda: pool_samples([("a", "prefill", "live", 0), ("b", "prefill", "starting", 2)]))
    found = families(exporter)
    assert found["triptych_workers"] == {("prefill", "live"): 1, ("prefill", "starting"): 1}
    assert found["triptych_worker_failures"][("b",)] == 2


def test_a_label_takes_no_more_values_than_its_cap() -> None:
    exporter = Exporter("frontdoor")
    for number in range(MAX_LABEL_VALUES + 50):
        exporter.count(metrics.REJECTIONS, (f"REASON_{number}",))
    found = families(exporter)["triptych_admission_rejections"]
    values = {labels[0] for labels in found}
    assert len(values) == MAX_LABEL_VALUES + 1
    assert OTHER in values
    assert max(found.values()) == 50
    many = [Sample(metrics.MOVES, ("retried", str(number)), 1.0) for number in range(MAX_LABEL_VALUES + 50)]
    exporter.add_source(lambda: many)
    assert families(exporter)["triptych_request_moves"][("retried", OTHER)] == 50


def test_a_range_without_a_free_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_arguments: object, **_options: object) -> None:
        raise OSError("in use")

    monkeypatch.setattr("prometheus_client.start_http_server", taken)
    with pytest.raises(PortBusyError, match=r"telemetry\.metrics_ports"):
        Exporter("worker").serve("127.0.0.1", (9000, 9001))
