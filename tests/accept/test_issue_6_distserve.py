"""DistServe's OPT-13B table: which parallelism each phase wants, and goodput of a device over colocated workers.

Zhong et al., OSDI 2024: chatbot objective 0.25 s and 0.1 s for 90 % of the requests; prefill with two tensor ranks,
decode with one; 2.0 to 4.6 times vLLM's rate on ShareGPT, whose mean lengths are 755.5 and 200.3 tokens (figure 7) and
whose requests of 2,048 tokens or more are dropped. The shape of the lengths is not published: log-normal, with a spread
that the answers are shown not to hang on. Coefficients: the authors' own, of A100.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from loadgen.traces import Trace
from services.core.seeds import numpy_stream
from services.sim.cost_model import CostModel, FittedCost, Linear, StepShape, StepTime, opt_13b_a100
from services.sim.models import MODELS
from services.sim.plan.bounds import bound
from services.sim.plan.config import GroupConfig
from services.sim.plan.goodput import Objective, Search, Unit, find_goodput
from services.sim.plan.instances import Instance, group_of, instances
from services.sim.plan.solo import Phase
from services.sim.plan.workload import Workload, survey
from tests.sim.runs import config_of

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
CONFIG = config_of()
CHAT = Objective(250, 100, 0.9)
REQUESTS = 300
TPS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class OnePhaseAStep:
    """vLLM of 2023: a step computes prompts or decodes, so decodes wait while prompts are computed."""

    inner: CostModel

    def step(self, shape: StepShape) -> StepTime:
        """Time of any step."""
        if not (shape.rows and shape.tokens):
            return self.inner.step(shape)
        prompts = self.inner.step(replace(shape, rows=0, context=0))
        decodes = self.inner.step(StepShape(0, 0, 0.0, 0, shape.rows, shape.context))
        return StepTime(prompts.busy_ns + decodes.busy_ns)

    def decode_ns(self, rows: int, context: int, count: int) -> NDArray[np.int64]:
        """Times of decode steps."""
        return self.inner.decode_ns(rows, context, count)


@cache
def chat(spread: float = 0.9, scale: float = 1.0) -> Workload:
    """Log-normal lengths with the published means after requests of 2,048 tokens or more are dropped."""
    random = numpy_stream(1, "distserve")
    draws = random.standard_normal((2, 60_000))
    means = np.array([755.5, 200.3]) * scale
    shift = np.log(means)
    for _ in range(60):
        lengths = np.maximum(np.rint(np.exp(shift[:, None] + spread * draws)), 4)
        kept = lengths[:, lengths.sum(axis=0) < 2048 * scale]
        shift += 0.7 * np.log(means / kept.mean(axis=1))
    assert kept.mean(axis=1) == pytest.approx(means, rel=0.01)
    return Workload(kept[0].astype(np.int64), kept[1].astype(np.int64), 1.0, kept.shape[1])


@cache
def workers() -> dict[int, Instance]:
    """Workers of one stage by tensor ranks."""
    group = group_of(GroupConfig(device="a100-80g", hosts=4, coefficients="published"))
    return {each.tp: each for each in instances(MODELS["opt-13b"], [group])[0] if each.stages == 1}


def goodput(phase: Phase, worker: Instance, work: Workload, objective: Objective, budget: int = 2048) -> float:
    """Requests a second of one device."""
    unit = Unit(phase, worker, budget)
    top = bound(unit, work, objective)
    if not top.rate:
        return 0.0
    search = Search(REQUESTS, 1, min(top.start, top.rate), top.rate)
    return find_goodput(unit, work, objective, CONFIG, search).per_device


# What DistServe's authors fitted of vLLM itself on A100-80G, one rank (simdistserve/estimators/profile_data/
# profiler-a100-80g.vllm.json of their repository): prompts, decodes below 95 rows, and from there on.
VLLM = FittedCost(
    Linear(22.0522, 0.140509, 2 * 8.07658e-06),
    Linear(23.4750, 0.0607269, 0.000592934),
    Linear(20.2064, 0.120003, 0.000490773),
    95,
)


@dataclass(frozen=True)
class Table:
    """Goodput of a device, by tensor ranks; that of the best split, of the baseline of the paper, and of ours."""

    prefill: dict[int, float]
    decode: dict[int, float]
    vllm: float
    chunked: float

    @property
    def split(self) -> float:
        """The best pair, in the ratio in which both phases keep up with each other."""
        return max(1 / (1 / p + 1 / d) for p in self.prefill.values() for d in self.decode.values() if p and d)


@cache
def table(work: Callable[[], Workload], objective: Objective) -> Table:
    lengths, found = work(), workers()
    one = found[1]
    return Table(
        {tp: goodput(Phase.PREFILL, found[tp], lengths, objective) for tp in TPS},
        {tp: goodput(Phase.DECODE, found[tp], lengths, objective) for tp in (1, 2)},
        goodput(Phase.COLOCATED, replace(one, cost=OnePhaseAStep(one.cost)), lengths, objective),
        max(goodput(Phase.COLOCATED, found[tp], lengths, objective) for tp in (2, 4)),
    )


def test_prefill_wants_ranks_and_decode_does_not() -> None:
    found = table(chat, CHAT)
    print(found, found.split)
    assert found.prefill[2] > 1.5 * found.prefill[1]  # the paper places prefill with two ranks
    assert found.decode[1] > 0.7 * found.decode[2]  # and decode with one: a second one gains less
    assert found.decode[2] / found.decode[1] < found.prefill[2] / found.prefill[1]
    # Four ranks are better than two by these coefficients, which the paper's placement does not have: LOG.md.
    assert found.prefill[4] > found.prefill[2]


def test_goodput_over_the_papers_baseline() -> None:
    found = table(chat, CHAT)
    print("over one phase a step:", found.split / found.vllm)
    # The paper measured 2.0 to 4.6 against vLLM itself; its steps without vLLM's own overheads are a better baseline.
    assert 0.85 * 2.0 <= found.split / found.vllm <= 4.6


def test_the_papers_ratio_lies_between_two_readings_of_its_baseline() -> None:
    """1.7 where the baseline has the times of DistServe's engine, 18 with vLLM's own; the paper has 2.0 to 4.6.

    By vLLM's own times a prompt of 1,500 tokens takes all of 250 ms, and a tenth of the log-normal lengths is longer:
    what the baseline takes hangs on the tail, which is not published.
    """
    found = table(chat, CHAT)
    baseline = goodput(Phase.COLOCATED, replace(workers()[1], cost=OnePhaseAStep(VLLM)), chat(), CHAT)
    ratios = found.split / found.vllm, found.split / baseline
    print("over the engine's times, and vLLM's own:", ratios)
    assert ratios[0] < 4.6 and ratios[1] > 2.0


def busy_ms(tp: int, work: Workload, both: bool) -> tuple[float, float]:
    """Device milliseconds of a mean request's prompt and decodes, in steps that are never empty.

    Args:
        both: in one step, whose fixed part the prompts pay; else decodes share theirs among as many as memory holds.
    """
    cost, inputs, steps = opt_13b_a100(tp), work.inputs.astype(float), work.outputs - 1.0
    context = float((steps * (inputs + work.outputs / 2)).mean())
    prompts = cost.prefill.ms(float(inputs.mean()), float((inputs * (inputs + 1) / 2).mean()))
    rows = workers()[tp].tokens / (context / steps.mean())
    decode = cost.decode_many if cost.decode_many is not None and rows >= cost.many_rows else cost.decode
    alone = 0.0 if both else decode.fixed / rows
    return tp * prompts, tp * (float(steps.mean()) * (decode.unit + alone) + context * decode.context)


def test_why_chunked_prefill_takes_more_at_a_loose_bound() -> None:
    """A step of both pays one fixed part, of a split each phase its own; 100 ms a token leave time for such steps."""
    work, found = chat(), table(chat, CHAT)
    ranks = [max(phase, key=lambda tp: phase[tp]) for phase in (found.prefill, found.decode)]
    split = busy_ms(ranks[0], work, False)[0] + busy_ms(ranks[1], work, False)[1]
    chunked = min(sum(busy_ms(tp, work, True)) for tp in (2, 4))
    print(f"device ms: split {split:.0f} ({ranks}), chunked {chunked:.0f}; simulated {found.split / found.chunked:.2f}")
    assert chunked < split
    assert found.split / found.chunked == pytest.approx(chunked / split, rel=0.15)


def test_goodput_over_chunked_prefill_with_ranks() -> None:
    """A better baseline than the paper's. Known to fail at 100 ms a token, 0.88 measured; LOG.md has the reason."""
    found = table(chat, CHAT)
    print("over chunked prefill:", found.split / found.chunked)
    assert found.split > found.chunked


def test_the_answer_moves_with_the_objective() -> None:
    chat_table, loose = table(chat, CHAT), table(chat, Objective(1000, 100, 0.9))
    # Section 3.1: ranks win while the bound is tight, single devices when there is time to queue.
    assert loose.prefill[1] > loose.prefill[2] > 1.5 * chat_table.prefill[2]
    tight = table(chat, Objective(250, 35, 0.9))
    assert tight.decode[2] / tight.decode[1] > 1.2 * chat_table.decode[2] / chat_table.decode[1]
    assert tight.split < chat_table.split


def test_the_answer_moves_with_the_lengths_and_not_with_their_spread() -> None:
    def shorter() -> Workload:
        return chat(0.9, 0.5)

    def narrower() -> Workload:
        return chat(0.6)

    base = goodput(Phase.PREFILL, workers()[2], chat(), CHAT)
    assert goodput(Phase.PREFILL, workers()[2], shorter(), CHAT) > 1.8 * base
    assert goodput(Phase.DECODE, workers()[1], shorter(), CHAT) > 1.8 * table(chat, CHAT).decode[1]
    assert goodput(Phase.PREFILL, workers()[2], narrower(), CHAT) == pytest.approx(base, rel=0.35)


def test_the_azure_conversation_trace() -> None:
    """Longer prompts than ShareGPT's: the bound on the first token is that of the paper's 66B chat, 2.5 s."""
    path = next(
        (p / "shared/data/azure_llm_2023" for p in Path(__file__).parents if (p / "shared/data").exists()), None
    )
    if path is None:
        pytest.skip("azure_llm_2023 is not beside the checkout: put the public data there")
    azure = survey(Trace(path / "AzureLLMInferenceTrace_conv.csv"), 1)
    found = table(lambda: azure, Objective(2500, 100, 0.9))
    print(found, "over one phase a step:", found.split / found.vllm, "over chunked:", found.split / found.chunked)
    assert 1.0 < found.split / found.vllm < 1.3  # long prompts fill the budget of a step either way
    tight = table(lambda: azure, Objective(2500, 40, 0.9))
    print(tight, "over one phase a step:", tight.split / tight.vllm, "over chunked:", tight.split / tight.chunked)
    assert tight.split / tight.vllm > found.split / found.vllm
