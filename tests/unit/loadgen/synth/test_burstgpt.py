"""BurstGPT's shape: what is synthesised agrees with the aggregates, and plain Poisson traffic does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from loadgen.arrivals import renewal
from loadgen.survey import gap_cv
from loadgen.synth.burstgpt import burstgpt_rows, burstgpt_shape, hourly, mean_rate
from loadgen.synth.lengths import Fixed, Independent, drawn
from services.core.errors import ConfigError
from services.core.workload import WorkloadRow

SHAPE = burstgpt_shape()
DAYS = len(SHAPE.day_requests)
Rows = list[WorkloadRow]


@pytest.fixture(scope="module")
def two_months() -> Rows:
    """All 61 days, at a fiftieth of the rate."""
    return list(burstgpt_rows(SHAPE, hourly(SHAPE, 0, DAYS * 86_400, 0.02), 0, seed=7))


@pytest.fixture(scope="module")
def first_week() -> Rows:
    return list(burstgpt_rows(SHAPE, hourly(SHAPE, 0, 7 * 86_400), 0, seed=7))


def plain(days: int, count: int) -> Rows:
    """The control: as many requests, Poisson, all alike."""
    arrivals = renewal(count / (days * 86_400), days * 86_400, 7)
    return list(drawn(arrivals, Independent(Fixed(512), Fixed(128)), 7))


def share(rows: Rows, what: Callable[[WorkloadRow], bool]) -> float:
    return sum(map(what, rows)) / len(rows)


def near(value: float, within: float) -> object:
    return pytest.approx(value, abs=within)


def correlation(found: np.ndarray, wanted: tuple[float, ...]) -> float:
    return float(np.corrcoef(found, wanted)[0, 1]) if found.std() else 0.0


def by_hour(rows: Rows) -> float:
    hours = np.bincount([int(row.arrival_s // 3600) % 24 for row in rows], minlength=24)
    return correlation(hours, SHAPE.hour_shares)


def by_day(rows: Rows) -> float:
    days = np.bincount([int(row.arrival_s // 86_400) for row in rows], minlength=DAYS)
    return correlation(days[:DAYS], SHAPE.day_requests)


def day_tokens(rows: Rows) -> float:
    """Correlation of each day's mean tokens a request; days with few are noise at this rate."""
    days = np.array([int(row.arrival_s // 86_400) for row in rows])
    tokens = np.bincount(days, [row.input_tokens + row.output_tokens for row in rows], DAYS)[:DAYS]
    counts = np.bincount(days, minlength=DAYS)[:DAYS]
    many = counts > 200
    return correlation(tokens[many] / counts[many], tuple(np.array(SHAPE.day_tokens)[many]))


TWO_MONTHS: dict[str, Callable[[Rows], bool]] = {
    "hours of day": lambda rows: by_hour(rows) > 0.98,
    "days": lambda rows: by_day(rows) > 0.98,
    "lengths of days": lambda rows: day_tokens(rows) > 0.9,
    "failed": lambda rows: share(rows, lambda row: row.failed and not row.output_tokens) == near(0.0178, 0.004),
    "conversation": lambda rows: share(rows, lambda row: row.category == "conversation") == near(0.104, 0.01),
    "ChatGPT": lambda rows: share(rows, lambda row: row.model == "ChatGPT") == near(0.847, 0.01),
    "mean tokens": lambda rows: np.mean([row.input_tokens + row.output_tokens for row in rows]) == near(733.9, 22),
}
"""Published shares, and what the daily and hourly aggregates say."""


@pytest.mark.parametrize("name", TWO_MONTHS)
def test_two_months_agree_with_the_aggregates_and_plain_traffic_does_not(name: str, two_months: Rows) -> None:
    assert len(two_months) == pytest.approx(sum(SHAPE.day_requests) * 0.02, rel=0.03)
    assert TWO_MONTHS[name](two_months)
    assert not TWO_MONTHS[name]([replace(row, model="GPT-3") for row in plain(DAYS, len(two_months))])


def minutes(rows: Rows) -> np.ndarray:
    """Tokens in each minute of a week."""
    return np.bincount(
        [int(row.arrival_s // 60) for row in rows], [row.input_tokens + row.output_tokens for row in rows], 10_080
    )[:10_080]


def active_quantiles(rows: Rows) -> list[float]:
    found = minutes(rows)
    return np.percentile(found[found > 0], (5, 25, 50, 75, 95, 99)).tolist()


FIRST_WEEK: dict[str, Callable[[Rows], bool]] = {
    "minutes with traffic": lambda rows: (minutes(rows) > 0).mean() == pytest.approx(0.617, abs=0.03),
    "CV of tokens by minute": lambda rows: minutes(rows).std() / minutes(rows).mean() == pytest.approx(1.318, rel=0.08),
    "quantiles": lambda rows: active_quantiles(rows) == pytest.approx([270, 1068, 2196, 3792, 6929, 9757], rel=0.2),
}
"""Of `burstgpt_1_week1_minute_tokens_per_s.csv`; the three fitted constants come from these."""


@pytest.mark.parametrize("name", FIRST_WEEK)
def test_the_first_week_by_minutes_is_as_measured_and_plain_traffic_is_not(name: str, first_week: Rows) -> None:
    assert FIRST_WEEK[name](first_week)
    assert not FIRST_WEEK[name](plain(7, len(first_week)))


def test_gaps_within_an_hour_are_bursty() -> None:
    segments = hourly(SHAPE, 14, 3600, 200)
    times = np.array([row.arrival_s for row in burstgpt_rows(SHAPE, segments, 14, 1)])
    assert len(times) == pytest.approx(mean_rate(segments) * 3600, rel=0.05)
    assert gap_cv(times) == pytest.approx(SHAPE.gap_cv, rel=0.05)
    assert gap_cv(np.array(list(renewal(mean_rate(segments), 3600, 1)))) != pytest.approx(SHAPE.gap_cv, rel=0.05)


def test_a_seed_gives_one_trace_and_later_hours_have_their_own_rates() -> None:
    def rows(seed: int) -> Rows:
        return list(burstgpt_rows(SHAPE, hourly(SHAPE, 30, 7200), 30, seed))

    assert rows(1) == rows(1) != rows(2)
    rates = [segment.rate * 3600 for segment in hourly(SHAPE, 24 * 9 + 13, 7200)]
    assert rates == pytest.approx([149_520 * share for share in SHAPE.hour_shares[13:15]])


@pytest.mark.parametrize(
    ("hour", "length_s", "named"),
    [(24 * 61, 10, "--start-day"), (24 * 60, 86_401, "--duration-s"), (0, 0, "--duration-s"), (0, -5, "--duration-s")],
)
def test_what_lies_outside_the_shape_is_named(hour: int, length_s: float, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        hourly(SHAPE, hour, length_s)
