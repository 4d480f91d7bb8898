"""The report of made-up samples: counts, groups, intervals, dispersion, the verdict on the generator, comparison."""

import dataclasses
import json

import numpy as np
import pytest

from loadgen.compare import compare_tables, number, ratio, report_tables
from loadgen.judge import RunFacts, Tally, bucket, index_of_dispersion
from loadgen.search import Grid, bisect
from services.core.errors import ConfigError, FailedPreconditionError
from services.core.report import Bar, Interval, Report, Waterfall, report_from_json, report_to_json
from services.core.seeds import numpy_stream
from services.core.slo import Outcome, RequestSample, Slo

MS = 1_000_000


def sample(index: int, lag_ms: float = 0, ttft_ms: float = 50, **changes: object) -> RequestSample:
    """Request `index` of ten a second; TTFT from the actual send time, 5 tokens 10 ms apart."""
    intended = index * 100 * MS
    sent = intended + round(lag_ms * MS)
    first = sent + round(ttft_ms * MS)
    made = RequestSample(
        index=index,
        session=f"s{index}",
        turn=0,
        tenant="t",
        category=("chat", "code")[index % 2],
        intended_ns=intended,
        sent_ns=sent,
        first_token_ns=first,
        last_token_ns=first + 40 * MS,
        end_ns=first + 41 * MS,
        input_tokens=10 if index % 4 else 100,
        output_tokens=5,
        wanted_tokens=5,
        outcome=Outcome.OK,
        gaps_us=(10_000,) * 4,
    )
    return dataclasses.replace(made, **changes)


def judged(samples: list[RequestSample], slo: Slo = Slo(100, 20), **facts: object) -> Report:  # noqa: B008
    tally = Tally(slo)
    for each in samples:
        tally.add(each)
    return tally.report(RunFacts("test", "nowhere", **facts))


def test_the_slowest_requests_keep_when_their_phases_began() -> None:
    samples = [
        sample(index, ttft_ms=50 + index, lag_ms=7, phases_ms={"queue": 1.0, "decode": 9.0},
               phase_starts_ms={"queue": 0.0, "decode": 30.0})
        for index in range(100)
    ]  # fmt: skip
    report = judged([*samples[50:], *samples[:50], sample(100, ttft_ms=9999)])  # the last one tells no phases
    assert [each.index for each in report.slowest] == list(range(99, 69, -1))
    assert report.slowest[0] == Waterfall(99, 149.0, 190.0, (Bar("queue", 0.0, 1.0), Bar("decode", 30.0, 9.0)))
    data = json.loads(json.dumps(report_to_json(report)))
    assert report_from_json(data, "x") == report
    del data["slowest"]  # as of a report from before it was there
    assert report_from_json(data, "x").slowest == ()


def test_misses_errors_and_the_unjudged_are_told_apart() -> None:
    samples = [sample(index) for index in range(80)]
    samples += [sample(index, ttft_ms=500) for index in range(80, 90)]
    samples += [
        sample(index, outcome=Outcome.ERROR, reason="HTTP_500", first_token_ns=None, last_token_ns=None)
        for index in range(90, 95)
    ]
    samples += [sample(index, outcome=Outcome.DISCONNECTED, fault="disconnect") for index in range(95, 100)]
    report = judged(samples, examples={("error", "HTTP_500"): "boom"})
    assert (report.sent, report.succeeded, report.judged, report.met) == (100, 90, 95, 80)
    assert report.attainment.value == 80 / 95
    assert report.goodput_rps.value == pytest.approx(80 / report.duration_s)
    assert [(each.outcome, each.count, each.example) for each in report.failures] == [
        ("error", 5, "boom"),
        ("disconnected", 5, ""),
    ]
    chat, code = [group for group in report.groups if group.by == "category"]
    assert chat.judged + code.judged == 95 and chat.met == 40
    assert {group.name for group in report.groups if group.by == "input_tokens"} == {"1-16", "65-256"}
    assert not report.generator.bottleneck


def test_a_report_survives_json_and_is_drawn() -> None:
    report = judged([sample(index) for index in range(50)])
    assert report_from_json(json.loads(json.dumps(report_to_json(report))), "x") == report
    titles = [table.title for table in report_tables(report)]
    assert titles[0] == "test" and "Did not succeed" not in titles


def test_nothing_at_all_is_a_report_too() -> None:
    report = judged([], unsent=3, interrupted=True)
    assert (report.offered, report.sent, report.attainment.value) == (3, 0, 0.0)
    assert report_tables(report)


def test_the_same_samples_in_any_order_give_the_same_report() -> None:
    samples = [sample(index, ttft_ms=index) for index in range(50)]
    assert judged(samples).latency == judged(samples[::-1]).latency


def test_late_sending_shows_in_intended_latencies_and_fails_the_generator() -> None:
    report = judged([sample(index, lag_ms=60) for index in range(50)])
    ttft = report.latency.ttft_ms
    assert ttft.intended is not None and ttft.sent is not None
    assert (ttft.intended.p50.value, ttft.sent.p50.value) == (110, 50)
    assert report.met == 0
    assert report.generator.bottleneck[0].startswith("requests were sent late: p99 60.0 ms, over the allowed 25 ms")
    assert report.generator.worst_second == 0


def test_unsent_requests_and_a_busy_loop_fail_the_generator() -> None:
    samples = [sample(index) for index in range(50)]
    (reason,) = judged(samples, unsent=10).generator.bottleneck
    assert "only 83.3% of the offered" in reason
    (reason,) = judged(samples, loop_lags_ms=[30.0] * 100).generator.bottleneck
    assert reason.startswith("the sending loop was too busy")


def test_dispersion_is_1_for_poisson_0_for_a_clock_and_large_for_bursts() -> None:
    random = numpy_stream(4, "arrivals")
    poisson = np.cumsum(random.exponential(0.05, 40_000))
    assert index_of_dispersion(poisson, 1) == pytest.approx(1, abs=0.1)
    assert index_of_dispersion(np.arange(1000) / 10, 10) == 0
    assert index_of_dispersion(np.floor(poisson / 3) * 3, 1) > 20


def test_buckets_and_numbers() -> None:
    assert [bucket(tokens) for tokens in (0, 16, 17, 64, 65, 2000)] == [
        "1-16",
        "1-16",
        "17-64",
        "17-64",
        "65-256",
        "1025-4096",
    ]
    assert [number(value) for value in (0, 0.01234, 1.5, 123.4, 12345.6)] == ["0", "0.0123", "1.50", "123", "12346"]


def test_ratios_have_intervals_that_hold_the_parts() -> None:
    found = ratio(Interval(20, 18, 22), Interval(10, 9, 11))
    assert found is not None
    assert found.value == 2 and 18 / 11 < found.low < 2 * 0.9 + 0.1 and 2 * 1.1 - 0.1 < found.high < 22 / 9
    assert ratio(Interval(1, 0, 2), Interval(1, 1, 1)) is None
    fast, slow = judged([sample(i) for i in range(40)]), judged([sample(i, ttft_ms=100) for i in range(40)])
    (table,) = compare_tables([fast, slow], ["fast", "slow"])
    row = next(row for row in table.rows if row[0] == "TTFT p50, ms")
    assert row[1].startswith("50.0 ") and row[2].startswith("100 ") and row[3].startswith("× 2.00 ")


def probe_with(limit: float, seen: list[float]) -> Report:
    rate = seen[-1]
    return judged([sample(index, ttft_ms=50 if rate <= limit else 500) for index in range(20)])


@pytest.mark.parametrize(("limit", "expected"), [(0.5, None), (1, 1), (3.7, 3.5), (7.99, 7.5), (100, 8)])
def test_bisection_finds_the_highest_rate_of_the_grid(limit: float, expected: float | None) -> None:
    seen: list[float] = []

    def probe(rate: float) -> Report:
        seen.append(rate)
        return probe_with(limit, seen)

    found = bisect(Grid(1, 8, 0.5), 0.9, probe)
    assert found.rate == expected
    assert found.at_the_top is (limit == 100)
    assert len(seen) == len(set(seen)) == len(found.probes) <= 6


def test_a_search_whose_generator_is_too_slow_says_so() -> None:
    with pytest.raises(FailedPreconditionError, match="at 1 requests/s the generator was the bottleneck"):
        bisect(Grid(1, 2, 1), 0.9, lambda _rate: judged([sample(index, lag_ms=60) for index in range(20)]))
    for low, high, step in ((0, 1, 1), (2, 1, 1), (1, 2, 0)):
        with pytest.raises(ConfigError):
            Grid(low, high, step)
