"""A step's rows as tensors: flat ids, positions, KV slots and the plan of its attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from services.core.batch import Row
from services.engine.attention import AttentionPlan, Span, plan
from services.engine.kv_pool import PagedKvPool
from services.engine.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class InputBatch:
    """All rows of one step, flattened: the tokens of row 0, then those of row 1, ...

    Attributes:
        token_ids: [tokens] int64.
        positions: [tokens] int64.
        slots: [tokens * 2 * kv_heads] int64, where each token's K heads, then V heads, go among the rows of a layer's
            pages seen as [2 * num_blocks * kv_heads * block_size, head_dim].
        attention: the attention of every token, for each window that a layer of the model has.
        sampled: [sampled rows] int64, the last token of each row that asks for a sample.
        scored: [scored tokens] int64, the tokens whose successors' log-probabilities are asked for.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    attention: dict[int | None, AttentionPlan]
    sampled: Tensor
    scored: Tensor


def check_rows(rows: Sequence[Row], shape: ModelShape, pool: PagedKvPool) -> None:
    """Refuse rows that would read or write outside the vocabulary, the context window or the pool.

    Raises:
        ValueError: with the request and the number that is out of range.
    """
    if not rows:
        raise ValueError("a step needs at least one row")
    for row in rows:
        ids, start, table = row.token_ids, row.start, row.block_table
        end = start + len(ids)
        if not ids or start < 0 or end > shape.max_position:
            raise ValueError(f"{_of(row)}: positions {start}..{end} are not within 0..{shape.max_position}")
        if min(ids) < 0 or max(ids) >= shape.vocab:
            raise ValueError(f"{_of(row)}: a token id is not within 0..{shape.vocab - 1}")
        score = row.score
        if score is not None and len(score.targets) > len(ids):
            raise ValueError(f"{_of(row)}: {len(score.targets)} targets for {len(ids)} tokens")
        if score is not None and not all(0 <= target < shape.vocab for target in score.targets):
            raise ValueError(f"{_of(row)}: a target is not within 0..{shape.vocab - 1}")
        if len(table) * pool.block_size < end:
            raise ValueError(f"{_of(row)}: {len(table)} blocks do not cover {end} tokens")
        if min(table) < 0 or max(table) >= pool.num_blocks:
            raise ValueError(f"{_of(row)}: a block id is not within 0..{pool.num_blocks - 1}")


def _of(row: Row) -> str:
    return f"request {row.request_id}"


def build(rows: Sequence[Row], shape: ModelShape, pool: PagedKvPool, exact: bool = True) -> InputBatch:
    """The tensors of a step, made in numpy: it reads lists several times as fast as torch.

    Args:
        exact: whether a row's bits may depend on nothing but its own sequence; see `attention.plan`.

    Raises:
        ValueError: a row is out of range; see `check_rows`.
    """
    check_rows(rows, shape, pool)
    size, kv_heads = pool.block_size, pool.num_kv_heads
    spans: list[Span] = []
    blocks: list[int] = []
    sampled: list[int] = []
    scored: list[int] = []
    done = 0
    for row in rows:
        start, table, count = row.start, row.block_table, len(row.token_ids)
        spans.append(Span(done, count, start, table))
        if row.score is not None:
            scored += range(done, done + len(row.score.targets))
        done += count
        if count == 1:
            blocks.append(table[start // size])
        else:
            blocks += [table[position // size] for position in range(start, start + count)]
        if row.sample is not None:
            sampled.append(done - 1)
    positions = np.fromiter(
        chain.from_iterable(range(s.position, s.position + s.queries) for s in spans), np.int64, done
    )
    token_ids = np.fromiter(chain.from_iterable(row.token_ids for row in rows), np.int64, done)
    heads = (np.arange(2)[:, None] * pool.num_blocks * kv_heads + np.arange(kv_heads)).reshape(-1)  # K, then V
    slots = (np.array(blocks)[:, None] * kv_heads + heads) * size + (positions % size)[:, None]
    group_size = shape.heads // shape.kv_heads
    attention = {window: plan(spans, pool, group_size, window, exact) for window in dict.fromkeys(shape.windows)}
    return InputBatch(
        torch.from_numpy(token_ids),
        torch.from_numpy(positions),
        torch.from_numpy(slots.reshape(-1)),
        attention,
        torch.from_numpy(np.array(sampled, dtype=np.int64)),
        torch.from_numpy(np.array(scored, dtype=np.int64)),
    )
