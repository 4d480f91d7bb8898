"""A step's rows as tensors: flat ids, positions, KV slots and the plan of its attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.core.batch import Row
from services.engine.attention import AttentionGroup, Span, as_tensor, plan
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
        groups: the attention of every token, for each window that a layer of the model has.
        sampled: [sampled rows] int64, the last token of each row that asks for a sample.
        scored: [scored tokens] int64, the tokens whose successors' log-probabilities are asked for.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    groups: dict[int | None, list[AttentionGroup]]
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
        what = f"request {row.request_id}"
        if not row.token_ids or row.start < 0 or row.end > shape.max_position:
            raise ValueError(f"{what}: positions {row.start}..{row.end} are not within 0..{shape.max_position}")
        if min(row.token_ids) < 0 or max(row.token_ids) >= shape.vocab:
            raise ValueError(f"{what}: a token id is not within 0..{shape.vocab - 1}")
        if row.score is not None and len(row.score.targets) > len(row.token_ids):
            raise ValueError(f"{what}: {len(row.score.targets)} targets for {len(row.token_ids)} tokens")
        if row.score is not None and not all(0 <= target < shape.vocab for target in row.score.targets):
            raise ValueError(f"{what}: a target is not within 0..{shape.vocab - 1}")
        if len(row.block_table) * pool.block_size < row.end:
            raise ValueError(f"{what}: {len(row.block_table)} blocks do not cover {row.end} tokens")
        if min(row.block_table) < 0 or max(row.block_table) >= pool.num_blocks:
            raise ValueError(f"{what}: a block id is not within 0..{pool.num_blocks - 1}")


def build(rows: Sequence[Row], shape: ModelShape, pool: PagedKvPool) -> InputBatch:
    """The tensors of a step.

    Raises:
        ValueError: a row is out of range; see `check_rows`.
    """
    check_rows(rows, shape, pool)
    token_ids: list[int] = []
    positions: list[int] = []
    blocks: list[int] = []
    spans: list[Span] = []
    sampled: list[int] = []
    scored: list[int] = []
    size = pool.block_size
    for row in rows:
        spans.append(Span(len(token_ids), len(row.token_ids), row.start, row.block_table))
        token_ids += row.token_ids
        positions += range(row.start, row.end)
        blocks += [row.block_table[position // size] for position in range(row.start, row.end)]
        if row.score is not None:
            scored += range(spans[-1].first_token, spans[-1].first_token + len(row.score.targets))
        if row.sample is not None:
            sampled.append(len(token_ids) - 1)
    position = as_tensor(positions)
    side = torch.arange(2).view(1, 2, 1) * pool.num_blocks
    page = (side + as_tensor(blocks).view(-1, 1, 1)) * pool.num_kv_heads + torch.arange(pool.num_kv_heads)
    slots = page * size + (position % size).view(-1, 1, 1)  # [tokens, 2, kv_heads]
    group_size = shape.heads // shape.kv_heads
    groups = {window: plan(spans, pool, group_size, window) for window in dict.fromkeys(shape.windows)}
    return InputBatch(as_tensor(token_ids), position, slots.flatten(), groups, as_tensor(sampled), as_tensor(scored))
