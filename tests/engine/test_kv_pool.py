"""The paged pool: layer groups, copies to and from staging, sizes."""

import psutil
import pytest
import torch

from services.core.errors import MemoryShortError
from services.engine.kv_pool import PagedKvPool, num_blocks_for
from services.engine.tiny import tiny_shape


def filled(**overrides: int) -> PagedKvPool:
    sizes = {"num_layers": 5, "num_blocks": 11, "num_kv_heads": 3, "block_size": 4, "head_dim": 8} | overrides
    pool = PagedKvPool(**sizes, dtype=torch.float32)
    pool.data.copy_(torch.arange(pool.data.numel()).view(pool.data.shape))
    return pool


@pytest.mark.parametrize("layers_per_group", [1, 2, 5, 9])
def test_layer_groups_cover_every_layer_once(layers_per_group: int) -> None:
    pool = filled(layers_per_group=layers_per_group)
    covered = [layer for group in range(pool.num_layer_groups) for layer in range(5)[pool.layer_group(group)]]
    assert covered == list(range(5))


@pytest.mark.parametrize("blocks", [[3], [9, 0, 4], list(range(10, -1, -1))])
def test_gather_then_scatter_moves_blocks(blocks: list[int]) -> None:
    source = filled()
    target = filled()
    target.data.zero_()
    moved_to = [(block + 1) % source.num_blocks for block in blocks]
    for group in range(source.num_layer_groups):
        staging = torch.empty(source.staging_shape(group, len(blocks)))
        assert source.gather(group, blocks, staging) is staging
        assert torch.equal(staging, source.data[source.layer_group(group)][:, :, blocks])
        target.scatter(group, moved_to, staging)
    assert torch.equal(target.data[:, :, moved_to], source.data[:, :, blocks])
    others = [block for block in range(11) if block not in moved_to]
    assert not target.data[:, :, others].any()


def test_memory_is_zero_and_there_from_the_start() -> None:
    """A machine without room for the pool shows at start, and no first touch delays a hand-off."""
    before = psutil.Process().memory_info().rss
    pool = PagedKvPool(8, 64, 8, 16, 128, torch.float32)
    assert pool.block_bytes * pool.num_blocks == 1 << 26
    assert not pool.data.any()
    assert psutil.Process().memory_info().rss - before >= 1 << 26


def test_block_count_follows_memory_and_dtype() -> None:
    shape = tiny_shape(num_layers=3, kv_heads=2, head_dim=16)
    per_token = 2 * 3 * 2 * 16 * 4
    assert shape.kv_bytes_per_token("float32") == shape.kv_bytes_per_token("float16") == per_token
    assert shape.kv_bytes_per_token("bfloat16") == per_token // 2
    assert num_blocks_for(10 * 16 * per_token + 5, shape, 16, "float32") == 10
    assert num_blocks_for(10 * 16 * per_token, shape, 16, "bfloat16") == 20
    assert PagedKvPool(3, 10, 2, 16, 16, torch.float32).block_bytes == 16 * per_token


def test_a_pool_without_room_is_refused() -> None:
    with pytest.raises(MemoryShortError, match=r"cache.memory_bytes = 1000: .* at least \d+"):
        num_blocks_for(1000, tiny_shape(), 16, "float32")
