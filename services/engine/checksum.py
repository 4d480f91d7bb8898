"""Checksum of staged KV: int32 words times odd weights, summed modulo 2**32 (architecture section 6)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def _weights(rows: int, words: int) -> tuple[Tensor, Tensor]:
    """Odd int32 weights for [rows] and [words]; a product of two odd numbers is odd."""
    generator = torch.Generator().manual_seed(0x7219)
    row = torch.randint(-(2**31), 2**31, (1, rows), generator=generator, dtype=torch.int64).to(torch.int32) | 1
    word = torch.randint(-(2**31), 2**31, (words,), generator=generator, dtype=torch.int64).to(torch.int32) | 1
    return row, word


def checksum(staging: Tensor) -> int:
    """Sum of weight x word modulo 2**32 over a contiguous staging buffer [layers, 2, blocks, heads, block, dim]."""
    words = staging.view(torch.int32).reshape(-1, staging.shape[-2] * staging.shape[-1] * staging.itemsize // 4)
    row, word = _weights(words.shape[0], words.shape[1])
    return int((torch.mm(row, words)[0] * word).sum(dtype=torch.int32)) & 0xFFFFFFFF
