"""One worker alone, with its real core and no cluster around it: what a unit of a placement can take.

encode      every image is a request of its own, over when its embedding is offered
prefill     every request ends with its first token; its images are encoded by the same worker, or there when it comes
decode      prompts are there when they arrive, as after a hand-off: each request is continued after its first token
colocated   both, in steps that the scheduler mixes (Sarathi-Serve)

A placement that has many equal workers is searched by one of them (DistServe, algorithms 1 and 2); a pool of several
takes each request where the fewest tokens wait (Splitwise).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.cluster.config import ClusterConfig
from services.core.actions import Cancel, PeerMessage, RequestOutput, Submit, WorkerReport
from services.core.clock import NS_PER_S
from services.core.output import Output
from services.core.peer import Offer
from services.core.request import FinishReason, Image, Request, SamplingParams, Shard, WorkerRef
from services.sim.body import Body
from services.sim.cost_model import CostModel, StepShape, StepTime
from services.sim.event_queue import EventQueue
from services.sim.network import Place
from services.sim.requests import tokens
from services.sim.workers import TOKEN, SimWorker
from services.worker.assemble import build_worker_core
from services.worker.config import WorkerSpec

ALL_AT_ONCE = 1 << 20
"""Token budget of a decode worker alone, whose prompts cost nothing but must all be taken in one step."""
GOOD = (FinishReason.STOP, FinishReason.LENGTH)


class Phase(StrEnum):
    """What a worker does for its requests."""

    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"
    COLOCATED = "colocated"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests of one run: arrival in ns, prompt tokens, output tokens; int64, [n] each, in order of arrival.

    Attributes:
        images: of each request, int64, [n]; None: none has any. Prompt tokens do not count them.
        image_tokens: that each adds to its prompt.
        encoded: embeddings are there when a request arrives.
    """

    at_ns: NDArray[np.int64]
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    images: NDArray[np.int64] | None = None
    image_tokens: int = 0
    encoded: bool = False

    @property
    def prompts(self) -> NDArray[np.int64]:
        """Tokens of prompts with their images: int64, [n]."""
        return self.inputs if self.images is None else self.inputs + self.image_tokens * self.images


@dataclass(frozen=True, slots=True)
class SoloRun:
    """What clients of the worker would see.

    Attributes:
        ttft_ms: from arrival to the first token; float64, [n]; of a decode worker 0, of a failed request inf.
        tpot_ms: mean time per token after the first; float64, [n]; of requests with one token 0, of failed ones inf.
        e2e_ms: from arrival to the last token; float64, [n].
        busy: share of the time in steps; of a pool the mean.
        peak_kv_share: most of the KV blocks of one worker that were in use at once.
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


ROLES = {
    Phase.ENCODE: ("encode",),
    Phase.PREFILL: ("encode", "prefill"),
    Phase.DECODE: ("prefill", "decode"),
    Phase.COLOCATED: ("encode", "prefill", "decode"),
}
"""Stages of a worker that does a phase alone; a decode worker is given prompts that cost nothing."""


class _NoLinks:
    """A worker alone hands nothing off."""

    def step_ended(self, worker: WorkerRef) -> None:
        """Nobody waits for parts of a step."""


class _Pool:
    """Which of several workers takes a request: where the fewest tokens wait; a decode counts one (Splitwise)."""

    def __init__(self, workers: int, phase: Phase, arrivals: Arrivals) -> None:
        self._load = [0] * workers
        self._prompts = [1 if phase is Phase.DECODE else each for each in arrivals.prompts.tolist()]
        self._where: dict[int, int] = {}

    def choose(self, number: int) -> int:
        """The worker of a request that arrives."""
        place = self._load.index(min(self._load))
        self._where[number] = place
        self._load[place] += self._prompts[number] + 1
        return place

    def computed(self, number: int) -> None:
        """Its prompt does not wait any more."""
        self._load[self._where[number]] -= self._prompts[number]

    def ended(self, number: int) -> None:
        """It is over."""
        self._load[self._where.pop(number)] -= 1


class _World:
    """What a worker reaches when it is alone: a client that notes the time of first and last tokens."""

    stream_ns = 0

    def __init__(self, count: int, pool: _Pool) -> None:
        self.queue = EventQueue()
        self.links: Any = _NoLinks()
        self.first_ns: list[int | None] = [None] * count
        self.end_ns: list[int | None] = [None] * count
        self.left = count
        self._pool = pool
        self.over: Callable[[tuple[WorkerRef, str]], None] = lambda _: None

    def tell_peer(self, sender: WorkerRef, to: WorkerRef, message: PeerMessage) -> None:
        """An embedding is offered: it is done, and taken at once; there are no other peers."""
        body = message.body
        if isinstance(body, Offer):
            number = int(body.request.request_id)
            self.first_ns[number] = self.end_ns[number] = self.queue.now
            self.left -= 1
            self._pool.computed(number)
            self._pool.ended(number)
            self.queue.at(self.queue.now, self.over, (sender, body.request.request_id))

    def to_door(self, worker: SimWorker, outputs: Sequence[Output], report: WorkerReport | None, _name: str) -> None:
        """An item of its stream."""
        now = self.queue.now
        for output in outputs:
            if not isinstance(output, RequestOutput):
                continue  # further tokens
            number = int(output.request_id)
            if self.first_ns[number] is None:
                self.first_ns[number] = now
                self._pool.computed(number)
            if output.finish is not None:
                self.left -= 1
                self.end_ns[number] = now if output.finish in GOOD else None
                self._pool.ended(number)


def run_alone(
    phase: Phase,
    cost: CostModel,
    num_blocks: int,
    config: ClusterConfig,
    arrivals: Arrivals,
    tp: int = 1,
    workers: int = 1,
) -> SoloRun:
    """Send all requests to one worker, or to a pool of equal ones, and let them be answered.

    Args:
        num_blocks: of the KV pool of one.
        config: scheduler, cache, and limits of the stages.
        tp: ranks, for a worker's own accounts.
    """
    count = len(arrivals.at_ns)
    pool = _Pool(workers, phase, arrivals)
    world = _World(count, pool)
    pictures = arrivals.images is not None and not arrivals.encoded
    members = [_worker(phase, cost, num_blocks, config, tp, world, number, pictures) for number in range(workers)]

    def arrive(number: int) -> None:
        worker = members[pool.choose(number)]
        worker.feed(Submit("door", _request(phase, number, arrivals, worker.ref)))

    def over(what: tuple[WorkerRef, str]) -> None:
        ref, request_id = what
        member = next(each for each in members if each.ref == ref)
        member.feed(Cancel("door", request_id, FinishReason.CANCELLED, "taken"))

    world.over = over

    for number, at_ns in enumerate(arrivals.at_ns.tolist()):
        world.queue.at(at_ns, arrive, number)
    world.queue.run()
    if world.left:
        raise AssertionError(f"{world.left} requests of {count} never ended")
    return _result(phase, arrivals, world, members, num_blocks)


def _worker(
    phase: Phase,
    cost: CostModel,
    num_blocks: int,
    config: ClusterConfig,
    tp: int,
    world: _World,
    number: int,
    pictures: bool,
) -> SimWorker:
    """The worker that a cluster of this configuration would have."""
    roles = ROLES[phase] if pictures else tuple(role for role in ROLES[phase] if role != "encode")
    scheduler = config.scheduler
    if phase is Phase.DECODE:
        cost = HandedOver(cost)
        budget = {"max_batch_tokens": ALL_AT_ONCE, "prefill_tile_tokens": 1}
        scheduler = scheduler.model_copy(update=budget)
    spec = WorkerSpec(
        worker_id=f"alone-{number}",
        cluster_id="plan",
        pool="alone",
        roles=roles,
        tp=tp,
        model=config.model,
        model_folder="",
        cache=config.cache,
        transfer=config.transfer,
        scheduler=scheduler,
        encode=config.encode.model_copy(update={"max_waiting_requests": ALL_AT_ONCE}),
        prefill=config.prefill.model_copy(update={"max_waiting_requests": ALL_AT_ONCE}),
        decode=config.decode,
    )
    ref = WorkerRef(f"alone-{number}", 1)
    core = build_worker_core(spec, ref, num_blocks, ref.worker_id, 0)
    body = Body("alone", roles, cost, 1, Place(), None, 1, NS_PER_S, True, False)
    return SimWorker(number, ref, body, core, world, None)


def _request(phase: Phase, number: int, arrivals: Arrivals, worker: WorkerRef) -> Request:
    prompt, output = int(arrivals.prompts[number]), int(arrivals.outputs[number])
    resume: tuple[int, ...] = ()
    if phase is Phase.PREFILL:
        output = 1
    elif phase is Phase.DECODE:
        output, resume = max(2, output), (TOKEN,)
    request = Request(
        str(number), 1, tokens(max(1, prompt)), (), SamplingParams(max_tokens=output), "door", resume=resume
    )
    if arrivals.images is None or arrivals.encoded or not arrivals.images[number] or phase is Phase.DECODE:
        return request
    images = tuple(
        Image(f"{number}/{place}".encode(), arrivals.image_tokens) for place in range(arrivals.images[number])
    )
    shards = (Shard(worker, 0, len(images)),)
    prefill_on = WorkerRef("elsewhere", 1) if phase is Phase.ENCODE else None
    return replace(request, images=images, shards=shards, prefill_on=prefill_on)


def _result(phase: Phase, arrivals: Arrivals, world: _World, members: Sequence[SimWorker], num_blocks: int) -> SoloRun:
    failed = np.array([end is None for end in world.end_ns])
    first = np.array([each or 0 for each in world.first_ns], dtype=np.float64)
    end = np.array([each or 0 for each in world.end_ns], dtype=np.float64)
    at = arrivals.at_ns.astype(np.float64)
    after = np.maximum(arrivals.outputs - 1, 1)
    one = arrivals.outputs < 2
    # A decode worker's part begins when the hand-off is there: waiting for its first step counts.
    begun = at if phase is Phase.DECODE else first
    tpot = np.where(one | (phase in (Phase.PREFILL, Phase.ENCODE)), 0.0, (end - begun) / after / 1e6)
    ttft = np.zeros_like(at) if phase is Phase.DECODE else (first - at) / 1e6
    e2e = (end - at) / 1e6
    for each in (ttft, tpot, e2e):
        each[failed] = np.inf
    last = max(world.queue.now, 1)
    busy = sum(each.use.busy_ns for each in members) / len(members) / last
    return SoloRun(ttft, tpot, e2e, busy, max(each.use.peak_blocks for each in members) / num_blocks)
