"""The last minute of requests: exact quantiles, what is too old is forgotten, and memory is bounded."""

from __future__ import annotations

import pytest

from services.core.clock import NS_PER_S
from services.telemetry.recent import MAX_GAPS, WINDOW_S, Ended, RecentRequests


def ended(at_s: float, ttft_s: float | None = 0.5, gaps_s: tuple[float, ...] = (), failed: bool = False) -> Ended:
    return Ended(int(at_s * NS_PER_S), ttft_s, gaps_s, 10, 4, len(gaps_s) + 1, failed)


def test_a_minute_is_counted_and_judged() -> None:
    recent = RecentRequests()
    for number in range(1, 101):
        recent.add(ended(number / 10, number / 100, (0.05, 0.15), failed=number == 7))
    recent.add(ended(10.0, None))
    minute = recent.minute(11 * NS_PER_S, 900.0, 100.0)
    assert (minute.requests, minute.failed) == (101, 1)
    assert (minute.prompt_tokens, minute.cached_tokens, minute.output_tokens) == (1010, 404, 301)
    assert minute.ttft.quantiles_ms == pytest.approx((505.0, 901.0, 990.1))
    assert minute.ttft.kept == pytest.approx(0.9)
    assert minute.itl.kept == pytest.approx(0.5)
    assert recent.minute((WINDOW_S + 9) * NS_PER_S, 900.0, 100.0).requests == 12, "those before second 9 are too old"
    nothing = recent.minute((WINDOW_S + 11) * NS_PER_S, 900.0, 100.0)
    assert (nothing.requests, nothing.ttft.quantiles_ms, nothing.ttft.kept) == (0, (), 1.0)


def test_long_outputs_push_out_the_oldest() -> None:
    recent = RecentRequests()
    for second in range(5):
        recent.add(ended(second, gaps_s=(0.1,) * (MAX_GAPS // 2)))
    assert recent.minute(5 * NS_PER_S, 1000.0, 100.0).requests == 2
