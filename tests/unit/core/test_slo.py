"""Judging one request, its JSON form, and the statistics of many."""

import dataclasses

import numpy as np
import pytest

from services.core.errors import ConfigError
from services.core.report import distribution, interval, proportion, report_from_json, resampled_quantile
from services.core.seeds import numpy_stream
from services.core.slo import Outcome, RequestSample, Slo, sample_from_json

MS = 1_000_000
SAMPLE = RequestSample(
    index=3,
    session="s",
    turn=0,
    tenant="t",
    category="chat",
    intended_ns=100 * MS,
    sent_ns=110 * MS,
    first_token_ns=150 * MS,
    last_token_ns=190 * MS,
    end_ns=200 * MS,
    input_tokens=10,
    output_tokens=5,
    wanted_tokens=5,
    outcome=Outcome.OK,
    gaps_us=(10_000,) * 4,
    phases_ms={"queue": 1.5},
    phase_starts_ms={"queue": 0.5},
)


def test_latencies_from_both_send_times() -> None:
    assert (SAMPLE.ttft_ms(), SAMPLE.ttft_ms(intended=False)) == (50, 40)
    assert (SAMPLE.e2e_ms(), SAMPLE.e2e_ms(intended=False)) == (100, 90)
    assert (SAMPLE.tpot_ms, SAMPLE.lag_ms) == (10, 10)


def test_json_and_back() -> None:
    assert sample_from_json(SAMPLE.to_json()) == SAMPLE


@pytest.mark.parametrize(
    ("slo", "changes", "met"),
    [
        (Slo(), {}, True),
        (Slo(50, 10), {}, True),
        (Slo(49, 10), {}, False),
        (Slo(50, 9), {}, False),
        (Slo(50, 10), {"outcome": Outcome.REJECTED}, False),
        (Slo(), {"outcome": Outcome.ERROR}, False),
        (Slo(50, 1), {"output_tokens": 1}, True),
        (Slo(50), {"first_token_ns": None}, False),
    ],
)
def test_ttft_and_tpot_must_hold_jointly_and_failures_are_misses(slo: Slo, changes: dict, met: bool) -> None:
    assert slo.met(dataclasses.replace(SAMPLE, **changes)) is met


def test_what_the_client_did_by_plan_is_not_judged() -> None:
    slo = Slo()
    for changes in ({"outcome": Outcome.DISCONNECTED}, {"outcome": Outcome.UNFINISHED}, {"fault": "slow_reader"}):
        assert not slo.judged(dataclasses.replace(SAMPLE, **changes))
    assert slo.judged(dataclasses.replace(SAMPLE, outcome=Outcome.DEADLINE, fault="deadline"))


def test_resampled_quantiles_are_distributed_as_those_of_a_plain_bootstrap() -> None:
    values = np.arange(1000, dtype=np.float64)  # ranks: what is drawn is a place, whatever stands there
    plain = numpy_stream(2, "plain")
    for quantile in (0.5, 0.9, 0.99):
        rank = int(np.ceil(quantile * len(values))) - 1
        slow = [np.sort(plain.choice(values, len(values)))[rank] for _ in range(2000)]
        fast = resampled_quantile(values, quantile, numpy_stream(3, "fast"))
        spread = np.quantile(slow, 0.975) - np.quantile(slow, 0.025)
        for each in (0.025, 0.5, 0.975):
            assert abs(np.quantile(slow, each) - np.quantile(fast, each)) <= 0.1 * spread + 1


def test_percentiles_are_order_statistics_of_all_samples() -> None:
    found = distribution(list(range(1, 101)), numpy_stream(0, "x"))
    assert found is not None
    assert (found.p50.value, found.p90.value, found.p99.value, found.max) == (50, 90, 99, 100)
    assert found.p50.low < 50 < found.p50.high and len(found.quantiles) == 101
    assert distribution([], numpy_stream(0, "x")) is None


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = numpy_stream(5, "coverage")
    hits = 0
    for _ in range(200):
        share = proportion(int(random.binomial(300, 0.8)), 300, random)
        hits += share.low <= 0.8 <= share.high
    assert 180 <= hits <= 199


def test_an_interval_keeps_its_value() -> None:
    assert interval(2.0, np.full(10, 2.0)).low == 2.0
    assert proportion(0, 0, numpy_stream(0, "x")).value == 0


def test_another_schema_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"old\.json: schema = 'triptych.report/0'"):
        report_from_json({"schema": "triptych.report/0"}, "old.json")
    with pytest.raises(ConfigError, match="damaged"):
        report_from_json({"schema": "triptych.report/1"}, "cut.json")
