"""Checksum of staged KV: int32 words times odd weights, summed modulo 2**32 (architecture section 6).

The weight of a word is odd, so a flipped bit always shows. It depends on layer, K or V, block, global head, place in
the block and dimension, so that anything in the wrong place shows. It does not depend on which rank holds the head: the
sums of several ranks over their own heads add up to the sum over all heads.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_PLANE, _BLOCK, _HEAD, _WORD = range(1, 5)  # one stream of weights for each index


def checksum(staging: Tensor, first_kv_head: int = 0) -> int:
    """Sum of weight x word modulo 2**32.

    One matrix product of the row weights with the words reads the buffer once, at 20 GB/s on one core; multiplying
    elementwise and summing reads and writes it twice, at 6 GB/s. The arithmetic is int32 and wraps, so it is exact.

    Args:
        staging: contiguous [layers, 2 (K, V), blocks, heads, block_size, head_dim] of any dtype; block_size x head_dim
            values must fill whole words.
        first_kv_head: global number of the first head in `staging`.
    """
    layers, _, blocks, heads, block_size, head_dim = staging.shape
    columns = block_size * head_dim * staging.itemsize // 4
    words = staging.view(torch.int32).view(-1, columns)  # [layers * 2 * blocks * heads, columns]
    by_column = torch.mm(_row_weights(layers, blocks, heads, first_kv_head), words)
    return int(torch.mm(by_column, _column_weights(columns))) & 0xFFFFFFFF


@lru_cache(maxsize=64)
def _row_weights(layers: int, blocks: int, heads: int, first_kv_head: int) -> Tensor:
    """[1, layers * 2 * blocks * heads] int32: products of odd numbers are odd."""
    plane = _odd(_PLANE, layers * 2)[:, None, None]
    head = _odd(_HEAD, first_kv_head + heads)[first_kv_head:]
    return (plane * _odd(_BLOCK, blocks)[:, None] * head).view(1, -1)


@lru_cache(maxsize=8)
def _column_weights(columns: int) -> Tensor:
    """[columns, 1] int32, odd."""
    return _odd(_WORD, columns).view(-1, 1)


def _odd(stream: int, count: int) -> Tensor:
    """[count] odd int32 numbers without pattern: a 64-bit mix of the index (SplitMix64), the same in every process."""
    mixed = (torch.arange(count, dtype=torch.int64) + (stream << 32)) * -0x61C8864680B583EB
    mixed = (mixed ^ (mixed >> 30)) * -0x40A7B892E31B1A47
    mixed = (mixed ^ (mixed >> 27)) * -0x6B2FB644ECCEEE15
    return (mixed >> 32).to(torch.int32) | 1
