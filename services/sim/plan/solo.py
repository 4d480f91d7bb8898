"""One worker alone, with its real core and no cluster around it: what a unit of a placement can take.

prefill     every request ends with its first token
decode      prompts are there when they arrive, as after a hand-off: each request is continued after its first token
colocated   both, in steps that the scheduler mixes (Sarathi-Serve)

A placement that has many equal workers is searched by one of them (DistServe, algorithms 1 and 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.cluster.config import ClusterConfig
from services.core.actions import PeerMessage, RequestOutput, Submit, WorkerReport
from services.core.clock import NS_PER_S
from services.core.output import Output
from services.core.request import FinishReason, Request, SamplingParams, WorkerRef
from services.sim.cost_model import CostModel, StepShape, StepTime
from services.sim.event_queue import EventQueue
from services.sim.network import Place
from services.sim.requests import tokens
from services.sim.workers import TOKEN, Body, SimWorker
from services.worker.assemble import build_worker_core
from services.worker.config import WorkerSpec

ALL_AT_ONCE = 1 << 20
"""Token budget of a decode worker alone, whose prompts cost nothing but must all be taken in one step."""
GOOD = (FinishReason.STOP, FinishReason.LENGTH)


class Phase(StrEnum):
    """What a worker does for its requests."""

    PREFILL = "prefill"
    DECODE = "decode"
    COLOCATED = "colocated"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests of one run: arrival in ns, prompt tokens, output tokens; int64, [n] each, in order of arrival."""

    at_ns: NDArray[np.int64]
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SoloRun:
    """What clients of the worker would see.

    Attributes:
        ttft_ms: from arrival to the first token; float64, [n]; of a decode worker 0, of a failed request inf.
        tpot_ms: mean time per token after the first; float64, [n]; of requests with one token 0, of failed ones inf.
        e2e_ms: from arrival to the last token; float64, [n].
        busy: share of the time in steps.
        peak_kv_share: most of the KV blocks that were in use at once.
    """

    ttft_ms: NDArray[np.float64]
    tpot_ms: NDArray[np.float64]
    e2e_ms: NDArray[np.float64]
    busy: float
    peak_kv_share: float


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Costs of a decode worker: a prompt that was computed elsewhere is one more decode in its first step."""

    inner: CostModel

    def step(self, shape: StepShape) -> StepTime:
        """Time of any step."""
        if not shape.chunks:
            return self.inner.step(shape)
        rows, context = shape.rows + shape.chunks, shape.context + shape.cached + shape.tokens
        return self.inner.step(StepShape(0, 0, 0.0, 0, rows, context))

    def decode_ns(self, rows: int, context: int, count: int) -> NDArray[np.int64]:
        """Times of `count` steps of the same decodes, whose context grows by `rows` each step: int64, [count]."""
        return self.inner.decode_ns(rows, context, count)


class _NoLinks:
    """A worker alone hands nothing off."""

    def step_ended(self, worker: WorkerRef) -> None:
        """Nobody waits for parts of a step."""


class _World:
    """What a worker reaches when it is alone: a client that notes the time of first and last tokens."""

    stream_ns = 0

    def __init__(self, count: int) -> None:
        self.queue = EventQueue()
        self.links: Any = _NoLinks()
        self.first_ns: list[int | None] = [None] * count
        self.end_ns: list[int | None] = [None] * count
        self.left = count

    def tell_peer(self, sender: WorkerRef, to: WorkerRef, message: PeerMessage) -> None:
        """There are no peers."""
        raise AssertionError(f"a worker alone told {to} of {message}")

    def to_door(self, worker: SimWorker, outputs: Sequence[Output], report: WorkerReport | None) -> None:
        """An item of its stream."""
        now = self.queue.now
        for output in outputs:
            if not isinstance(output, RequestOutput):
                continue  # further tokens
            number = int(output.request_id)
            if self.first_ns[number] is None:
                self.first_ns[number] = now
            if output.finish is not None:
                self.left -= 1
                self.end_ns[number] = now if output.finish in GOOD else None


def run_alone(
    phase: Phase, cost: CostModel, num_blocks: int, config: ClusterConfig, arrivals: Arrivals, tp: int = 1
) -> SoloRun:
    """Send all requests to one worker and let it answer them.

    Args:
        num_blocks: of its KV pool.
        config: scheduler, cache, and limits of the stages.
        tp: ranks, for the worker's own accounts.
    """
    count = len(arrivals.at_ns)
    world = _World(count)
    worker = _worker(phase, cost, num_blocks, config, tp, world)

    def arrive(number: int) -> None:
        worker.feed(Submit("door", _request(phase, number, arrivals)))

    for number, at_ns in enumerate(arrivals.at_ns.tolist()):
        world.queue.at(at_ns, arrive, number)
    world.queue.run()
    if world.left:
        raise AssertionError(f"{world.left} requests of {count} never ended")
    return _result(phase, arrivals, world, worker, num_blocks)


def _worker(phase: Phase, cost: CostModel, num_blocks: int, config: ClusterConfig, tp: int, world: _World) -> SimWorker:
    """The worker that a cluster of this configuration would have."""
    roles = ("prefill",) if phase is Phase.PREFILL else ("prefill", "decode")
    scheduler = config.scheduler
    if phase is Phase.DECODE:
        cost = HandedOver(cost)
        budget = {"max_batch_tokens": ALL_AT_ONCE, "prefill_tile_tokens": 1}
        scheduler = scheduler.model_copy(update=budget)
    spec = WorkerSpec(
        worker_id="alone-0",
        cluster_id="plan",
        pool="alone",
        roles=roles,
        tp=tp,
        model=config.model,
        model_folder="",
        cache=config.cache,
        transfer=config.transfer,
        scheduler=scheduler,
        prefill=config.prefill.model_copy(update={"max_waiting_requests": ALL_AT_ONCE}),
        decode=config.decode,
    )
    ref = WorkerRef("alone-0", 1)
    core = build_worker_core(spec, ref, num_blocks, "alone-0", 0)
    body = Body("alone", roles, cost, 1, Place(), None, 1, NS_PER_S, True, False)
    return SimWorker(0, ref, body, core, world, None)


def _request(phase: Phase, number: int, arrivals: Arrivals) -> Request:
    prompt, output = int(arrivals.inputs[number]), int(arrivals.outputs[number])
    resume: tuple[int, ...] = ()
    if phase is Phase.PREFILL:
        output = 1
    elif phase is Phase.DECODE:
        output, resume = max(2, output), (TOKEN,)
    sampling = SamplingParams(max_tokens=output)
    return Request(str(number), 1, tokens(max(1, prompt)), (), sampling, "door", resume=resume)


def _result(phase: Phase, arrivals: Arrivals, world: _World, worker: SimWorker, num_blocks: int) -> SoloRun:
    failed = np.array([end is None for end in world.end_ns])
    first = np.array([each or 0 for each in world.first_ns], dtype=np.float64)
    end = np.array([each or 0 for each in world.end_ns], dtype=np.float64)
    at = arrivals.at_ns.astype(np.float64)
    after = np.maximum(arrivals.outputs - 1, 1)
    one = arrivals.outputs < 2
    # A decode worker's part begins when the hand-off is there: waiting for its first step counts.
    begun = at if phase is Phase.DECODE else first
    tpot = np.where(one | (phase is Phase.PREFILL), 0.0, (end - begun) / after / 1e6)
    ttft = np.zeros_like(at) if phase is Phase.DECODE else (first - at) / 1e6
    e2e = (end - at) / 1e6
    for each in (ttft, tpot, e2e):
        each[failed] = np.inf
    last = max(world.queue.now, 1)
    return SoloRun(ttft, tpot, e2e, worker.use.busy_ns / last, worker.use.peak_blocks / num_blocks)
