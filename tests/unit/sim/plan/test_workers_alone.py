"""Workers alone: formulas, bounds above what is simulated, goodput that moves with hardware, lengths and bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from services.core.errors import ConfigError
from services.core.workload import WorkloadRow
from services.sim.cost_model import FittedCost, Linear
from services.sim.models import MODELS
from services.sim.plan import queueing
from services.sim.plan.bounds import bound
from services.sim.plan.config import GroupConfig
from services.sim.plan.goodput import Goodput, Objective, Search, Unit, check_lengths, find_goodput
from services.sim.plan.instances import Instance, group_of, instances
from services.sim.plan.solo import Arrivals, Phase, run_alone
from services.sim.plan.workload import Workload, log_normal, survey
from services.sim.published import published
from tests.sim.runs import config_of

CONFIG = config_of()
WORKLOAD = log_normal(500, 20, 0.7, 2048, rows=2000)
OBJECTIVE = Objective(300, 60, 0.9)


@pytest.mark.parametrize(("rate", "expected"), [(1, 0.225), (3, 0.350), (4, 0.600)])
def test_formulas(rate: float, expected: float) -> None:
    assert queueing.single(rate, 0.2) == pytest.approx(expected)
    assert queueing.replicated(2 * rate, 0.2, 2) == pytest.approx(expected)
    assert queueing.pipeline(rate, 0.2) == pytest.approx(0.2 + rate * 0.04 / (4 * (2 - rate * 0.2)))
    assert queueing.tensor(rate, 0.2, 1.5) == pytest.approx(0.2 / 1.5 + rate * 0.04 / (3 * (1.5 - rate * 0.2)))
    assert queueing.single(5, 0.2) == math.inf


def a100(tp: int = 1, stages: int = 1, **keys: float) -> Instance:
    found, _ = instances(MODELS["opt-13b"], [group_of(GroupConfig(device="a100-80g", hosts=2, **keys))])
    return next(each for each in found if (each.tp, each.stages) == (tp, stages))


def goodput(phase: Phase, instance: Instance, workload: Workload = WORKLOAD, aim: Objective = OBJECTIVE) -> Goodput:
    unit = Unit(phase, instance, 2048)
    top = bound(unit, workload, aim)
    assert top.rate, top
    found = find_goodput(unit, workload, aim, CONFIG, Search(60, 3, min(top.start, top.rate), top.rate))
    assert found.rate <= top.rate
    return found


def test_one_request_after_the_other_is_counted_exactly() -> None:
    cost = FittedCost(Linear(10.0, 0.1, 0.0), Linear(20.0, 1.0, 0.0))
    one = Arrivals(np.array([0, 10**9]), np.array([100, 200]), np.array([1, 11]))
    both = run_alone(Phase.COLOCATED, cost, 1000, CONFIG, one)
    assert both.ttft_ms.tolist() == [20.0, 30.0]
    assert both.tpot_ms.tolist() == [0.0, 21.0]
    assert both.e2e_ms.tolist() == [20.0, 240.0]
    decode = run_alone(Phase.DECODE, cost, 1000, CONFIG, one)
    assert decode.tpot_ms.tolist() == [0.0, 21.0]
    prefill = run_alone(Phase.PREFILL, cost, 1000, CONFIG, one)
    assert (prefill.ttft_ms.tolist(), prefill.tpot_ms.tolist()) == ([20.0, 30.0], [0.0, 0.0])
    together = run_alone(Phase.DECODE, cost, 1000, CONFIG, replace(one, at_ns=np.array([0, 0])))
    assert together.tpot_ms[1] == pytest.approx(23.1)  # it waits for the other's step, 21 ms, and has ten of its own


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
def test_goodput_moves_with_its_inputs(phase: Phase) -> None:
    base = goodput(phase, a100())
    assert goodput(phase, a100(tflops=624, memory_gbytes_per_s=4078)).rate > 1.2 * base.rate
    longer = replace(WORKLOAD, inputs=WORKLOAD.inputs * 2, outputs=WORKLOAD.outputs * 2)
    relaxed = Objective(600, 60, 0.9)
    assert goodput(phase, a100(), longer, relaxed).rate < goodput(phase, a100(), WORKLOAD, relaxed).rate
    assert goodput(phase, a100(), aim=Objective(200, 32, 0.9)).rate < base.rate
    assert goodput(phase, a100()) == base


def test_a_bound_that_cannot_be_met_is_known_without_a_run() -> None:
    top = bound(Unit(Phase.PREFILL, a100(), 2048), WORKLOAD, Objective(50, 60, 0.9))
    assert (top.rate, top.constraint) == (0.0, "ttft")
    top = bound(Unit(Phase.DECODE, a100(), 2048), WORKLOAD, Objective(300, 5, 0.9))
    assert (top.rate, top.constraint) == (0.0, "tpot")
    assert top.alone_ms > 5


def test_a_trace_is_read_once_and_sampled() -> None:
    rows = (WorkloadRow(0.1 * each, 100 + each % 7, 10, failed=each % 10 == 9) for each in range(5000))
    found = survey(rows, 1, sample=300)
    assert (found.rows, found.sampled) == (4500, 300)
    assert found.rate == pytest.approx(9.0, rel=0.01)
    assert found.mean_input == pytest.approx(103, rel=0.02)
    with pytest.raises(ConfigError, match="requests at different times"):
        survey([WorkloadRow(0.0, 10, 10)] * 5, 1)
    with pytest.raises(ConfigError, match=r"a request of 9000000 tokens.*holds"):
        check_lengths(replace(found, inputs=found.inputs * 0 + 8_999_990), [a100()])


def test_arrivals_are_the_same_at_every_rate() -> None:
    slow, fast = WORKLOAD.arrivals(1.0, 500, 7), WORKLOAD.arrivals(4.0, 500, 7)
    assert slow.inputs.tolist() == fast.inputs.tolist()
    assert slow.at_ns == pytest.approx(4 * fast.at_ns, abs=4)
    assert (WORKLOAD.arrivals(1.0, 500, 7, decoded=True).outputs >= 2).all()
    assert (WORKLOAD.mean_input, WORKLOAD.mean_output) == pytest.approx((500, 20), rel=0.01)


def test_published_times_name_what_was_measured() -> None:
    assert published("bloom-176b", "h100-80g", 8, 1) != published("bloom-176b", "a100-80g", 8, 1)
    with pytest.raises(ConfigError, match="published are opt-13b on a100-80g"):
        published("llama-3-8b", "h100-80g", 1, 1)
    with pytest.raises(ConfigError, match="8 ranks and one stage"):
        published("bloom-176b", "h100-80g", 4, 1)
