"""Two real worker cores with real runners on a virtual clock, and what their logits must equal.

Everything of the system takes part but its processes: router's attempts, scheduler, both stages, the hand-off state
machines, prefix caches, block tables, runners. A link copies pages from one pool to the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from services.core.actions import DISCARD, Cancel, PostReceive, PostSend, RequestOutput, Submit
from services.core.batch import ScheduledBatch, StepOutput
from services.core.request import Discipline, FinishReason, Request, SamplingParams, WorkerRef
from services.core.seeds import stream
from services.engine.kv_pool import PagedKvPool
from services.engine.model import Model
from services.engine.model_runner import ModelRunner
from services.kvcache.block import num_blocks, prompt_block_hashes
from services.router.retry import next_attempt
from services.router.running import Running
from tests.engine.one_request_loop import BLOCK_SIZE, Generated, generate
from tests.factories import make_core
from tests.world import MS, World

P, D = WorkerRef("prefill-0", 1), WorkerRef("decode-0", 2)
ROOT = b"bits" * 4
GROUP = 4
"""Prompts that begin alike, for prefix hits."""

BESIDE_LONGEST_BLOCKS = 8
"""Of the pool in which decodes are preempted, beside the longest request: room for a short one, not for its growth."""


@dataclass(frozen=True)
class Job:
    """One request: what is asked, apart from how it is run."""

    name: str
    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    seed: int

    def reference(self, model: Model) -> Generated:
        """What the plain loop computes."""
        return generate(model, self.prompt, self.max_tokens, self.temperature, self.seed)

    @property
    def longest(self) -> int:
        """Tokens at its end."""
        return len(self.prompt) + self.max_tokens


def make_jobs(lengths: Sequence[int], vocab: int, max_tokens: int, seed: int = 0) -> list[Job]:
    """Prompts of the given lengths; those of a group of four share as much of their beginning as the shortest has.

    Every second request is greedy, the others are drawn with a seed of their own.
    """
    random = stream(seed, "bits")
    jobs: list[Job] = []
    common: list[int] = []
    for number, length in enumerate(lengths):
        if number % GROUP == 0:
            common = [random.randrange(vocab) for _ in range(max(lengths))]
        shared = min(length - 1, 3 * min(lengths[number - number % GROUP :][:GROUP]) // 4)
        prompt = (*common[:shared], *(random.randrange(vocab) for _ in range(length - shared)))
        jobs.append(Job(f"r{number}", prompt, max_tokens, 0.0 if number % 2 else 0.9, random.getrandbits(62)))
    return jobs


@dataclass(frozen=True)
class Plan:
    """How the jobs are run.

    Attributes:
        at_once: requests in flight; they arrive at random times.
        chunk: most prompt tokens of a request in a step; None: the whole prompt.
        early: blocks are granted before the prompt is computed.
        prefix: prefix caches are on.
        trouble: "preempted" (the decode worker's pool is too small), "continued" (requests are taken from their
            workers after some tokens and go on as a new attempt), "local" (every third prompt is computed on the
            decode worker), or "".
    """

    at_once: int
    chunk: int | None
    early: bool
    prefix: bool
    trouble: str = ""

    @property
    def name(self) -> str:
        """A label for results."""
        chunk = "whole" if self.chunk is None else f"chunks of {self.chunk}"
        parts = [f"{self.at_once} at once", chunk, "early" if self.early else "late"]
        return ", ".join([*parts, *(["prefix hits"] if self.prefix else []), *([self.trouble] if self.trouble else [])])


@dataclass
class Outcome:
    """What a run showed.

    Attributes:
        wrong: one line for each request whose tokens or digests differ.
        cached_tokens, preemptions, continuations, local, rows: evidence that the plan happened; `rows` is the most
            rows of a step.
    """

    wrong: list[str] = field(default_factory=list)
    compared: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    continuations: int = 0
    local: int = 0
    rows: int = 0
    parts: int = 0


class EngineWorld(World):
    """A world whose tokens come from a model."""

    def __init__(self, delay: Callable[[], int], runners: dict[WorkerRef, ModelRunner]) -> None:
        super().__init__(delay)
        self.runners = runners
        self.rows = 0

    def compute(self, ref: WorkerRef, batch: ScheduledBatch) -> StepOutput:
        self.rows = max(self.rows, len(batch.rows))
        output = self.runners[ref].execute(batch)
        assert output.error is None, output.error
        return output

    def copy(self, send: PostSend, receive: PostReceive) -> None:
        pairs = [pair for pair in zip(send.blocks, receive.blocks, strict=True) if pair[1] != DISCARD]
        if pairs:
            sources, targets = zip(*pairs, strict=True)
            from_pool, to_pool = (self.runners[end].pool for end in (send.link.sender, send.link.receiver))
            to_pool.data[:, :, list(targets)] = from_pool.data[:, :, list(sources)]


class Bench:
    """A model with the memory of two workers, in which plans are run one after the other.

    Args:
        pool_tokens: tokens of each pool.
    """

    def __init__(self, model: Model, pool_tokens: int) -> None:
        self._blocks = num_blocks(pool_tokens, BLOCK_SIZE)
        shape = model.shape

        def runner() -> ModelRunner:
            size = (shape.num_layers, self._blocks, shape.kv_heads, BLOCK_SIZE, shape.head_dim)
            return ModelRunner(model, PagedKvPool(*size, torch.float32), testing_digests=True)

        self._runners = {P: runner(), D: runner()}

    def run(self, plan: Plan, jobs: Sequence[Job], references: Sequence[Generated], seed: int = 0) -> Outcome:
        """Every job once, as the plan says."""
        random = stream(seed, plan.name)
        world = EngineWorld(lambda: random.randrange(15) * MS, self._runners)
        budget = max(job.longest for job in jobs) if plan.chunk is None else 4 * plan.chunk + plan.at_once
        fields: dict[str, Any] = {
            "cache": {"block_size_tokens": BLOCK_SIZE, "prefix_caching": plan.prefix},
            "scheduler": {"max_batch_tokens": budget, "max_chunk_tokens": plan.chunk, "prefill_tile_tokens": 16},
        }
        small = self._blocks
        if plan.trouble == "preempted":  # the longest request fits, and short ones are let in beside it that outgrow it
            small = num_blocks(max(job.longest for job in jobs), BLOCK_SIZE) + BESIDE_LONGEST_BLOCKS
            fields["decode"] = {"max_waiting_block_share": 1.0}
        world.add(P, make_core(P, ("prefill",), self._blocks, **fields))
        world.add(D, make_core(D, ("decode",), small, **fields))
        return _Run(world, plan, random, list(jobs)).result(references)


class _Run:
    """One plan under way."""

    def __init__(self, world: EngineWorld, plan: Plan, random: Random, jobs: list[Job]) -> None:
        self._world = world
        self._plan = plan
        self._random = random
        self._jobs = jobs
        self._running: dict[str, Running] = {}
        self._moves_at: dict[str, int] = {}
        self._digests: dict[str, dict[int, str]] = {job.name: {} for job in jobs}
        self._tokens: dict[str, dict[int, int]] = {job.name: {} for job in jobs}
        self._attempts = 0
        self._outcome = Outcome()

    def result(self, references: Sequence[Generated]) -> Outcome:
        """Submit the jobs as the plan allows, follow them to their end, compare."""
        waiting = list(self._jobs)
        self._random.shuffle(waiting)
        if (
            self._plan.trouble == "preempted"
        ):  # the longest comes first and takes the blocks that the others need to grow
            waiting.sort(key=lambda job: job.longest)
            waiting.insert(0, waiting.pop())
        next_arrival, seen = 0, 0
        while waiting or self._running:
            if waiting and len(self._running) < self._plan.at_once and self._world.now >= next_arrival:
                self._submit(waiting.pop(0))
                next_arrival = self._world.now + self._random.randrange(10) * MS
            self._world.run(self._world.now + 2 * MS)
            outputs, seen = self._world.outputs[seen:], len(self._world.outputs)
            for _, output in outputs:
                self._take(output)
        self._world.run(self._world.now + 20_000 * MS)
        self._compare(references)
        return self._outcome

    def _submit(self, job: Job) -> None:
        self._attempts += 1
        sampling = SamplingParams(job.max_tokens, job.temperature, job.seed)
        hashes = prompt_block_hashes(ROOT, job.prompt, BLOCK_SIZE)
        request = Request(job.name, self._attempts, job.prompt, hashes, sampling, "door", hash_root=ROOT)
        self._running[job.name] = Running(request, None)
        if self._plan.trouble == "continued":
            self._moves_at[job.name] = self._random.randrange(1, job.max_tokens)
        self._dispatch(self._running[job.name])

    def _dispatch(self, running: Running) -> None:
        local = self._plan.trouble == "local" and self._attempts % 3 == 0
        discipline = Discipline.EARLY if self._plan.early else Discipline.LATE
        running.request = replace(running.request, handoff_to=None if local else D, discipline=discipline)
        self._outcome.local += local
        self._world.feed(D if local else P, Submit("door", running.request))

    def _take(self, output: RequestOutput) -> None:
        """Note an output as the request flow does; perhaps take the request from its workers."""
        running = self._running.get(output.request_id)
        if running is None or output.attempt != running.request.attempt:
            return
        assert output.finish in (None, FinishReason.LENGTH), output
        name = output.request_id
        self._outcome.cached_tokens += output.cached_tokens
        for index, token in enumerate(output.token_ids, start=output.index):
            self._tokens[name].setdefault(index, token)
            digest = output.logits_digests[index - output.index]
            before = self._digests[name].setdefault(index, digest)
            assert before == digest, f"{name}: two attempts disagree at {index}"
        running.take(output)
        if running.complete:
            del self._running[name]
        elif len(running.tokens) >= self._moves_at.get(name, 10**9):
            del self._moves_at[name]
            self._continue(running)

    def _continue(self, running: Running) -> None:
        """What the request flow does when a worker is lost: everything is released, and what is known goes on."""
        request = running.request
        for ref in (P, D):
            self._world.feed(
                ref, Cancel("door", request.request_id, FinishReason.CANCELLED, "moved", attempt=request.attempt)
            )
        self._attempts += 1
        self._outcome.continuations += 1
        running.leave(next_attempt(running, self._attempts, BLOCK_SIZE))
        self._dispatch(running)

    def _compare(self, references: Sequence[Generated]) -> None:
        for core in self._world.cores.values():
            load = core.load()
            assert (load.kv_blocks_used, load.leases, load.transfers, load.tasks) == (0, 0, 0, 0), load
            self._outcome.preemptions += dict(load.counters).get("preempted/no_blocks", 0)
        self._outcome.rows = self._world.rows
        self._outcome.parts = len(self._world.seen_parts)
        for job, reference in zip(self._jobs, references, strict=True):
            digests = [self._digests[job.name].get(index, "") for index in range(job.max_tokens)]
            tokens = [self._tokens[job.name].get(index, -1) for index in range(job.max_tokens)]
            self._outcome.compared += len(digests)
            wrong = [index for index, digest in enumerate(digests) if digest != reference.digests[index]]
            if wrong or tokens != list(reference.tokens):
                what = f"{job.name} ({len(job.prompt)} prompt tokens): {len(wrong)} of {job.max_tokens} logits differ"
                self._outcome.wrong.append(f"{what}, first at {wrong[:1]}")


def evidence(plan: Plan, outcome: Outcome) -> list[str]:
    """What a plan was to show and did not; bit equality of a run in which nothing happened proves nothing."""
    checks = {
        "prefix hits": plan.prefix == (outcome.cached_tokens > 0) or plan.trouble == "continued",
        "a step with several rows": plan.at_once == 1 or outcome.rows > 1,
        "preemptions": plan.trouble != "preempted" or plan.at_once == 1 or outcome.preemptions > 0,
        "continuations": plan.trouble != "continued" or outcome.continuations > 0,
        "local prompts": plan.trouble != "local" or outcome.local > 0,
        "hand-offs": outcome.parts > 0,
    }
    return [what for what, shown in checks.items() if not shown]


ENGINE = ("engine",)
EVERYTHING = ("core", "kvcache", "scheduling", "prefill", "decode", "engine")


def code_digest(root: Path, names: Sequence[str]) -> str:
    """BLAKE2b-64 of every source that can change a bit, so that saved results of other code are not taken.

    Args:
        names: packages of `services` that count.
    """
    files = [path for name in names for path in sorted((root / "services" / name).rglob("*.py"))]
    files += [Path(__file__), root / "tests" / "world.py", root / "tests" / "engine" / "one_request_loop.py"]
    hasher = hashlib.blake2b(digest_size=8)
    for path in files:
        hasher.update(path.read_bytes())
    return hasher.hexdigest()
