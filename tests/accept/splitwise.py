"""Splitwise's machines: what a pool of each kind takes within nine slow-downs, and the designs that follow.

Patel et al., ISCA 2024: a machine is eight devices with BLOOM-176B. Times to the first token, between tokens and end to
end may be so many times what an A100 machine without load takes, at the 50th, 90th and 99th percentile (table VI).
Prices and powers are those of the authors' notebooks (github.com/Mutinifni/splitwise-sim, notebooks/utils.py, MIT).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadgen.traces import Trace
from services.cluster.config import ClusterConfig
from services.core.seeds import numpy_stream
from services.scheduling import mixed
from services.sim import workers
from services.sim.cost_model import CostModel, StepShape, StepTime, nanoseconds, nanoseconds_each
from services.sim.models import ModelSpec
from services.sim.plan import solo
from services.sim.plan.bounds import prompt_ms
from services.sim.plan.config import GroupConfig
from services.sim.plan.goodput import WARM_UP, Goodput, Measured, Unit, bracket
from services.sim.plan.instances import Instance, group_of
from services.sim.plan.placement import Aim, Limits, Placement, colocated, split
from services.sim.plan.solo import Arrivals, Phase, run_alone
from services.sim.plan.workload import Workload, survey
from services.sim.published import CAPPED, published
from services.sim.roofline import DEVICES, USABLE_MEMORY
from tests.accept.saved import Saved

# config.json of bigscience/bloom: 70 layers of 14336, 112 heads, no gate, tied
BLOOM = ModelSpec("bloom-176b", 70, 14336, 112, 112, 128, 57344, 250880, gated=False, tied=True)
QUANTILES = (0.5, 0.9, 0.99)
BUDGET = 2048
PRECISION = 0.05
MACHINES = {Phase.PREFILL: 40, Phase.COLOCATED: 8, Phase.DECODE: 8}
"""Of the pool that is simulated; others take in proportion. Prompts queue less where more machines share them."""
SECONDS = 60.0
"""Of traffic."""
A, H = "a100-80g", "h100-80g"
PRICE = {A: 2.21, H: 4.76, CAPPED: 4.76}
KILOWATTS = {A: 24.8, H: 44.0, CAPPED: 0.7 * 44.0}
CONFIG = ClusterConfig.model_validate(
    {
        "scheduler": {"max_batch_tokens": BUDGET, "max_sequences": 512},
        "frontdoor": {"max_running_requests": 100_000},
    }
)
# Medians of the authors' measurements (data/perf_model.csv) by tokens of a batch: prompts, a step of decodes; ms
TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
PROMPTS = {
    A: (79.7, 99.2, 174.4, 287.5, 536.1, 1332.6, 3591.5, 5782.0, 11251.8),
    H: (48.3, 51.2, 76.1, 132.2, 252.0, 649.6, 1411.6, 2521.9, 4996.5),
}
PROMPTS[CAPPED] = tuple(1.3 * each for each in PROMPTS[H])
STEPS = {
    A: (47.6, 47.7, 49.3, 49.4, 50.2, 51.6, 54.3, 65.4, 96.6),
    H: (35.7, 36.2, 36.2, 36.3, 36.7, 37.5, 39.0, 45.8, 63.8),
}
STEPS[CAPPED] = STEPS[H]


@dataclass(frozen=True, slots=True)
class AuthorsCost:
    """Step times of the authors' simulator.

    It looks a step of decodes up by its number of rows in what was measured by the tokens that rows look at, so a step
    hardly depends on what it decodes. A step with prompts takes 1.1 times what they take, whatever it decodes. It
    computes a prompt whole; here a chunk takes what it adds to the time of the prompt up to it, so that all chunks of
    a prompt take what the whole takes, although a step has no more tokens than the budget.
    """

    device: str

    def _prompts_ms(self, shape: StepShape) -> float:
        """Chunks as long as each other: one of them continues its prompt where any does."""
        known = PROMPTS[self.device]
        if not shape.cached:
            return _interpolated(shape.tokens + shape.rows, known)
        longer = shape.tokens / shape.chunks
        added = _interpolated(shape.cached + longer + shape.rows, known) - _interpolated(shape.cached, known)
        return added + (_interpolated(shape.tokens - longer, known) if shape.chunks > 1 else 0.0)

    def step(self, shape: StepShape) -> StepTime:
        """Time of any step."""
        if not shape.tokens:
            return StepTime(nanoseconds(_interpolated(shape.rows, STEPS[self.device])))
        mixed = 1.1 if shape.rows else 1.0
        return StepTime(nanoseconds(mixed * self._prompts_ms(shape)))

    def decode_ns(self, rows: int, context: int, count: int) -> NDArray[np.int64]:
        """Times of `count` steps of the same decodes: int64, [count]."""
        return nanoseconds_each(np.full(count, _interpolated(rows, STEPS[self.device])))


def _interpolated(tokens: float, known: tuple[float, ...]) -> float:
    """Linear between what is known, and beyond it on the line of the nearest two."""
    last = len(TOKENS) - 2
    place = min(max(int(np.searchsorted(TOKENS, tokens)) - 1, 0), last)
    share = (tokens - TOKENS[place]) / (TOKENS[place + 1] - TOKENS[place])
    return known[place] + share * (known[place + 1] - known[place])


def kv_tokens(device: str) -> int:
    """KV of a machine beside the weights, in tokens: a tenth of the memory is for activations."""
    left = 8 * USABLE_MEMORY * DEVICES[device.removesuffix("-capped")].memory_bytes - BLOOM.total_bytes
    return int(left / BLOOM.kv_token_bytes)


def authors_kv_tokens(_device: str) -> int:
    """The same in the authors' simulator: all of 8 x 80 GiB beside weights of 329 GB (configs/ of their repository)."""
    return int((8 * 80 * 2**30 - 329e9) / BLOOM.kv_token_bytes)


@dataclass(frozen=True)
class Setting:
    """Everything that a table hangs on.

    Attributes:
        name: tells it from others in what is saved.
        lengths: prompts and outputs.
        cost: of a machine, by device.
        kv_tokens: that a machine holds, by device.
        by_authors: slow-downs as their notebooks compute them: the time between tokens is that after the first one
            over all tokens, and an A100 takes for each token of a request what it takes at the length of the prompt.
        ttft, tbt, e2e: slow-downs that are allowed at the 50th, 90th and 99th percentile.
        machines: step times of single devices instead; what is allowed stays.
    """

    name: str
    lengths: Callable[[], Workload]
    cost: Callable[[str], CostModel] = AuthorsCost
    kv_tokens: Callable[[str], int] = authors_kv_tokens
    by_authors: bool = True
    ttft: tuple[float, ...] = (2.0, 3.0, 6.0)
    tbt: tuple[float, ...] = (1.25, 1.5, 5.0)
    e2e: tuple[float, ...] = (1.25, 1.5, 5.0)
    machines: dict[str, CostModel] = field(default_factory=dict)

    def machine(self, device: str) -> CostModel:
        """Step times of a machine, which a perturbed setting has its own of."""
        return self.machines.get(device) or self.cost(device)


def measured(device: str) -> CostModel:
    """Step times fitted to the same measurements, by rows and what they look at."""
    return published("bloom-176b", device, 8, 1)


@dataclass(frozen=True)
class Alone:
    """What each request takes on an A100 machine of its own, in ms: [n] each."""

    ttft: np.ndarray
    tbt: np.ndarray


def alone(setting: Setting, arrivals: Arrivals) -> Alone:
    """Every request without any other."""
    base = setting.cost(A)
    if setting.by_authors:
        times = [np.array([_interpolated(each, known[A]) for each in arrivals.inputs]) for known in (PROMPTS, STEPS)]
        return Alone(times[0], times[1])
    known = {int(each): prompt_ms(base, int(each), BUDGET)[1] for each in np.unique(arrivals.inputs)}
    ttft = np.array([known[int(each)] for each in arrivals.inputs])
    context = arrivals.inputs + arrivals.outputs // 2
    tbt = np.array([base.step(StepShape(0, 0, 0.0, 0, 1, int(each))).busy_ns / 1e6 for each in context])
    return Alone(ttft, tbt)


def kept(values: np.ndarray, bounds: tuple[float, ...]) -> bool:
    """Whether every percentile of the slow-downs is within its bound."""
    return len(values) == 0 or bool((np.quantile(values, QUANTILES) <= bounds).all())


@dataclass(frozen=True)
class Pool:
    """What one machine of a pool takes.

    Attributes:
        rate: requests a second of one machine.
        slower: median slow-down between tokens there.
    """

    phase: Phase
    device: str
    rate: float
    slower: float


@cache
def saved() -> Saved:
    """Rates that were found by this code."""
    sources = [Path(__file__), *(Path(module.__file__ or "") for module in (solo, mixed, workers))]
    return Saved("splitwise", hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest())


def pool_rate(setting: Setting, phase: Phase, device: str, slower: float = 1.0) -> Pool:
    """The highest rate of a pool that keeps its slow-downs; kept, so that an interrupted run goes on.

    Args:
        slower: between tokens, for what a prompt machine's requests take end to end.
    """
    key = f"{setting.name}/{phase.value}/{device}/{slower:.3f}"
    return Pool(phase, device, *saved().get(key, lambda: search(setting, phase, device, slower)))


def search(setting: Setting, phase: Phase, device: str, slower: float) -> tuple[float, float]:
    """The rate of one machine, and the median slow-down between tokens at it."""
    cost, blocks, work = setting.machine(device), setting.kv_tokens(device) // 16, setting.lengths()
    machines = MACHINES[phase]
    seen: dict[float, float] = {}

    def keeps(rate: float) -> bool:
        arrivals = work.arrivals(machines * rate, max(800, int(SECONDS * machines * rate)), 5, phase is Phase.DECODE)
        run = run_alone(phase, cost, blocks, CONFIG, arrivals, 8, machines)
        after = int(WARM_UP * len(arrivals.at_ns))
        free, steps = alone(setting, arrivals), np.maximum(arrivals.outputs - 1, 0)
        several = (steps > 0) & (np.arange(len(steps)) >= after)
        ttft, tbt = run.ttft_ms, run.tpot_ms
        if phase is Phase.PREFILL:
            tbt = slower * free.tbt
        if phase is Phase.DECODE:
            ttft = free.ttft
        seen[rate] = float(np.median((tbt / free.tbt)[several]))
        whole = (ttft + tbt * steps) / (free.ttft + free.tbt * steps)
        if setting.by_authors:
            tbt = tbt * steps / np.maximum(arrivals.outputs, 1)
        return (
            (phase is Phase.DECODE or kept((ttft / free.ttft)[after:], setting.ttft))
            and (phase is Phase.PREFILL or kept((tbt / free.tbt)[several], setting.tbt))
            and kept(whole[after:], setting.e2e)
        )

    below, above = bracket(keeps, _guess(setting, phase, device))
    while below and above / below > 1 + PRECISION:
        middle = (below * above) ** 0.5
        below, above = (middle, above) if keeps(middle) else (below, middle)
    return below, seen.get(below, 1.0)


def _guess(setting: Setting, phase: Phase, device: str) -> float:
    """A rate to begin with: memory full of decodes, prompts without a gap; half of both for machines of both."""
    cost, work = setting.machine(device), setting.lengths()
    prompts = 1e3 / float(np.mean([prompt_ms(cost, int(each), BUDGET)[0] for each in work.inputs[:200]]))
    rows = max(1, int(setting.kv_tokens(device) / (work.mean_input + work.mean_output)))
    context = int(rows * (work.mean_input + work.mean_output / 2))
    step_ms = cost.step(StepShape(0, 0, 0.0, 0, rows, context)).busy_ns / 1e6
    decodes = 1e3 * rows / (step_ms * work.mean_output)
    return 0.6 * {Phase.PREFILL: prompts, Phase.DECODE: decodes}.get(phase, 0.5 * min(prompts, decodes))


# ------------------------------------------------------------------ designs

DEVICE_NAMES = (A, H, CAPPED)
GROUPS = tuple(
    group_of(GroupConfig(device=name, hosts=400, price_per_hour=PRICE[name] / 8, watts=125 * KILOWATTS[name]))
    for name in DEVICE_NAMES
)


def goodput(setting: Setting, pool: Pool) -> Goodput:
    """A pool's machine in the planner's terms."""
    place = DEVICE_NAMES.index(pool.device)
    machine = Instance(
        place, pool.device, 8, 1, setting.machine(pool.device), setting.kv_tokens(pool.device), BLOOM.kv_token_bytes
    )
    at = Measured(pool.rate, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    return Goodput(Unit(pool.phase, machine, BUDGET), pool.rate, at, "", ())


@dataclass(frozen=True)
class Table:
    """What each kind of machine takes in each phase, and the planner's placements of them."""

    setting: Setting
    pools: dict[tuple[Phase, str], Pool]

    def design(self, name: str, watts: float | None = None, price: float | None = None) -> Placement:
        """The planner's best numbers of machines within a budget: `AA`, `HA`, `HH`, `HHcap`; `A`, `H`: both phases."""
        work = self.setting.lengths()
        limits = Limits(GROUPS, Aim.GOODPUT, None, 50e9, work.mean_input * BLOOM.kv_token_bytes, price, watts)
        kinds = {"A": A, "H": H, "Hcap": CAPPED}
        if name in kinds:
            found = colocated(goodput(self.setting, self.pools[Phase.COLOCATED, kinds[name]]), limits)
        else:
            prompts = goodput(self.setting, self.pools[Phase.PREFILL, kinds[name[0]]])
            found = split(prompts, goodput(self.setting, self.pools[Phase.DECODE, kinds[name[1:]]]), limits)
        assert found is not None, (name, watts, price)
        return found

    def iso_power(self, name: str) -> Placement:
        """Within the power of 40 H100 machines."""
        return self.design(name, watts=40 * 1000 * KILOWATTS[H])

    def iso_cost(self, name: str) -> Placement:
        """Within the price of 40 H100 machines."""
        return self.design(name, price=40 * PRICE[H])


def table(setting: Setting, devices: tuple[str, ...] = (A, H)) -> Table:
    """Every pool that the designs are made of; a capped H100 decodes as one that is not, by the measurements."""
    pools: dict[tuple[Phase, str], Pool] = {}
    for device in devices:
        decode = pool_rate(setting, Phase.DECODE, device)
        pools[Phase.DECODE, device] = decode
        pools[Phase.COLOCATED, device] = pool_rate(setting, Phase.COLOCATED, device)
    for device in devices:
        # End to end, requests of a design decode on the slower of the machines that it may have.
        slower = round(max(pools[Phase.DECODE, each].slower for each in devices), 2)
        pools[Phase.PREFILL, device] = pool_rate(setting, Phase.PREFILL, device, slower)
    if H in devices:
        pools[Phase.DECODE, CAPPED] = replace(pools[Phase.DECODE, H], device=CAPPED)
    return Table(setting, pools)


@cache
def azure(name: str, folder: Path, scale: float = 1.0, apart: bool = True) -> Workload:
    """Lengths of an Azure trace.

    Args:
        scale: makes outputs longer.
        apart: outputs are drawn apart from prompts, as the authors' `generate_trace.py` does.
    """
    found = survey(Trace(folder / f"AzureLLMInferenceTrace_{name}.csv"), 1)
    outputs = np.maximum(np.rint(found.outputs * scale), 1).astype(np.int64)
    if apart:
        outputs = numpy_stream(1, "splitwise/outputs").permutation(outputs)
    return replace(found, outputs=outputs)
