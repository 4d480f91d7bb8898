"""A runner over several ranks: rank 0 runs steps and tells the others its rows; they compute and decide nothing."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from services.core.batch import Row, ScheduledBatch
from services.core.clock import Clock
from services.core.ports import LinkError, RunnerLost
from services.engine.checkpoint import read_shape
from services.engine.grammar import Grammars
from services.engine.kv_pool import PagedKvPool, num_blocks_for
from services.engine.model import Model, ScoreHook
from services.engine.model_runner import ModelRunner, check_memory
from services.engine.model_shape import KV_DTYPE
from services.engine.rank_group import RankGroup, Words
from services.engine.shard import shard_of
from services.engine.weights import load_shard

ROW_WORDS = 3
LOAD_S = 120.0
"""How long a rank that has loaded waits for the others."""


def encode_rows(step_id: int, rows: Sequence[Row]) -> Words:
    """What the other ranks need of a step: its id, each row's (tokens, start, blocks), all ids, all block ids."""
    words = array("q", [step_id, len(rows)])
    for row in rows:
        words.extend((len(row.token_ids), row.start, len(row.block_table)))
    for row in rows:
        words.extend(row.token_ids)
    for row in rows:
        words.extend(row.block_table)
    return np.frombuffer(words, dtype=np.int64)


def decode_rows(words: Words) -> tuple[int, list[Row]]:
    """The step id and the rows that `encode_rows` wrote, without names and samples."""
    step_id, count = words[:2].tolist()
    sizes = words[2 : 2 + ROW_WORDS * count].reshape(count, ROW_WORDS).tolist()
    rest = words[2 + ROW_WORDS * count :].tolist()
    blocks_at = sum(tokens for tokens, _, _ in sizes)
    token_at = 0
    rows = []
    for index, (tokens, start, blocks) in enumerate(sizes):
        ids, table = rest[token_at : token_at + tokens], rest[blocks_at : blocks_at + blocks]
        rows.append(Row(f"row {index}", tuple(ids), start, tuple(table), None))
        token_at += tokens
        blocks_at += blocks
    return step_id, rows


class TpRunner(ModelRunner):
    """Rank 0 of a tensor-parallel worker, as the `Runner` port.

    Args:
        model: of rank 0's shard, summing over `group`.
        pool: of rank 0's KV heads; block ids mean the same at every rank.
        group: all ranks of this worker; the others run `follow`.
    """

    def __init__(
        self,
        model: Model,
        pool: PagedKvPool,
        group: RankGroup,
        testing_digests: bool = False,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(model, pool, testing_digests, clock)
        self.group = group

    def forward(self, batch: ScheduledBatch, score: ScoreHook | None = None) -> Tensor:
        """Logits of the sampled and scored rows, as `Model.forward` gives them, computed by all ranks.

        Raises:
            RunnerLost: a rank is gone or silent, or the ranks have lost step.
        """
        inputs = self.inputs(batch)  # a bad row is refused before any rank hears of it
        try:
            self.group.send(encode_rows(batch.step_id, batch.rows), range(1, self.group.ranks))
            return self.model.forward(inputs, self.pool, self.progress.layers_done, score)
        except Exception as error:  # whatever it was, the other ranks are somewhere in the middle of a step
            self.group.close()
            raise RunnerLost(f"a rank was lost in a step: {error}") from error

    def close(self) -> None:
        """Tell the other ranks that no more steps come."""
        try:
            self.group.send([], range(1, self.group.ranks))
        except LinkError:
            self.group.close()


def follow(runner: ModelRunner, group: RankGroup) -> None:
    """Run rank 0's steps until it says that no more come.

    Args:
        runner: of this rank's shard.

    Raises:
        RunnerLost: rank 0 is gone or silent, or a step failed here; this rank must end.
    """
    try:
        while len(words := group.receive(0)):
            step_id, rows = decode_rows(words)
            runner.progress.begin(step_id)
            with torch.inference_mode():
                runner.forward(ScheduledBatch(step_id, tuple(rows)))
            runner.progress.end(ok=True)
    except Exception as error:
        group.close()
        raise RunnerLost(f"rank {group.rank} ends: {error}") from error


def load_rank(
    folder: Path,
    dtype: str,
    pool_bytes: int,
    block_size: int,
    threads: int,
    group: RankGroup,
    testing_digests: bool = False,
) -> ModelRunner:
    """What `load_runner` is to a worker of one rank; every rank calls it. Sets torch's threads for the whole process.

    Args:
        pool_bytes: of the whole worker; each rank holds the share of its KV heads, and all as many blocks.

    Returns:
        A `TpRunner` at rank 0; a runner for `follow` at the others.

    Raises:
        ConfigError: more ranks than KV heads.
        LinkError: another rank did not load.
        ModelError: the folder cannot be served.
        MemoryShortError: weights and pool do not fit.
    """
    torch.set_num_threads(threads)
    whole = read_shape(folder)
    shard = shard_of(whole, group.rank, group.ranks)
    num_blocks = num_blocks_for(pool_bytes, whole, block_size, dtype)
    share = pool_bytes * len(shard.kv_heads) // whole.kv_heads
    check_memory(shard.shape(whole), dtype, share, psutil.virtual_memory().available)
    shape, tensors = load_shard(folder, shard)
    pool = PagedKvPool(
        shape.num_layers,
        num_blocks,
        shape.kv_heads,
        block_size,
        shape.head_dim,
        getattr(torch, KV_DTYPE[dtype]),
        shard.kv_heads.start,
        whole.kv_heads,
    )
    model = Model(shape, tensors, dtype, group)
    runner = TpRunner(model, pool, group, testing_digests) if group.rank == 0 else ModelRunner(model, pool)
    runner.grammars = Grammars(folder, whole.vocab)  # rank 0 alone draws
    group.meet(LOAD_S)
    if dtype == "float32":  # the one dtype that promises bits
        runner.notes += tuple(runner.self_test())  # at all ranks at once, which sum as in any step
    return runner
