"""One step of a model: rows in, sampled tokens out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import torch
from torch import Tensor

from services.core.batch import Row, SampleSpec, ScheduledBatch, StepOutput
from services.core.clock import Clock, WallClock
from services.core.errors import MemoryShortError
from services.core.ports import RunnerLost
from services.engine.checkpoint import read_shape
from services.engine.decode_inputs import DecodeInputs
from services.engine.grammar import GrammarError, Grammars, Mask
from services.engine.input_batch import InputBatch, build
from services.engine.kv_pool import PagedKvPool, num_blocks_for
from services.engine.logprobs import Scores, token_logprob
from services.engine.model import Model, ScoreHook
from services.engine.model_shape import KV_DTYPE, ModelShape
from services.engine.sampler import greedy, is_plain, sample
from services.engine.step_progress import StepProgress
from services.engine.weights import load_tensors, trim_heap

ACTIVATION_BYTES = 256 * 2**20
"""What a step needs beside weights and KV, at most, for a chunk of 512 tokens of a small model."""
SELF_TEST_TOKENS = 140


class ModelRunner:
    """The `Runner` port over a torch model. Used by one thread.

    Args:
        pool: KV memory that the rows' block tables point into.
        testing_digests: answer every sampled row with the SHA-256 of its float32 logits.
        clock: what `duration_ns` is measured with.

    Attributes:
        progress: how far the running step is.
        any_threads: the number of threads may change between steps; in an exact model: without changing a bit.
        notes: one line for each fallback or failed self-test, for the log and `triptych doctor`.
        grammars: of requests whose output must be of a language; None: such requests are refused.
    """

    def __init__(
        self, model: Model, pool: PagedKvPool, testing_digests: bool = False, clock: Clock | None = None
    ) -> None:
        self.model = model
        self.pool = pool
        self.notes: tuple[str, ...] = model.notes
        self.any_threads = True
        self.grammars: Grammars | None = None
        self.progress = StepProgress()
        self._digests = testing_digests
        self._decode_inputs = DecodeInputs(model.shape, pool, model.exact)
        self._last_samples: tuple[SampleSpec, ...] = ()
        self._last_plain = True
        self._clock = clock or WallClock()

    @property
    def shape(self) -> ModelShape:
        """Sizes of the model."""
        return self.model.shape

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        """Compute KV for every row's tokens, then sample where asked. Blocking; errors come back in the output."""
        started = self._clock.now_ns()
        self.progress.begin(batch.step_id)
        try:
            output = self._run(batch)
        except RunnerLost:
            raise
        except Exception as error:  # the step's requests must end with a reason, whatever went wrong in it
            output = StepOutput(batch.step_id, (None,) * len(batch.rows), error=f"{type(error).__name__}: {error}")
        self.progress.end(ok=output.error is None)
        return replace(output, duration_ns=self._clock.now_ns() - started)

    def inputs(self, batch: ScheduledBatch) -> InputBatch:
        """A step's tensors, valid until the next step's are asked for.

        Raises:
            ValueError: a row is out of range.
        """
        if batch.decodes is not None and not batch.chunks:
            return self._decode_inputs.next(batch.decodes)
        return build(batch.rows, self.shape, self.pool, self.model.exact)

    def forward(self, batch: ScheduledBatch, score: ScoreHook | None = None) -> Tensor:
        """Compute KV for the rows' tokens; [sampled rows, vocab] float32 logits.

        Args:
            score: given the logits of what the rows ask to be scored; see `Model.forward`.

        Raises:
            ValueError: a row is out of range.
        """
        inputs = self.inputs(batch)
        return self.model.forward(inputs, self.pool, self.progress.layers_done, score)

    def _run(self, batch: ScheduledBatch) -> StepOutput:
        scored = Scores(batch.chunks)
        with torch.inference_mode():
            logits = self.forward(batch, scored.take if scored.asked else None)
            if not batch.chunks and batch.decodes is not None and self._are_plain(batch.decodes.samples):
                tokens = tuple(greedy(logits))
                return StepOutput(batch.step_id, tokens, logits_digests=self._digests_of(logits))
            return self._choose(batch, logits, scored)

    def _are_plain(self, samples: tuple[SampleSpec, ...]) -> bool:
        """Whether all take the likeliest token and tell no more of it; the last answer holds for the same requests."""
        if samples is not self._last_samples:
            self._last_samples = samples
            self._last_plain = all(is_plain(spec) and spec.logprobs is None for spec in samples)
        return self._last_plain

    def _digests_of(self, logits: Tensor) -> tuple[str, ...]:
        """One a row, in test mode."""
        return tuple(digest_of(row) for row in logits) if self._digests else ()

    def _choose(self, batch: ScheduledBatch, logits: Tensor, scored: Scores) -> StepOutput:
        """Each row's token, and whatever its request wants to know of it."""
        rows = batch.rows
        sampled = [(row, row.sample) for row in rows if row.sample is not None]
        masks, refused = self._masks(sampled)
        tokens = sample(
            logits,
            [spec for _, spec in sampled],
            [row.end for row, _ in sampled],
            [row.outputs for row, _ in sampled],
            masks,
        )
        told = {
            row.request_id: token_logprob(logits[place], tokens[place], spec.logprobs)
            for place, (row, spec) in enumerate(sampled)
            if spec.logprobs is not None
        }
        drawn, hashed = iter(tokens), iter(self._digests_of(logits))
        return StepOutput(
            batch.step_id,
            tokens=tuple(None if row.sample is None else next(drawn) for row in rows),
            logits_digests=tuple("" if row.sample is None else next(hashed) for row in rows) if self._digests else (),
            logprobs=tuple(told.get(row.request_id) for row in rows) if told else (),
            scores=scored.by_row(len(rows)),
            refused=refused,
        )

    def _masks(self, sampled: Sequence[tuple[Row, SampleSpec]]) -> tuple[dict[int, Mask], tuple[tuple[str, str], ...]]:
        """What may follow in rows with a grammar, by their places; (request id, why) where that cannot be told."""
        masks: dict[int, Mask] = {}
        refused = []
        for place, (row, spec) in enumerate(sampled):
            if spec.grammar:
                try:
                    if self.grammars is None:
                        raise GrammarError("this worker has no tokenizer")
                    masks[place] = self.grammars.allowed(row.request_id, spec, row.end, row.outputs)
                except GrammarError as error:
                    refused.append((row.request_id, str(error)))
        return masks, tuple(refused)

    def self_test(self) -> list[str]:
        """Check on this machine that a token's logits do not depend on chunking or batch, bit by bit.

        Runs a few hundred tokens in a small pool of its own; the worker's KV is not touched.

        Returns:
            One line for each check that failed.
        """
        ids = self._probe_ids()
        count = len(ids)
        whole = self._probe(ids)
        chunked = self._probe(ids, (5 * count // 7, count - 3, count - 2))
        shared = self._probe(ids, (count - 1,), other=ids[:33])
        found = [] if torch.equal(whole, chunked) else ["logits depend on how a prompt is chunked"]
        return found + ([] if torch.equal(whole, shared) else ["logits depend on who shares the batch"])

    def set_threads(self, threads: int) -> None:
        """Threads of the steps that follow; called by the thread that runs them, between two of them."""
        torch.set_num_threads(threads)

    def compare_threads(self, first: int, second: int) -> None:
        """See on this machine whether a decode step's bits depend on its number of threads; sets `any_threads`."""
        ids = self._probe_ids()
        found = []
        for threads in (second, first):
            self.set_threads(threads)
            found.append(self._probe(ids, (len(ids) - 2, len(ids) - 1)))
        self.any_threads = torch.equal(*found)
        if not self.any_threads:
            self.notes += ("logits depend on the number of threads; this worker borrows no cores",)

    def _probe_ids(self) -> tuple[int, ...]:
        """A prompt of 140 tokens, or as many as the model was made for."""
        count = min(SELF_TEST_TOKENS, self.shape.max_position)
        return tuple((7 + 13 * position) % self.shape.vocab for position in range(count))

    def _probe(self, ids: tuple[int, ...], cuts: tuple[int, ...] = (), other: tuple[int, ...] = ()) -> Tensor:
        """Logits of the last token after running one request in chunks that end at `cuts`, each beside `other`."""
        shape, size = self.shape, self.pool.block_size
        table = tuple(range(-(-len(ids) // size)))
        beside = tuple(range(len(table), 2 * len(table)))
        pool = PagedKvPool(
            shape.num_layers, 2 * len(table), shape.kv_heads, size, shape.head_dim, self.pool.dtype
        )  # its memory goes back at the end
        greedy = SampleSpec(0.0, 0)
        logits = torch.empty(0)
        with torch.inference_mode():
            for start, end in pairwise(sorted({0, len(ids), *(max(0, cut) for cut in cuts)})):
                rows = [Row("self-test-other", other, 0, beside, greedy)] if other else []
                rows.append(Row("self-test", ids[start:end], start, table, greedy))
                batch = build(rows, shape, pool, self.model.exact)
                logits = self.model.forward(batch, pool)[-1]
        return logits


def digest_of(logits: Tensor) -> str:
    """SHA-256 in hex of one row's float32 logits [vocab]."""
    return hashlib.sha256(logits.contiguous().numpy().tobytes()).hexdigest()


def check_memory(shape: ModelShape, dtype: str, pool_bytes: int, available_bytes: int) -> None:
    """Refuse to start what would not fit.

    Raises:
        MemoryShortError: with what is needed, what there is, and what to change.
    """
    weights = shape.weight_bytes(dtype)
    needed = weights + pool_bytes + ACTIVATION_BYTES
    if needed > available_bytes:
        raise MemoryShortError(
            f"a worker needs {needed >> 20} MB (weights {weights >> 20}, KV pool {pool_bytes >> 20}, work space "
            f"{ACTIVATION_BYTES >> 20}) and {available_bytes >> 20} MB are free; lower cache.memory_bytes, use "
            "model.dtype float16, or start fewer workers"
        )


def load_runner(
    folder: Path, dtype: str, pool_bytes: int, block_size: int, threads: int, testing_digests: bool = False
) -> ModelRunner:
    """Everything a worker needs to run steps. Sets torch's threads for the whole process.

    Args:
        folder: Hugging Face folder, as `prepare_model` returns it.
        pool_bytes: size of the KV pool; it takes memory only as blocks are first written.

    Raises:
        ModelError: the folder cannot be served.
        MemoryShortError: weights and pool do not fit.
    """
    torch.set_num_threads(threads)
    check_memory(read_shape(folder), dtype, pool_bytes, psutil.virtual_memory().available)
    shape, tensors = load_tensors(folder)
    num_blocks = num_blocks_for(pool_bytes, shape, block_size, dtype)
    kv_dtype: torch.dtype = getattr(torch, KV_DTYPE[dtype])
    pool = PagedKvPool(shape.num_layers, num_blocks, shape.kv_heads, block_size, shape.head_dim, kv_dtype)
    runner = ModelRunner(Model(shape, tensors, dtype), pool, testing_digests)
    runner.grammars = Grammars(folder, shape.vocab)
    del tensors
    trim_heap()
    if dtype == "float32":  # the one dtype that promises bits
        runner.notes += tuple(runner.self_test())
    return runner
