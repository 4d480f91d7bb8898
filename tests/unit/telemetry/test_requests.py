"""From timelines to metrics: what one ended request adds, and what it logs."""

import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.core.request import FinishReason
from services.core.timeline import MarkKind, Timeline
from services.telemetry.exporter import Exporter
from services.telemetry.requests import RequestEnd, RequestMetrics

MS = 1_000_000


def timeline() -> Timeline:
    """Received at 1 s; first token after 100 ms, three more 20 ms apart."""
    made, start = Timeline(), 1000 * MS
    for kind, at_ms, where in (
        (MarkKind.RECEIVED, 0, "frontdoor-1"),
        (MarkKind.DISPATCHED, 4, "frontdoor-1"),
        (MarkKind.QUEUED, 10, "prefill-0"),
        (MarkKind.PREFILL_START, 30, "prefill-0"),
        (MarkKind.PREFILL_END, 95, "prefill-0"),
        (MarkKind.HANDOFF_OFFERED, 96, "prefill-0"),
        (MarkKind.HANDOFF_GRANTED, 100, "decode-0"),
        (MarkKind.HANDOFF_COMMITTED, 116, "decode-0"),
        (MarkKind.FINISHED, 170, "decode-0"),
    ):
        made.add(kind, start + at_ms * MS, where, 7)
    made.token_times_ns = [start + at_ms * MS for at_ms in (100, 120, 140, 160)]
    return made


def samples(exporter: Exporter) -> dict[tuple[str, ...], float]:
    """Every sample of ours: (name, label values in the order of the labels' names) to value."""
    text, content_type = exporter.text()
    assert content_type.startswith("text/plain")
    return {
        (sample.name.removeprefix("triptych_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name.startswith("triptych_")
    }


def test_every_phase_of_a_request_is_observed_in_seconds() -> None:
    exporter = Exporter("frontdoor")
    RequestMetrics(exporter, "tiny").ended(RequestEnd("r", timeline(), 12, 8, FinishReason.STOP))
    found = samples(exporter)
    expected = {
        "time_to_first_token": 0.1,
        "request_time_per_output_token": 0.02,
        "e2e_request_latency": 0.17,
        "request_dispatch_time": 0.004,
        "request_queue_time": 0.02,
        "request_prefill_time": 0.065,
        "request_decode_time": 0.06,
        "request_inference_time": 0.13,
        "kv_handoff_wait": 0.004,
        "kv_handoff_time": 0.02,
    }
    for stem, seconds in expected.items():
        assert found[f"{stem}_seconds_sum", "tiny"] == pytest.approx(seconds), stem
        assert found[f"{stem}_seconds_count", "tiny"] == 1
    assert found["inter_token_latency_seconds_count", "tiny"] == 3
    assert found["inter_token_latency_seconds_bucket", "0.025", "tiny"] == 3
    assert found["inter_token_latency_seconds_bucket", "0.01", "tiny"] == 0
    assert found["prompt_tokens_total", "tiny"] == 12
    assert found["generation_tokens_total", "tiny"] == 4
    assert found["prefix_cache_hits_total", "tiny"] == 8
    assert found["request_success_total", "stop", "tiny"] == 1


def test_a_failed_request_counts_by_reason_and_has_no_times_that_never_were() -> None:
    exporter, made = Exporter("frontdoor"), Timeline()
    made.add(MarkKind.RECEIVED, 5 * MS, "frontdoor-1", 7)
    made.add(MarkKind.FINISHED, 9 * MS, "frontdoor-1", 7)
    observer = RequestMetrics(exporter, "tiny")
    observer.ended(RequestEnd("r", made, 12, 0, None, "DEADLINE"))
    observer.refused("OVERLOADED")
    found = samples(exporter)
    assert found["request_failures_total", "tiny", "DEADLINE"] == 1
    assert found["admission_rejections_total", "OVERLOADED"] == 1
    assert not [name for name, *_ in found if name.startswith(("time_to_first_token", "request_prefill_time"))]


def test_one_line_a_request_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="services.telemetry.requests"):
        RequestMetrics(Exporter("frontdoor"), "tiny").ended(RequestEnd("r-9", timeline(), 12, 8, FinishReason.LENGTH))
    (record,) = caplog.records
    fields = vars(record)
    assert (fields["request_id"], fields["finish"], fields["output_tokens"]) == ("r-9", "length", 4)
    assert fields["ttft_ms"] == 100.0
    assert fields["workers"] == ["frontdoor-1", "prefill-0", "decode-0"]
