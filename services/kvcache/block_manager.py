"""Blocks for requests: allocate with prefix hits, grow, pin for a hand-off, free; with a watermark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.core.block_news import BlockNews
from services.kvcache.block import num_blocks
from services.kvcache.block_pool import BlockPool
from services.kvcache.prefix_cache import PrefixCache


@dataclass(frozen=True, slots=True)
class Allocation:
    """Blocks that cover a prompt; the first `cached_blocks` of them already hold its KV."""

    blocks: list[int]
    cached_blocks: int


class BlockManager:
    """The one owner of a worker's block ids.

    Args:
        pool_blocks: blocks in the pool.
        block_size: tokens in a block.
        watermark: share of blocks that `allocate` leaves free so that running requests can grow.
        prefix_caching: whether finished blocks stay findable.
    """

    def __init__(self, pool_blocks: int, block_size: int, watermark: float, prefix_caching: bool) -> None:
        self.block_size = block_size
        self._pool = BlockPool(pool_blocks)
        self._cache = PrefixCache()
        self._prefix_caching = prefix_caching
        self._watermark_blocks = int(pool_blocks * watermark)
        self.evictions = 0

    @property
    def total(self) -> int:
        """Blocks in the pool."""
        return self._pool.num_blocks

    @property
    def used(self) -> int:
        """Blocks that something refers to."""
        pool = self._pool
        return pool.num_blocks - pool.num_free

    @property
    def cached(self) -> int:
        """Unreferenced blocks that hold a findable prefix."""
        return self._pool.num_cached

    @property
    def free_blocks(self) -> int:
        """Blocks that can be given out, cached ones included."""
        return self._pool.num_free

    def fits(self, num_tokens: int) -> bool:
        """Whether an otherwise empty pool could hold `num_tokens` tokens of one request."""
        return num_blocks(num_tokens, self.block_size) <= self.total

    def allocate(self, num_tokens: int, hashes: Sequence[bytes], max_cached_tokens: int) -> Allocation | None:
        """Blocks for `num_tokens` tokens, reusing cached leading blocks; None when there is no room now.

        Args:
            num_tokens: tokens to cover.
            hashes: chained hashes of the leading full blocks, as many as are known.
            max_cached_tokens: at most this many leading tokens may come from the cache.
        """
        hits = self._cache.match(hashes[: max_cached_tokens // self.block_size]) if self._prefix_caching else []
        missing = num_blocks(num_tokens, self.block_size) - len(hits)
        from_queue = missing + sum(1 for block in hits if self._pool.refs(block) == 0)
        # An empty worker may use its last block: otherwise a prompt as large as the pool would wait for ever.
        reserve = self._watermark_blocks if self.used else 0
        if from_queue > self._pool.num_free - reserve:
            return None
        self._pool.pin(hits)
        return Allocation(hits + self._take(missing), len(hits))

    def extend(self, blocks: list[int], num_tokens: int) -> bool:
        """Grow `blocks` in place to cover `num_tokens` tokens, below the watermark too; False when there is no room."""
        missing = num_blocks(num_tokens, self.block_size) - len(blocks)
        if missing <= 0:
            return True
        if missing > self._pool.num_free:
            return False
        blocks += self._take(missing)
        return True

    def extend_each(self, tables: Sequence[list[int]]) -> bool:
        """One block more for each table, in their order; False, and nothing is done, when there is no room for all."""
        if len(tables) > self._pool.num_free:
            return False
        for blocks, block in zip(tables, self._take(len(tables)), strict=True):
            blocks.append(block)
        return True

    def pin(self, blocks: Sequence[int]) -> None:
        """One more reference for each block."""
        self._pool.pin(blocks)

    def free(self, blocks: Sequence[int]) -> None:
        """One reference fewer for each block; findable ones stay cached."""
        cached = [block in self._cache for block in blocks] if len(self._cache) else ()
        self._pool.unpin(blocks, cached=cached)

    def publish(self, blocks: Sequence[int], hashes: Sequence[bytes], num_tokens: int) -> None:
        """Make the full blocks among the first `num_tokens` tokens findable; their KV is in the pool."""
        if not self._prefix_caching:
            return
        full = min(num_tokens // self.block_size, len(hashes), len(blocks))
        for block, block_hash in zip(blocks[:full], hashes[:full], strict=True):
            self._cache.insert(block_hash, block)

    def news(self, since: int) -> BlockNews | None:
        """What became findable and what did not stay so after `since` events; see `PrefixCache.news`."""
        return self._cache.news(since) if self._prefix_caching else None

    def _take(self, count: int) -> list[int]:
        blocks = self._pool.take(count)
        if len(self._cache):
            self.evictions += sum(self._cache.evict(block) for block in blocks)
        return blocks

    def state(self) -> object:
        """Pool and cache."""
        return {"pool": self._pool.state(), "cache": self._cache.state(), "evictions": self.evictions}

    def check(self, owners: Iterable[Sequence[int]] | None = None) -> None:
        """Pool and cache are sound; with `owners`, every reference has exactly one owner (T5 of the test list)."""
        self._pool.check()
        self._cache.check()
        assert self.cached == sum(1 for block in self._pool.free_blocks() if block in self._cache)
        if owners is None:
            return
        owned = Counter(block for blocks in owners for block in blocks)
        for block in range(self.total):
            refs = self._pool.refs(block)
            assert refs == owned[block], f"block {block} has {refs} references and {owned[block]} owners"
