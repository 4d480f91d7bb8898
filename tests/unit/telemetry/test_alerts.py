"""Alerts on series that are made up: each fires for what it is there for, and stays quiet when all is well."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.telemetry.alerts import Objective, rules
from tests.unit.telemetry.promql import Evaluator, Samples

GROUPS = rules(Objective())["groups"]
RECORDED = {rule["record"]: rule["expr"] for group in GROUPS for rule in group["rules"] if "record" in rule}
ALERTS = {
    rule["alert"].removeprefix("Triptych"): rule["expr"]
    for group in GROUPS
    for rule in group["rules"]
    if "alert" in rule
}
HOUR, EVERY_S = 3600, 60
NOW = 72 * HOUR
CALLS = {"door": "grpc", "method": "/triptych.v1.InferenceService/Generate"}


def counter(per_s: Callable[[float], float], begin: float = 0.0) -> Samples:
    """A counter that is scraped each minute until now."""
    total, samples = 0.0, []
    for second in range(int(begin), NOW + 1, EVERY_S):
        samples.append((float(second), total))
        total += per_s(second) * EVERY_S
    return samples


def gauge(value: float) -> Samples:
    return [(float(NOW - 30), value)]


def healthy() -> Evaluator:
    """Ten requests a second, nearly all of them as promised."""
    made = Evaluator(RECORDED)
    steady = counter(lambda _: 10.0)
    for name in ("time_to_first_token", "inter_token_latency"):
        bound = "1.0" if name == "time_to_first_token" else "0.1"
        made.put(f"triptych_{name}_seconds_bucket", counter(lambda _: 9.9), le=bound, model_name="m")
        made.put(f"triptych_{name}_seconds_count", steady, model_name="m")
    made.put("triptych_calls_total", steady, code="OK", **CALLS)
    made.put("triptych_calls_total", counter(lambda _: 0.001), code="UNAVAILABLE", **CALLS)
    made.put("triptych_calls_total", counter(lambda _: 1.0), code="RESOURCE_EXHAUSTED", **CALLS)
    made.put("triptych_kv_handoff_time_seconds_count", steady, model_name="m")
    for pool in ("prefill", "decode"):
        worker = {"worker": f"{pool}-0", "role": pool}
        made.put("triptych_workers", gauge(1), pool=pool, state="live")
        made.put("triptych_worker_failures", gauge(0), worker=f"{pool}-0")
        made.put("triptych_kv_cache_usage_perc", gauge(0.5), **worker)
        made.put("triptych_num_handoffs_waiting", gauge(0), **worker)
        made.put("triptych_report_age_seconds", gauge(0.2), **worker)
        made.put("triptych_worker_events_total", counter(lambda _: 0.0), kind="handoff_failed", reason="x", **worker)
        old = [(float(second), 3.0) for second in range(0, NOW, EVERY_S)]
        made.put("triptych_worker_events_total", old, kind="link_condemned", reason="checksum", **worker)
    made.put("triptych_cache_requests_total", steady, tier="exact", outcome="miss", category="faq")
    made.put("triptych_event_loop_lag_seconds_bucket", steady, le="0.01")
    made.put("triptych_event_loop_lag_seconds_bucket", steady, le="+Inf")
    made.put("triptych_admission_rejections_total", counter(lambda _: 0.01), reason="OVERLOADED")
    return made


def firing(series: Evaluator) -> set[str]:
    """Names of the alerts whose expression gives anything now."""
    return {name for name, expression in ALERTS.items() if series.query(expression, NOW)}


def since(hours: float, value: float, otherwise: float = 0.0) -> Callable[[float], float]:
    """A rate that has been so for the last hours."""
    return lambda second: value if second >= NOW - hours * HOUR else otherwise


def test_nothing_fires_when_all_is_well_or_nothing_is_there() -> None:
    assert firing(healthy()) == set()
    assert firing(Evaluator(RECORDED)) == set()


def burn(hours: float, share: float, metric: str = "time_to_first_token", bound: str = "1.0") -> Evaluator:
    """Of ten observations a second a share breaks its bound."""
    made = healthy()
    made.put(f"triptych_{metric}_seconds_bucket", counter(since(hours, 10 - 10 * share, 10)), le=bound, model_name="m")
    return made


@pytest.mark.parametrize(
    ("hours", "share", "severities"),
    [
        (2, 0.9, {"Page"}),
        (0.2, 0.9, set()),  # ten minutes: the hour's share is still small
        (12, 0.35, {"Page", "Ticket"}),
        (72, 0.08, {"Ticket"}),
        (72, 0.04, set()),
    ],
)
def test_budgets_that_burn(hours: float, share: float, severities: set[str]) -> None:
    assert firing(burn(hours, share)) == {f"TtftSloBurn{each}" for each in severities}
    found = firing(burn(hours, share, "inter_token_latency", "0.1"))
    assert found == {f"ItlSloBurn{each}" for each in severities}


def test_a_burn_that_is_over_ends_its_alert_within_the_short_window() -> None:
    made = healthy()
    late = counter(lambda second: 1.0 if NOW - 2 * HOUR <= second < NOW - 600 else 10.0)
    made.put("triptych_time_to_first_token_seconds_bucket", late, le="1.0", model_name="m")
    assert made.query("triptych:ttft_errors:ratio_rate1h > 0.72", NOW)
    assert firing(made) == set()


def test_availability() -> None:
    made = healthy()
    made.put("triptych_calls_total", counter(since(2, 0.2)), code="INTERNAL", **CALLS)
    assert firing(made) == {"AvailabilitySloBurnPage"}


WORKER = {"worker": "decode-0", "role": "decode"}
FAILED = WORKER | {"kind": "handoff_failed", "reason": "x"}
CORRUPTED = WORKER | {"kind": "link_condemned", "reason": "checksum"}
BROKEN = {"tier": "exact", "outcome": "error", "category": "faq"}


@pytest.mark.parametrize(
    ("name", "metric", "samples", "labels"),
    [
        ("KvCacheFull", "kv_cache_usage_perc", gauge(0.97), WORKER),
        ("HandoffsWait", "num_handoffs_waiting", gauge(25), WORKER),
        ("WorkerSilent", "report_age_seconds", gauge(9), WORKER),
        ("WorkerKeepsFailing", "worker_failures", gauge(3), {"worker": "decode-0"}),
        ("NoWorkerOfARole", "workers", gauge(0), {"pool": "decode", "state": "live"}),
        ("HandoffsFail", "worker_events_total", counter(since(1, 0.5)), FAILED),
        ("LinkQuarantined", "worker_events_total", [(float(NOW - 60), 1.0)], CORRUPTED),
        ("CacheFails", "cache_requests_total", counter(since(1, 1)), BROKEN),
        ("EventLoopLate", "event_loop_lag_seconds_bucket", counter(since(1, 0.0, 10)), {"le": "0.01"}),
        ("RequestsRefused", "admission_rejections_total", counter(since(1, 2)), {"reason": "OVERLOADED"}),
    ],
)
def test_one_thing_is_wrong(name: str, metric: str, samples: Samples, labels: dict[str, str]) -> None:
    made = healthy()
    made.put(f"triptych_{metric}", samples, **labels)
    if name == "NoWorkerOfARole":
        made.put("triptych_workers", gauge(1), pool="decode", state="absent")
    if name == "EventLoopLate":
        made.put("triptych_event_loop_lag_seconds_bucket", counter(lambda _: 10.0), le="0.25")
    assert firing(made) == {name}


def test_hand_offs_that_all_fail_are_told_though_none_has_a_time() -> None:
    made = Evaluator(RECORDED)
    made.put("triptych_worker_events_total", counter(since(1, 1)), **FAILED)
    assert firing(made) == {"HandoffsFail"}
