"""Prefill alone is an M/D/1 queue: mean TTFT meets the formulas (DistServe, section 3.1), and moves as they say."""

import numpy as np
import pytest

from services.core.seeds import numpy_stream
from services.core.workload import WorkloadRow
from tests.sim.runs import NO_DELAYS, config_of, constant, pools, simulated

PROMPT = 512
D = 0.2
# One prompt a step: the budget is a prompt's length.
CONFIG = config_of(
    worker={"report_every_s": 1.0},
    scheduler={"max_batch_tokens": PROMPT, "prefill_tile_tokens": 1},
    prefill={"max_waiting_requests": 10_000},
)


def arrivals(count: int, rate: float) -> list[float]:
    draws: list[float] = np.cumsum(numpy_stream(11, "arrivals").exponential(1 / rate, count)).tolist()
    return draws


def ttft_s(at_s: list[float], seconds: float = D, speedup: float = 1.0, stages: int = 1) -> list[float]:
    rows = [WorkloadRow(each, PROMPT, 1) for each in at_s]
    given = pools(1, 1, blocks=2000, cost=constant(seconds, PROMPT, speedup, stages))
    _, run = simulated(rows, given, CONFIG, NO_DELAYS, check=False)
    found = {sample.index: sample.ttft_ms() for sample in run.samples}
    return [(found[index] or 0.0) / 1000 for index in range(len(rows))]


def lindley(at_s: list[float], service_s: float) -> list[float]:
    """Time in a queue with one server, request by request (Lindley, 1952)."""
    free, found = 0.0, []
    for at in at_s:
        free = max(free, at) + service_s
        found.append(free - at)
    return found


def m_d_1(rate: float, seconds: float = D) -> float:
    return seconds + rate * seconds**2 / (2 * (1 - rate * seconds))


@pytest.mark.parametrize(("rate", "expected"), [(1, 0.225), (3, 0.350), (4, 0.600)])
def test_the_formula_and_the_queue_itself(rate: int, expected: float) -> None:
    assert m_d_1(rate) == pytest.approx(expected)
    at_s = arrivals(2000, rate)
    found = ttft_s(at_s)
    assert found == pytest.approx(lindley(at_s, D), abs=2e-6)
    # The mean of a busy queue needs many arrivals; the recursion that was just met request by request has them.
    assert np.mean(lindley(arrivals(300_000, rate), D)) == pytest.approx(expected, rel=0.02)
    assert np.mean(found) == pytest.approx(expected, rel=0.1)


def test_more_load_and_slower_prompts_wait_longer() -> None:
    base = np.mean(ttft_s(arrivals(400, 3)))
    assert np.mean(ttft_s(arrivals(400, 4))) > base
    assert np.mean(ttft_s(arrivals(400, 3), seconds=0.25)) > base + 0.05
    assert np.mean(ttft_s(arrivals(400, 3), seconds=0.15)) < base - 0.05


def test_two_pipeline_stages_queue_half_as_long_for_the_same_latency() -> None:
    at_s = arrivals(800, 3)
    found = ttft_s(at_s, stages=2)
    assert found == pytest.approx([each + D / 2 for each in lindley(at_s, D / 2)], abs=2e-6)
    formula = D + 3 * D**2 / (4 * (2 - 3 * D))
    assert np.mean([each + D / 2 for each in lindley(arrivals(300_000, 3), D / 2)]) == pytest.approx(formula, rel=0.02)


def test_tensor_parallelism_wins_at_a_low_rate_and_pipelines_at_a_high_one() -> None:
    speedup = 1.5
    at_s = arrivals(800, 3)
    assert ttft_s(at_s, speedup=speedup) == pytest.approx(lindley(at_s, D / speedup), abs=2e-6)

    def tensor(rate: float) -> float:
        return D / speedup + rate * D**2 / (2 * speedup * (speedup - rate * D))

    many = arrivals(300_000, 3)
    assert np.mean(lindley(many, D / speedup)) == pytest.approx(tensor(3), rel=0.02)
    low, high = arrivals(400, 1), arrivals(400, 7)
    assert np.mean(ttft_s(low, speedup=speedup)) < np.mean(ttft_s(low, stages=2))
    assert np.mean(ttft_s(high, speedup=speedup)) > np.mean(ttft_s(high, stages=2))
