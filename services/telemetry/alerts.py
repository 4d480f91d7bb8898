"""Prometheus rules: burn rates of the SLO over several windows, and what an operator must look at.

Burn rates after Beyer et al., The Site Reliability Workbook (2018), chapter 5: an alert fires while a long window and
a short one, which ends it soon, both burn the error budget so many times too fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from services.core.slo import Slo
from services.telemetry import metrics
from services.telemetry.queries import grew, latest, quantile, ratio, share_above, total_rate

RUNBOOKS = "deploy/runbooks.md"
PAGE, TICKET = "page", "ticket"
BURNS = ((14.4, "1h", "5m", PAGE), (6.0, "6h", "30m", PAGE), (3.0, "1d", "2h", TICKET), (1.0, "3d", "6h", TICKET))
"""(times too fast, long window, short window, severity); the first uses 2 % of a month's budget in an hour."""
FAULTS = "~INTERNAL|UNAVAILABLE|UNKNOWN|DATA_LOSS|DEADLINE_EXCEEDED"
"""Status names that are the server's fault."""
SERVED = "~/triptych.v1.InferenceService/Generate|/v1/chat/completions|/v1/completions"
WINDOWS = sorted({window for _, *both, _ in BURNS for window in both}, key=lambda text: (text[-1] != "m", text))
DEFAULT_SLO = Slo(ttft_ms=1000.0, tpot_ms=100.0)


@dataclass(frozen=True, slots=True)
class Objective:
    """What is promised.

    Attributes:
        slo: bounds of the time to the first token and between tokens; each must be a bucket of its metric.
        attainment: share of the requests, or gaps, that keep them.
        availability: share of the calls that do not fail.
    """

    slo: Slo = DEFAULT_SLO
    attainment: float = 0.95
    availability: float = 0.999


def rules(objective: Objective) -> dict[str, Any]:
    """The rule file: recorded error shares, then alerts."""
    return {
        "groups": [
            {"name": "triptych-slo-shares", "interval": "30s", "rules": list(recorded(objective))},
            {"name": "triptych-slo", "rules": list(burn_alerts(objective))},
            {"name": "triptych", "rules": list(state_alerts())},
        ]
    }


def errors(objective: Objective, window: str) -> dict[str, tuple[str, float]]:
    """For each promise the share that breaks it, and the share that may."""
    slo, late = objective.slo, 1 - objective.attainment
    assert slo.ttft_ms is not None
    assert slo.tpot_ms is not None
    failed = ratio(
        total_rate(metrics.CALLS, window=window, code=FAULTS, method=SERVED),
        total_rate(metrics.CALLS, window=window, method=SERVED),
    )
    return {
        "ttft": (share_above(metrics.TTFT, slo.ttft_ms / 1000, window), late),
        "itl": (share_above(metrics.ITL, slo.tpot_ms / 1000, window), late),
        "availability": (failed, 1 - objective.availability),
    }


def record_name(promise: str, window: str) -> str:
    """Name of the recorded share (level:metric:operations, as Prometheus advises)."""
    return f"triptych:{promise}_errors:ratio_rate{window}"


def recorded(objective: Objective) -> Iterator[dict[str, Any]]:
    """One recording rule for each promise and window."""
    for window in WINDOWS:
        for promise, (share, _) in errors(objective, window).items():
            yield {"record": record_name(promise, window), "expr": share}


def burn_alerts(objective: Objective) -> Iterator[dict[str, Any]]:
    """For each promise one alert a severity."""
    slo = objective.slo
    told = {
        "ttft": ("TtftSloBurn", f"time to the first token above {slo.ttft_ms:g} ms"),
        "itl": ("ItlSloBurn", f"time between tokens above {slo.tpot_ms:g} ms"),
        "availability": ("AvailabilitySloBurn", "calls that fail by the server's fault"),
    }
    for promise, (_, allowed) in errors(objective, WINDOWS[0]).items():
        name, text = told[promise]
        for severity in (PAGE, TICKET):
            parts = [
                f"({record_name(promise, long)} > {times * allowed:.6g}"
                f" and {record_name(promise, short)} > {times * allowed:.6g})"
                for times, long, short, kind in BURNS
                if kind == severity
            ]
            yield alert(f"{name}{severity.title()}", " or ".join(parts), "2m", severity, f"{text}: the budget burns")


def state_alerts() -> Iterator[dict[str, Any]]:
    """What is wrong with parts of the cluster."""
    full = latest(metrics.KV_USAGE, ("worker", "role"), "max")
    yield alert("KvCacheFull", f"{full} > 0.95", "10m", TICKET, "the KV blocks of {{ $labels.worker }} are full")
    waits = latest(metrics.OFFERS_WAITING, ("role",))
    yield alert("HandoffsWait", f"{waits} > 20", "5m", TICKET, "prompts wait for blocks of a decode worker")
    live = f"{latest(metrics.WORKERS, ('pool',), state='live')}"
    wanted = latest(metrics.WORKERS, ("pool",))
    gone = f"({wanted} > 0) unless ({live} > 0)"
    yield alert("NoWorkerOfARole", gone, "1m", PAGE, "no worker of the pool {{ $labels.pool }} is live")
    losses = latest(metrics.WORKER_FAILURES, ("worker",), "max")
    yield alert("WorkerKeepsFailing", f"{losses} >= 3", "1m", TICKET, "{{ $labels.worker }} is lost again and again")
    failed = total_rate(metrics.WORKER_EVENTS, window="5m", kind="handoff_failed")
    offered = total_rate(metrics.HANDOFF_TIME, window="5m")
    whole = f"({failed} + ({offered} or vector(0)))"  # where all of them fail, none has a time
    many = f"{ratio(failed, whole)} > 0.02"
    yield alert("HandoffsFail", many, "5m", PAGE, "more than 2 % of the hand-offs of KV cache fail")
    wrong = grew(metrics.WORKER_EVENTS, ("worker",), "15m", kind="link_condemned", reason="checksum")
    yield alert("LinkQuarantined", wrong, "0m", PAGE, "a KV link of {{ $labels.worker }} corrupts data")
    broken = total_rate(metrics.CACHE_REQUESTS, window="5m", outcome="error")
    looked = total_rate(metrics.CACHE_REQUESTS, window="5m")
    share = f"{ratio(broken, looked)} > 0.05"
    yield alert("CacheFails", share, "5m", TICKET, "more than 5 % of the looks into the response cache fail")
    late = quantile(0.99, metrics.LOOP_LAG, window="5m")
    yield alert("EventLoopLate", f"{late} > 0.1", "5m", TICKET, "front doors' event loops wake 100 ms late")
    refused = ratio(total_rate(metrics.REJECTIONS, window="5m"), total_rate(metrics.CALLS, window="5m", method=SERVED))
    yield alert("RequestsRefused", f"{refused} > 0.05", "10m", TICKET, "more than 5 % of the requests are refused")
    silent = latest(metrics.REPORT_AGE, ("worker", "role"), "max")
    yield alert("WorkerSilent", f"{silent} > 5", "1m", TICKET, "front doors hear nothing of {{ $labels.worker }}")


def alert(name: str, expr: str, lasts: str, severity: str, text: str) -> dict[str, Any]:
    """One alerting rule."""
    whole = f"Triptych{name}"
    return {
        "alert": whole,
        "expr": expr,
        "for": lasts,
        "labels": {"severity": severity},
        "annotations": {"summary": text[0].upper() + text[1:] + ".", "runbook": f"{RUNBOOKS}#{whole.lower()}"},
    }
