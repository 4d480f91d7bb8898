"""The checksum: exact against plain integers, sensitive to whatever can go wrong, additive over the heads of ranks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from services.engine.checksum import _column_weights, _row_weights, checksum

SHAPE = (2, 2, 5, 3, 16, 64)  # layers, K and V, blocks, heads, block_size, head_dim


@pytest.fixture
def staging() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [SHAPE, (1, 2, 1, 1, 1, 2), (3, 2, 7, 2, 4, 6)])
def test_it_is_the_weighted_sum_of_words(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    staging = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    columns = shape[4] * shape[5] * dtype.itemsize // 4
    words = staging.view(torch.int32).view(-1, columns).tolist()
    row_weights = _row_weights(shape[0], shape[2], shape[3], 0)[0].tolist()
    column_weights = _column_weights(columns)[:, 0].tolist()
    total = 0
    for row, row_weight in zip(words, row_weights, strict=True):
        for word, column_weight in zip(row, column_weights, strict=True):
            total += row_weight * column_weight * word
    assert checksum(staging) == total % 2**32


def test_weights_are_odd_and_differ() -> None:
    rows = _row_weights(30, 32, 8, 0)
    columns = _column_weights(4096)
    assert (rows & 1).all()
    assert (columns & 1).all()
    assert rows.unique().numel() == rows.numel()
    assert columns.unique().numel() == columns.numel()


def test_every_flipped_bit_shows(staging: Tensor) -> None:
    """All bits of some words, and one bit of every word of a page."""
    right = checksum(staging)
    words = staging.view(torch.int32).view(-1)
    page = 2 * 16 * 64  # where some page begins
    flips = [(at, bit) for at in (0, 777, words.numel() - 1) for bit in range(32)]
    flips += [(page + at, (5 * at) % 32) for at in range(16 * 64)]
    for at, bit in flips:
        mask = -(2**31) if bit == 31 else 1 << bit
        words[at] ^= mask
        assert checksum(staging) != right, (at, bit)
        words[at] ^= mask
    assert checksum(staging) == right


@pytest.mark.parametrize(
    ("dim", "first", "second"),
    [(0, 0, 1), (1, 0, 1), (2, 0, 4), (2, 2, 3), (3, 0, 2), (4, 0, 15), (4, 7, 8), (5, 0, 1), (5, 62, 63)],
    ids=["layers", "K and V", "far blocks", "near blocks", "heads", "far tokens", "near tokens", "dims", "last dims"],
)
def test_whatever_is_swapped_shows(staging: Tensor, dim: int, first: int, second: int) -> None:
    order = list(range(SHAPE[dim]))
    order[first], order[second] = second, first
    assert checksum(staging.index_select(dim, torch.tensor(order)).contiguous()) != checksum(staging)


def test_one_swapped_page_and_one_zeroed_page_show(staging: Tensor) -> None:
    right = checksum(staging)
    changed = staging.clone()
    changed[0, 0, 1, 2], changed[1, 1, 4, 0] = staging[1, 1, 4, 0], staging[0, 0, 1, 2]
    assert checksum(changed) != right
    for layer, plane, block in ((0, 0, 0), (1, 1, 4), (0, 1, 2)):
        changed = staging.clone()
        changed[layer, plane, block] = 0
        assert checksum(changed) != right


@pytest.mark.parametrize("split", [(0, 1, 3), (0, 2, 3), (0, 1, 2, 3)], ids=["1+2 heads", "2+1 heads", "1+1+1 heads"])
def test_sums_of_ranks_over_their_heads_add_up(staging: Tensor, split: tuple[int, ...]) -> None:
    parts = [checksum(staging[:, :, :, first:stop].contiguous(), first) for first, stop in pairwise(split)]
    assert sum(parts) % 2**32 == checksum(staging)
