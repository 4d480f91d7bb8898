"""The highest rate at which enough requests of one worker meet the objective: bisection over simulated runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from services.cluster.config import ClusterConfig
from services.core.errors import ConfigError
from services.sim.plan.instances import Instance
from services.sim.plan.solo import Arrivals, Phase, SoloRun, run_alone
from services.sim.plan.workload import Workload

PRECISION = 0.05
"""Of a goodput, relative."""
FIRST_STEPS = 24
WARM_UP = 0.25
"""Share of a run's requests, its first ones, that are not judged: the worker fills up meanwhile."""
MOST_REQUESTS = 6000


@dataclass(frozen=True, slots=True)
class Objective:
    """What must be kept.

    Attributes:
        ttft_ms, tpot_ms: bounds; inf is none.
        attainment: share of requests that must keep both.
        overhead_ms: of every first token: the way to the worker and back, the tokens of the prompt.
    """

    ttft_ms: float
    tpot_ms: float
    attainment: float
    overhead_ms: float = 0.0

    @property
    def phase_attainment(self) -> float:
        """Share that each of two phases must keep alone, so that both together keep it when misses are independent."""
        return math.sqrt(self.attainment)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run at one rate: what was kept, and the tails; of the requests after the warm-up."""

    rate: float
    attainment: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p99_ms: float
    busy: float
    peak_kv_share: float


@dataclass(frozen=True, slots=True)
class Unit:
    """What is searched: one worker in one phase.

    Attributes:
        max_batch_tokens: token budget of its steps.
        embedded: its prompts' pictures were encoded elsewhere.
    """

    phase: Phase
    instance: Instance
    max_batch_tokens: int
    embedded: bool = False

    def __str__(self) -> str:
        return f"{self.phase.value} {self.instance} b{self.max_batch_tokens}"


@dataclass(frozen=True, slots=True)
class Goodput:
    """What a worker can take.

    Attributes:
        rate: highest that met the objective; 0 when none did.
        at: the run at that rate, or at the lowest one that was tried.
        binding: ttft, tpot or memory: what failed first above that rate.
        probes: (rate, attainment) of every run.
    """

    unit: Unit
    rate: float
    at: Measured
    binding: str
    probes: tuple[tuple[float, float], ...]

    @property
    def per_device(self) -> float:
        """Requests a second for each device."""
        return self.rate / self.unit.instance.devices


@dataclass(frozen=True, slots=True)
class Search:
    """How a goodput is looked for.

    Attributes:
        requests: of one run at least; more where a worker holds many at once, so that it fills up.
        start: a rate to begin with, above 0.
        most: a rate that no worker keeps up with for long, although a short run may not show it.
        most_by: what bounds that rate.
    """

    requests: int
    seed: int
    start: float
    most: float = math.inf
    most_by: str = "compute"


def find_goodput(
    unit: Unit, workload: Workload, objective: Objective, config: ClusterConfig, search: Search
) -> Goodput:
    """Bracket the rate by steps of 1.5 from the search's start, then bisect."""
    target = objective.attainment if unit.phase is Phase.COLOCATED else objective.phase_attainment
    found: dict[float, Measured] = {}

    def passes(rate: float) -> bool:
        if rate > search.most:
            return False
        found[rate] = measure(unit, workload, objective, config, search.requests, rate, search.seed)
        return found[rate].attainment >= target

    below, above = bracket(passes, search.start)
    if below > 0 and math.isfinite(above):
        while above / below > 1 + PRECISION:
            middle = math.sqrt(below * above)
            below, above = (middle, above) if passes(middle) else (below, middle)
    at = found[below] if below > 0 else found[min(found)]
    higher = [rate for rate in found if rate > below]
    binding = _binding(unit, objective, found[min(higher)]) if higher else search.most_by
    probes = tuple((rate, found[rate].attainment) for rate in sorted(found))
    return Goodput(unit, below, at, binding, probes)


def bracket(passes: Callable[[float], bool], start: float) -> tuple[float, float]:
    """A rate that passes and one that does not, within a factor of 1.5; (0, rate) when even slow traffic fails."""
    rate, below, above = start, 0.0, math.inf
    for _ in range(FIRST_STEPS):
        if passes(rate):
            below, rate = rate, rate * 1.5
        else:
            above, rate = rate, rate / 1.5
        if below > 0 and math.isfinite(above):
            break
        if below == 0 and rate < start / 200:  # it is latency that fails, not load
            break
    return below, above


def measure(
    unit: Unit, workload: Workload, objective: Objective, config: ClusterConfig, requests: int, rate: float, seed: int
) -> Measured:
    """One run at one rate."""
    phase, instance = unit.phase, unit.instance
    decodes = phase in (Phase.DECODE, Phase.COLOCATED)
    held = rate * workload.mean_output * min(objective.tpot_ms, 1000.0) / 1000.0 if decodes else 0.0
    count = int(min(MOST_REQUESTS, max(requests, 4 * held)))
    if phase is Phase.ENCODE:
        arrivals = workload.pictures_apart(rate, count, seed)
    else:
        arrivals = workload.arrivals(rate, count, seed, decoded=phase is Phase.DECODE)
        arrivals = replace(arrivals, encoded=unit.embedded)
    scheduler = config.scheduler.model_copy(update={"max_batch_tokens": unit.max_batch_tokens})
    config = config.model_copy(update={"scheduler": scheduler})
    blocks = instance.blocks(config.cache.block_size_tokens)
    longest = int((arrivals.prompts + arrivals.outputs).max()) if phase is not Phase.ENCODE else 0
    if longest > blocks * config.cache.block_size_tokens:
        return Measured(rate, 0.0, math.inf, math.inf, math.inf, math.inf, 0.0, 1.0)
    run = run_alone(phase, instance.cost, blocks, config, arrivals, instance.tp)
    return judge(rate, run, objective, arrivals)


def judge(rate: float, run: SoloRun, objective: Objective, arrivals: Arrivals) -> Measured:
    """Attainment and tails of the requests after the warm-up."""
    after = int(WARM_UP * len(arrivals.at_ns))
    ttft, tpot = run.ttft_ms[after:] + objective.overhead_ms * (run.ttft_ms[after:] > 0), run.tpot_ms[after:]
    met = (ttft <= objective.ttft_ms) & (tpot <= objective.tpot_ms)
    ttft_p50, ttft_p99, tpot_p50, tpot_p99 = (
        float(np.quantile(each, q, method="higher")) for each in (ttft, tpot) for q in (0.5, 0.99)
    )
    return Measured(rate, float(met.mean()), ttft_p50, ttft_p99, tpot_p50, tpot_p99, run.busy, run.peak_kv_share)


def _binding(unit: Unit, objective: Objective, failed: Measured) -> str:
    """Which bound the first run above the goodput broke."""
    if failed.peak_kv_share > 0.98:
        return "memory"
    if unit.phase in (Phase.PREFILL, Phase.ENCODE):
        return "ttft"
    if unit.phase is Phase.DECODE:
        return "tpot"
    over_ttft = failed.ttft_p99_ms / objective.ttft_ms
    return "ttft" if over_ttft >= failed.tpot_p99_ms / objective.tpot_ms else "tpot"


def check_lengths(workload: Workload, found: list[Instance]) -> None:
    """Hold that the longest request fits into some worker.

    Raises:
        ConfigError: it fits into none.
    """
    totals = workload.prompts + workload.outputs
    longest = int(totals.max())
    most = max(found, key=lambda each: each.tokens)
    if longest > most.tokens:
        over = float((totals > most.tokens).mean())
        raise ConfigError(
            "--trace",
            f"a request of {longest} tokens",
            f"memory binds: the largest KV pool, of {most}, holds {most.tokens} tokens, and {over:.2%} of the requests "
            f"are longer; the nearest is a trace cut to {most.tokens} tokens a request, or workers with "
            f"{longest * most.token_bytes / 1e9:.0f} GB for KV",
        )
