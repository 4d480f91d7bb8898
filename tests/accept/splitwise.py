"""Splitwise's clusters: how many machines of each kind serve a trace within nine slow-downs.

Patel et al., ISCA 2024: a machine is eight devices with BLOOM-176B; time to first token, between tokens and end to end
may be so many times what an A100 machine without load takes, at the 50th, 90th and 99th percentile (table VI).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from loadgen.traces import Trace
from services.cluster.config import ClusterConfig
from services.core.workload import WorkloadRow
from services.sim.cluster import SimCluster
from services.sim.config import DelaysConfig, SimConfig
from services.sim.cost_model import CostModel, FittedCost, StepShape
from services.sim.models import ModelSpec
from services.sim.network import Place
from services.sim.plan.bounds import prompt_ms
from services.sim.plan.goodput import WARM_UP, bracket
from services.sim.plan.solo import Arrivals
from services.sim.plan.workload import Workload, survey
from services.sim.pools import Options, SimPool
from services.sim.published import published
from services.sim.roofline import DEVICES, USABLE_MEMORY

# config.json of bigscience/bloom: 70 layers of 14336, 112 heads, no gate, tied
BLOOM = ModelSpec("bloom-176b", 70, 14336, 112, 112, 128, 57344, 250880, gated=False, tied=True)
QUANTILES = (0.5, 0.9, 0.99)
TTFT, TBT, E2E = (2.0, 3.0, 6.0), (1.25, 1.5, 5.0), (1.25, 1.5, 5.0)
BUDGET = 2048
PRECISION = 0.08
SECONDS = 25.0
"""Of traffic; a request takes about 13."""
CONFIG = ClusterConfig.model_validate(
    {
        "scheduler": {"max_batch_tokens": BUDGET, "max_sequences": 512},
        "frontdoor": {"max_running_requests": 100_000},
        "worker": {"report_every_s": 1.0},
    }
)


@dataclass(frozen=True)
class Slowdowns:
    """What requests on an A100 machine of their own take in ms: [n] each."""

    ttft: np.ndarray
    tbt: np.ndarray


def cost(device: str) -> CostModel:
    """Measured step times of a machine."""
    return published("bloom-176b", device, 8, 1)


def blocks(device: str) -> int:
    """KV blocks of 16 tokens beside the weights."""
    left = 8 * USABLE_MEMORY * DEVICES[device].memory_bytes - BLOOM.total_bytes
    return int(left // (16 * BLOOM.kv_token_bytes))


@cache
def workload(path: Path, scale: float = 1.0) -> Workload:
    """Lengths of a trace; `scale` makes outputs longer."""
    found = survey(Trace(path), 1)
    return replace(found, outputs=np.maximum(np.rint(found.outputs * scale), 1).astype(np.int64))


def alone(arrivals: Arrivals) -> Slowdowns:
    """Every request without any other, on A100."""
    base = cost("a100-80g")
    known = {int(each): prompt_ms(base, int(each), BUDGET)[1] for each in np.unique(arrivals.inputs)}
    ttft = np.array([known[int(each)] for each in arrivals.inputs])
    context = arrivals.inputs + arrivals.outputs // 2
    tbt = np.array([base.step(StepShape(0, 0, 0.0, 0, 1, int(each))).busy_ns / 1e6 for each in context])
    return Slowdowns(ttft, tbt)


def kept(values: np.ndarray, bounds: tuple[float, ...]) -> bool:
    """Whether every percentile of the slow-downs is within its bound."""
    return len(values) == 0 or bool((np.quantile(values, QUANTILES) <= bounds).all())


@dataclass(frozen=True)
class Design:
    """A cluster: kinds and numbers of its machines; a baseline's machines do both phases."""

    name: str
    prompts: tuple[str, int]
    tokens: tuple[str, int] | None = None

    @property
    def machines(self) -> int:
        """In all."""
        return self.prompts[1] + (self.tokens[1] if self.tokens else 0)


KINDS = {"A": "a100-80g", "H": "h100-80g"}
SIM = SimConfig(delays=DelaysConfig(door_ms=0, dispatch_ms=0, stream_ms=0, message_ms=0, open_link_ms=0))


def pools(design: Design, faster: float) -> list[SimPool]:
    """One worker a machine, each on a host of its own, joined by 200 Gb/s."""
    found = []
    parts = {"prefill": design.prompts, "decode": design.tokens} if design.tokens else {"both": design.prompts}
    host = 0
    for name, part in parts.items():
        kind, count = part or ("A", 0)
        machine = cost(KINDS[kind])
        if kind == "A" and faster != 1.0:
            assert isinstance(machine, FittedCost)
            machine = replace(machine, prefill=machine.prefill.divided(faster), decode=machine.decode.divided(faster))
        places = tuple(Place(host=host + each, devices=tuple(range(8))) for each in range(count))
        host += count
        roles = ("prefill", "decode") if name == "both" else (name,)
        block_bytes = round(16 * BLOOM.kv_token_bytes)
        found.append(SimPool(name, roles, count, machine, blocks(KINDS[kind]), block_bytes, 8, 8, places))
    return found


def keeps(design: Design, rate: float, work: Workload, faster: float = 1.0) -> bool:
    """Whether the whole cluster, with the real router and hand-off, keeps all nine slow-downs at a rate."""
    requests = max(400, int(SECONDS * rate))
    arrivals = work.arrivals(rate, requests, 5)
    rows = (
        WorkloadRow(int(at) / 1e9, int(prompt), int(output))
        for at, prompt, output in zip(arrivals.at_ns, arrivals.inputs, arrivals.outputs, strict=True)
    )
    cluster = SimCluster(CONFIG, pools(design, faster), SIM, Options(gaps=False, nvlink=True))
    ttft, tbt = np.full(requests, np.inf), np.full(requests, np.inf)
    for sample in cluster.samples(rows):
        if sample.outcome.value == "ok":
            ttft[sample.index], tbt[sample.index] = sample.ttft_ms() or 0.0, sample.tpot_ms or 0.0
    after = int(WARM_UP * requests)
    free = alone(arrivals)
    steps = np.maximum(arrivals.outputs - 1, 0)
    whole = (ttft + tbt * steps) / (free.ttft + free.tbt * steps)
    several = steps[after:] > 0
    return (
        kept((ttft / free.ttft)[after:], TTFT)
        and kept((tbt / free.tbt)[after:][several], TBT)
        and kept(whole[after:], E2E)
    )


def throughput(design: Design, work: Workload, start: float, faster: float = 1.0) -> float:
    """The highest rate that the design keeps, to PRECISION."""
    below, above = bracket(lambda rate: keeps(design, rate, work, faster), start)
    while below and above / below > 1 + PRECISION:
        middle = (below * above) ** 0.5
        below, above = (middle, above) if keeps(design, middle, work, faster) else (below, middle)
    return below
