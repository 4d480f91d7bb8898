"""Paged attention over block tables; exact steps sum keys in fixed tiles, so that no bit depends on the batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.engine.kv_pool import PagedKvPool

Ints = npt.NDArray[np.int64]

# Keys of an exact step are summed tile by tile from position 0 on. A tile behind a query's position adds exact zeros,
# so a query's result is the same whether its step looks at just enough tiles (decode) or at more of them (a chunk).
# So do tiles before the first key that a sliding window still shows.
TILE_TOKENS = 128
TILE_MULTIPLE = 32  # elementwise operators compute the odd numbers at the end of a buffer in another way than the rest
QUERY_CHUNK = 128
# The batched product is bit-equal from 3 rows on (measured as in layers.py); exact short queries repeat their last row.
EXACT_MIN_ROWS = 8
SHORT_ROWS = 8
# Keys and values are copied page by page in front of every product: what is copied at once should stay in the cache.
GATHER_BYTES = 8 * 2**20


class Span(NamedTuple):
    """Consecutive query tokens of one sequence.

    Attributes:
        first_token: index of the first among the step's tokens.
        queries: how many.
        position: position of the first in its sequence.
        blocks: KV blocks of the sequence, at least up to the last query.
    """

    first_token: int
    queries: int
    position: int
    blocks: Sequence[int]


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Spans of equal length that are computed together, as one batched product per (sequence, KV head).

    Attributes:
        queries: [batch * rows] query heads among the step's heads, seen as [tokens * (heads + 2 * kv_heads), head_dim].
        batch: sequences * kv_heads.
        rows: query heads of a KV head times queries; where they are padded, the last query is repeated.
        pages: [2 * batch * blocks] rows of a layer's pages, K first.
        bias: [1 or batch, 1 or rows, keys] float32, 0 where a key is seen, -inf where not.
        tile: keys that are summed together; 0: in any order.
    """

    queries: Tensor
    batch: int
    rows: int
    pages: Tensor
    bias: Tensor
    tile: int


class _Shape(NamedTuple):
    """What the groups of a plan have in common; `unit`: blocks that lengths are rounded up to."""

    pool: PagedKvPool
    group_size: int
    unit: int
    window: int | None
    exact: bool


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The attention of a step's tokens.

    Attributes:
        groups: every query is in one of them.
        answers: [tokens * heads] where each one's result lies among the results of all groups, one after another;
            None: in order.
    """

    groups: list[AttentionGroup]
    answers: Tensor | None


def plan(
    spans: Iterable[Span], pool: PagedKvPool, group_size: int, window: int | None = None, exact: bool = True
) -> AttentionPlan:
    """Cut spans into query chunks and group those that can share one batched product.

    Long chunks stand alone. Short ones (decode rows) share a group when their lengths are close, so that padding the
    shorter ones costs at most a quarter.

    Args:
        group_size: query heads that share one KV head.
        window: how many keys a query sees, its own included; None: all.
        exact: whether a query's bits may depend on nothing but its own sequence.
    """
    unit = tile_blocks(pool.block_size) if exact else 1  # blocks that lengths are rounded up to
    unit_tokens = unit * pool.block_size
    parts: list[list[Span]] = []
    short: dict[tuple[int, int], list[Span]] = {}
    num_tokens = 0
    for span in spans:
        first, count, position, blocks = span
        num_tokens += count
        if count * group_size <= SHORT_ROWS:
            units = -(-(position + count) // unit_tokens) - _first_unit(position, unit_tokens, window)
            short.setdefault((count, _bucket(units)), []).append(span)
            continue
        for start in range(0, count, QUERY_CHUNK):
            parts.append([Span(first + start, min(QUERY_CHUNK, count - start), position + start, blocks)])
    sequence_bytes = 2 * unit_tokens * pool.num_kv_heads * pool.head_dim * 4
    for (_, units), members in short.items():
        most = max(1, GATHER_BYTES // (units * sequence_bytes))
        parts += [members[start : start + most] for start in range(0, len(members), most)]
    answers = np.empty((num_tokens, pool.num_kv_heads, group_size), dtype=np.int64)
    groups: list[AttentionGroup] = []
    done = 0
    shape = _Shape(pool, group_size, unit, window, exact)
    for members in parts:
        groups.append(_group(members, shape, answers, done))
        done += groups[-1].batch * groups[-1].rows
    flat = answers.reshape(-1)
    in_order = done == len(flat) and bool((flat == np.arange(done)).all())
    return AttentionPlan(groups, None if in_order else torch.from_numpy(flat))


@cache
def _bucket(units: int) -> int:
    """`units` rounded up so that few values are left, none more than a quarter above."""
    step = 1 << max(0, (units - 1).bit_length() - 3)
    return -(-units // step) * step


def tile_blocks(block_size: int) -> int:
    """Blocks in a tile: at least 128 tokens, and a multiple of 32."""
    step = math.lcm(block_size, TILE_MULTIPLE)
    return -(-TILE_TOKENS // step) * step // block_size


def _first_unit(position: int, unit_tokens: int, window: int | None) -> int:
    """The first unit of keys that a query at `position` sees anything of."""
    return 0 if window is None else max(0, position - window + 1) // unit_tokens


def _group(spans: list[Span], shape: _Shape, answers: Ints, done: int) -> AttentionGroup:
    """One group; where its results will lie, from `done` on, is written into `answers`."""
    pool, group_size, unit, window, exact = shape
    firsts, counts, starts, tables = zip(*spans, strict=True)
    count, kv_heads, size = counts[0], pool.num_kv_heads, pool.block_size
    queries = max(count, -(-EXACT_MIN_ROWS // group_size)) if exact else count
    step = np.minimum(np.arange(queries), count - 1)
    tokens = np.array(firsts)[:, None] + step  # [sequences, queries]
    positions = np.array(starts)[:, None] + step
    heads = np.arange(kv_heads * group_size).reshape(1, kv_heads, group_size, 1)
    rows = tokens[:, None, None] * (kv_heads * (group_size + 2)) + heads  # [sequences, kv_heads, group_size, queries]
    places = np.arange(done, done + rows.size).reshape(rows.shape)
    answers[tokens[:, :count]] = places[..., :count].transpose(0, 3, 1, 2)

    before = np.array([_first_unit(start, unit * size, window) for start in starts])  # units that nothing is seen of
    width = int((-(-(np.array(starts) + count) // (unit * size)) - before).max()) * unit  # blocks, padded
    pages = _padded(tables, before * unit, width)[:, None] * kv_heads + np.arange(kv_heads)[:, None]
    pages = np.stack((pages, pages + pool.num_blocks * kv_heads))  # [2, sequences, kv_heads, width]
    shown = positions[:, None, :1] if count == 1 else np.tile(positions[:, None], (1, group_size, 1))
    shown = shown.reshape(len(spans), -1)  # [sequences, 1 or rows]
    behind = (shown - before[:, None] * unit * size)[..., None] - np.arange(width * size)  # keys behind their query
    seen = behind >= 0 if window is None else (behind >= 0) & (behind < window)
    bias = torch.from_numpy(np.where(seen, np.float32(0), np.float32("-inf")))
    if len(spans) > 1:
        bias = bias.repeat_interleave(kv_heads, 0)
    return AttentionGroup(
        torch.from_numpy(rows.reshape(-1)),
        len(spans) * kv_heads,
        group_size * queries,
        torch.from_numpy(pages.reshape(-1)),
        bias,
        unit * size if exact else 0,
    )


def _padded(tables: Sequence[Sequence[int]], begins: Ints, width: int) -> Ints:
    """[tables, width]: each table from its entry in `begins` on, cut or filled up with its own last block.

    What a sequence does not see is thus still never another request's.
    """
    lengths = np.array([len(table) for table in tables])
    flat = np.fromiter(chain.from_iterable(tables), np.int64, int(lengths.sum()))
    first = lengths.cumsum() - lengths
    taken: Ints = flat[first[:, None] + np.minimum(begins[:, None] + np.arange(width), lengths[:, None] - 1)]
    return taken


def attend(heads: Tensor, layer_pages: Tensor, step: AttentionPlan) -> Tensor:
    """softmax(q · Kᵀ / sqrt(head_dim)) · V for every query, with K and V read through the block tables.

    Args:
        heads: [tokens, heads + 2 * kv_heads, head_dim] float32, contiguous; the query heads come first.
        layer_pages: [2, num_blocks, kv_heads, block_size, head_dim], one layer of the pool.

    Returns:
        [tokens, heads * head_dim] float32.
    """
    block_size, head_dim = layer_pages.shape[-2:]
    flat_heads, flat_pages = heads.view(-1, head_dim), layer_pages.view(-1, block_size * head_dim)
    scale = head_dim**-0.5
    mixed = []
    for group in step.groups:
        own = flat_heads.index_select(0, group.queries).view(group.batch, group.rows, head_dim)
        gathered = flat_pages.index_select(0, group.pages).float()
        keys, values = gathered.view(2, group.batch, -1, head_dim).unbind()
        if group.tile:  # three operators instead of one: MKL adds and scales in an order that depends on the rows
            scores = torch.bmm(own.mul_(scale * math.log2(math.e)), keys.transpose(1, 2)).add_(group.bias)
            mixed.append(_softmax_times(scores, values, group.tile))
        else:
            scores = torch.baddbmm(group.bias, own, keys.transpose(1, 2), alpha=scale)
            mixed.append(torch.bmm(scores.softmax(-1), values))
    whole = mixed[0] if len(mixed) == 1 else torch.cat([part.view(-1, head_dim) for part in mixed])
    if step.answers is not None:
        whole = whole.view(-1, head_dim).index_select(0, step.answers)
    return whole.view(len(heads), -1)


def _softmax_times(scores: Tensor, values: Tensor, tile: int) -> Tensor:
    """softmax over the last dimension, times values, with every sum over keys taken tile by tile from the left.

    2^x is the vector library's own and takes the same time for every x; torch's e^x becomes 7 times as slow where it
    gives zero, which is what a mask is for.

    Args:
        scores: [batch, rows, width], in units of log2; overwritten.
        values: [batch, width, head_dim].

    Returns:
        [batch, rows, head_dim].
    """
    scores.sub_(scores.amax(-1, keepdim=True)).exp2_()
    sums = scores.view(*scores.shape[:2], -1, tile).sum(-1)  # [batch, rows, tiles]
    total = sums.cumsum(-1)[..., -1:]  # in order, so that tiles of zeros at the end change nothing
    mixed = torch.bmm(scores[..., :tile], values[:, :tile])
    for start in range(tile, values.shape[1], tile):
        mixed.baddbmm_(scores[..., start : start + tile], values[:, start : start + tile])
    return mixed.div_(total)
