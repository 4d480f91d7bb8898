"""Paged attention over block tables, summed in fixed tiles of keys so that no bit depends on the batch or the chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.engine.kv_pool import PagedKvPool

# Keys are summed tile by tile from position 0 on. A tile behind a query's position adds exact zeros, so a query's
# result is the same whether its step looks at just enough tiles (decode) or at more of them (a prefill chunk). So do
# tiles before the first key that a sliding window still shows.
TILE_TOKENS = 128
TILE_MULTIPLE = 32  # elementwise operators compute the odd numbers at the end of a buffer in another way than the rest
QUERY_CHUNK = 128
# The batched product is bit-equal from 3 rows on (measured as in layers.py); short queries repeat their last row.
MIN_ROWS = 8


def as_tensor(numbers: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
    """int64 tensor of a list; by way of numpy, which reads lists several times as fast as torch."""
    return torch.from_numpy(np.array(numbers, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive query tokens of one sequence.

    Attributes:
        first_token: index of the first among the step's tokens.
        count: how many.
        position: position of the first in its sequence.
        blocks: KV blocks of the sequence, at least up to the last query.
    """

    first_token: int
    count: int
    position: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Spans of equal length that are computed together.

    Attributes:
        tokens: [sequences, queries] indices among the step's tokens; rows that only pad repeat the last one.
        count: queries of each sequence that are not padding.
        pages: [2 * sequences * kv_heads * blocks] rows of a layer's pages, K first.
        bias: [sequences, queries, keys] 0 where a key is seen, -inf where not.
        tile: keys that are summed together.
    """

    tokens: Tensor
    count: int
    pages: Tensor
    bias: Tensor
    tile: int


def plan(spans: Sequence[Span], pool: PagedKvPool, group_size: int, window: int | None = None) -> list[AttentionGroup]:
    """Cut spans into query chunks and group those that can share one batched product.

    Long chunks stand alone. Short ones (decode rows) share a group when their numbers of tiles are close, so that
    padding the shorter ones costs at most a quarter.

    Args:
        group_size: query heads that share one KV head.
        window: how many keys a query sees, its own included; None: all.
    """
    tile_blocks = _tile_blocks(pool.block_size)
    groups: list[AttentionGroup] = []
    short: dict[tuple[int, int], list[Span]] = {}
    for span in spans:
        if span.count * group_size <= MIN_ROWS:
            tiles = len(_tiles(span, tile_blocks * pool.block_size, window))
            short.setdefault((span.count, _bucket(tiles)), []).append(span)
            continue
        for start in range(0, span.count, QUERY_CHUNK):
            count = min(QUERY_CHUNK, span.count - start)
            chunk = Span(span.first_token + start, count, span.position + start, span.blocks)
            groups.append(_group([chunk], pool, group_size, tile_blocks, window))
    return groups + [_group(members, pool, group_size, tile_blocks, window) for members in short.values()]


def _bucket(tiles: int) -> int:
    """`tiles` rounded up so that few values are left, none more than a quarter above."""
    step = 1 << max(0, (tiles - 1).bit_length() - 3)
    return -(-tiles // step) * step


def _tile_blocks(block_size: int) -> int:
    """Blocks in a tile: at least 128 tokens, and a multiple of 32."""
    step = math.lcm(block_size, TILE_MULTIPLE)
    return -(-TILE_TOKENS // step) * step // block_size


def _tiles(span: Span, tile: int, window: int | None) -> range:
    """Tiles of `tile` keys that the span's queries see anything of."""
    first = 0 if window is None else max(0, span.position - window + 1) // tile
    return range(first, -(-(span.position + span.count) // tile))


def _group(
    spans: Sequence[Span], pool: PagedKvPool, group_size: int, tile_blocks: int, window: int | None
) -> AttentionGroup:
    count = spans[0].count
    queries = max(count, -(-MIN_ROWS // group_size))
    tile = tile_blocks * pool.block_size
    tiles = [_tiles(span, tile, window) for span in spans]
    width = tile_blocks * max(map(len, tiles))  # blocks of each sequence, padded
    steps = torch.arange(queries).clamp_max(count - 1)
    tokens = as_tensor([span.first_token for span in spans]).unsqueeze(1) + steps
    positions = as_tensor([span.position for span in spans]).unsqueeze(1) + steps
    # [sequences, queries, keys], how far behind its query a key stands
    first_keys = as_tensor([seen.start * tile for seen in tiles]).view(-1, 1, 1)
    distances = positions.unsqueeze(2) - first_keys - torch.arange(width * pool.block_size)
    unseen = distances < 0 if window is None else (distances < 0) | (distances >= window)
    bias = torch.zeros(unseen.shape).masked_fill_(unseen, float("-inf"))
    tables = as_tensor(
        [_blocks(span, seen.start * tile_blocks, width) for span, seen in zip(spans, tiles, strict=True)]
    )
    side = torch.arange(2).view(2, 1, 1, 1) * pool.num_blocks
    head = torch.arange(pool.num_kv_heads).view(1, 1, -1, 1)
    pages = (side + tables.unsqueeze(1)) * pool.num_kv_heads + head  # [2, sequences, kv_heads, width]
    return AttentionGroup(tokens, count, pages.flatten(), bias, tile)


def _blocks(span: Span, first: int, width: int) -> tuple[int, ...]:
    """`width` blocks from number `first` on, padded with the span's own last one: never with another request's."""
    found = span.blocks[first : first + width]
    return found + span.blocks[-1:] * (width - len(found))


def attend(q: Tensor, layer_pages: Tensor, groups: Sequence[AttentionGroup], out: Tensor) -> None:
    """softmax(q · Kᵀ / sqrt(head_dim)) · V for every query, with K and V read through the block tables.

    Args:
        q: [tokens, heads, head_dim] float32.
        layer_pages: [2, num_blocks, kv_heads, block_size, head_dim], one layer of the pool.
        out: [tokens, heads, head_dim] float32, written.
    """
    _, _, kv_heads, block_size, head_dim = layer_pages.shape
    group_size = q.shape[1] // kv_heads
    flat_pages = layer_pages.view(-1, block_size * head_dim)
    scale = math.log2(math.e) * head_dim**-0.5  # powers of two instead of e: see _softmax_times
    for group in groups:
        sequences, queries, width = group.bias.shape
        batch, rows = sequences * kv_heads, group_size * queries
        keys, values = flat_pages.index_select(0, group.pages).float().view(2, batch, width, head_dim)
        own = q.index_select(0, group.tokens.flatten()).mul_(scale)
        own = own.view(sequences, queries, kv_heads, group_size, head_dim).permute(0, 2, 3, 1, 4)
        scores = torch.bmm(own.reshape(batch, rows, head_dim), keys.transpose(1, 2))
        scores.view(sequences, kv_heads * group_size, queries, width).add_(group.bias.unsqueeze(1))
        mixed = _softmax_times(scores, values, group.tile)
        mixed = mixed.view(sequences, kv_heads, group_size, queries, head_dim)[:, :, :, : group.count]
        answer = mixed.permute(0, 3, 1, 2, 4).reshape(-1, kv_heads * group_size, head_dim)
        out.index_copy_(0, group.tokens[:, : group.count].flatten(), answer)


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
