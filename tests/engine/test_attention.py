"""Paged attention against a plain float64 formula, and bit-equal results however queries are cut and grouped."""

import pytest
import torch

from services.engine.attention import GATHER_BYTES, Span, attend, plan
from services.engine.kv_pool import PagedKvPool
from services.engine.layers import probe_rows

HEAD_DIM = 16


def pool_of(block_size: int, kv_heads: int, num_blocks: int = 80) -> PagedKvPool:
    pool = PagedKvPool(1, num_blocks, kv_heads, block_size, HEAD_DIM, torch.float32)
    pool.data.copy_(probe_rows(1, pool.data.numel()).view(pool.data.shape))
    return pool


def table_of(length: int, block_size: int, num_blocks: int, seed: int) -> tuple[int, ...]:
    order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(seed))
    return tuple(order[: -(-length // block_size)].tolist())


def run(
    pool: PagedKvPool, q: torch.Tensor, spans: list[Span], window: int | None = None, exact: bool = True
) -> torch.Tensor:
    step = plan(spans, pool, q.shape[1] // pool.num_kv_heads, window, exact)
    kv = torch.full((len(q), 2 * pool.num_kv_heads, q.shape[2]), float("nan"))  # lies beside the queries, is not read
    return attend(torch.cat((q, kv), 1), pool.data[0], step).view(q.shape)


def plain(
    pool: PagedKvPool, q: torch.Tensor, position: int, blocks: tuple[int, ...], window: int | None = None
) -> torch.Tensor:
    """softmax(q · Kᵀ / sqrt(head_dim)) · V of one query [heads, head_dim] in float64, over its last `window` keys."""
    first = 0 if window is None else max(0, position - window + 1)
    k, v = pool.data[0][:, list(blocks)].double().transpose(1, 2).reshape(2, pool.num_kv_heads, -1, HEAD_DIM)
    repeat = q.shape[0] // pool.num_kv_heads
    k, v = (side[:, first : position + 1].repeat_interleave(repeat, dim=0) for side in (k, v))
    weights = torch.softmax(torch.einsum("hd,hkd->hk", q.double(), k) * HEAD_DIM**-0.5, dim=-1)
    return torch.einsum("hk,hkd->hd", weights, v)


@pytest.mark.parametrize(
    ("block_size", "window"),
    [(1, None), (5, None), (16, None), (128, None), (1, 1), (5, 100), (16, 16), (16, 128), (16, 129), (128, 127)],
)
@pytest.mark.parametrize(("heads", "kv_heads", "exact"), [(9, 3, True), (9, 3, False), (4, 4, True), (8, 1, False)])
def test_a_mixed_batch_matches_the_formula(
    block_size: int, window: int | None, heads: int, kv_heads: int, exact: bool
) -> None:
    pool = pool_of(block_size, kv_heads, num_blocks=max(8, 600 // block_size))
    spans, tokens = [], 0
    for seed, (position, count) in enumerate([(0, 1), (299, 1), (130, 1), (0, 140), (140, 7), (127, 2), (3, 1)]):
        spans.append(Span(tokens, count, position, table_of(position + count, block_size, pool.num_blocks, seed)))
        tokens += count
    q = probe_rows(tokens, heads * HEAD_DIM).view(tokens, heads, HEAD_DIM) * 2
    out = run(pool, q, spans, window, exact)
    for span in spans:
        for step in range(span.queries):
            expected = plain(pool, q[span.first_token + step], span.position + step, span.blocks, window)
            torch.testing.assert_close(out[span.first_token + step].double(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("chunk", "threads"), [(1, 1), (2, 1), (7, 1), (7, 2), (16, 1), (100, 1), (128, 1), (128, 2)])
@pytest.mark.parametrize("window", [None, 1, 100, 128, 200])
def test_bits_do_not_depend_on_the_chunk(chunk: int, threads: int, window: int | None) -> None:
    torch.set_num_threads(threads)
    pool = pool_of(16, 3)
    blocks = table_of(300, 16, 80, 1)
    q = probe_rows(300, 9 * HEAD_DIM).view(300, 9, HEAD_DIM)
    whole = run(pool, q, [Span(0, 300, 0, blocks)], window)
    pieces = [
        run(pool, q[start : start + chunk], [Span(0, min(chunk, 300 - start), start, blocks)], window)
        for start in range(0, 300, chunk)
    ]
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("window", [None, 1, 100, 128, 200])
def test_bits_do_not_depend_on_the_other_rows_of_the_batch(window: int | None) -> None:
    pool = pool_of(16, 3)
    tables = [table_of(290, 16, 80, seed) for seed in range(6)]
    lengths = [290, 270, 260, 33, 1, 129]
    q = probe_rows(6, 9 * HEAD_DIM).view(6, 9, HEAD_DIM)
    spans = [Span(row, 1, length - 1, tables[row]) for row, length in enumerate(lengths)]
    together = run(pool, q, spans, window)
    for row, span in enumerate(spans):
        alone = run(pool, q[row : row + 1], [Span(0, 1, span.position, span.blocks)], window)
        assert torch.equal(alone[0], together[row]), row


def test_what_lies_behind_the_end_of_a_sequence_changes_nothing() -> None:
    pool = pool_of(16, 3)
    blocks = (5, 9, 2)
    q = probe_rows(1, 9 * HEAD_DIM).view(1, 9, HEAD_DIM)
    before = run(pool, q, [Span(0, 1, 36, blocks)])
    pool.data[0][:, 2, :, 5:] = 1e30  # positions 37.. of this sequence's last block
    pool.data[0][:, 7] = -1e30  # somebody else's block
    assert torch.equal(run(pool, q, [Span(0, 1, 36, blocks)]), before)


def test_tiles_before_the_window_are_not_read() -> None:
    pool = pool_of(16, 3, num_blocks=600)
    span = Span(0, 1, 4999, tuple(range(313)))
    for window, tiles in [(136, 2), (137, 3), (300, 4), (5000, 40)]:  # of 128 keys; the query is the 8th of its tile
        (group,) = plan([span], pool, 3, window).groups
        assert group.bias.shape[2] == tiles * 128 and int((group.bias[0, 0] == 0).sum()) == window


def test_short_rows_share_groups_only_with_rows_of_like_length() -> None:
    pool = pool_of(16, 3, num_blocks=600)
    lengths = [10, 20, 100, 5000, 5100, 4900]
    spans = [Span(row, 1, length - 1, tuple(range(-(-length // 16)))) for row, length in enumerate(lengths)]
    groups = plan(spans, pool, 3).groups
    assert sorted(group.batch for group in groups) == [9, 9]
    padded = sum(group.batch // 3 * group.bias.shape[2] for group in groups)
    assert padded < 1.25 * sum(-(-length // 128) * 128 for length in lengths)


def test_what_one_product_copies_out_of_the_pages_is_bounded() -> None:
    pool = pool_of(16, 3, num_blocks=600)
    spans = [Span(row, 1, 8191, tuple(range(512))) for row in range(40)]
    groups = plan(spans, pool, 3, exact=False).groups
    assert sum(group.batch for group in groups) == 120
    assert all(group.pages.numel() * 16 * HEAD_DIM * 4 <= GATHER_BYTES for group in groups)
