"""Which KV blocks are referenced, and in which order the others are given out again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Reference counts and the free queue of `num_blocks` blocks.

    A block with no reference waits in the free queue; it may still hold a findable prefix (`PrefixCache`). The head
    of the queue is given out first: blocks without a prefix, then the least recently freed.

    Attributes:
        num_cached: blocks without a reference that held a prefix when they lost the last one.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._refs = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._is_cached = bytearray(num_blocks)
        self.num_cached = 0

    @property
    def num_free(self) -> int:
        """Blocks without a reference, cached ones included."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks with at least one reference."""
        return self.num_blocks - len(self._free)

    def free_blocks(self) -> Iterable[int]:
        """Blocks without a reference, next to be given out first."""
        return self._free.keys()

    def refs(self, block: int) -> int:
        """Reference count of a block."""
        return self._refs[block]

    def take(self, count: int) -> list[int]:
        """Give out `count` blocks with one reference each; the caller has checked `num_free`."""
        assert count <= len(self._free), (count, len(self._free))
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._refs[block] = 1
            if self._is_cached[block]:
                self._leave_cache(block)
        return blocks

    def pin(self, blocks: Sequence[int]) -> None:
        """Add one reference to each block; an unreferenced one leaves the free queue."""
        for block in blocks:
            if self._refs[block] == 0:
                del self._free[block]
                if self._is_cached[block]:
                    self._leave_cache(block)
            self._refs[block] += 1

    def unpin(self, blocks: Sequence[int], *, cached: Sequence[bool]) -> None:
        """Drop one reference of each block; those left with none join the queue, last block first.

        Freeing the tail of a prefix first keeps its head findable longer. Blocks without a prefix go to the head.
        """
        if not any(cached):
            self._unpin_plain(blocks)
            return
        for block, is_cached in zip(reversed(blocks), reversed(cached), strict=True):
            assert self._refs[block] > 0, f"block {block} is freed twice"
            self._refs[block] -= 1
            if self._refs[block] == 0:
                self._free[block] = None
                if is_cached:
                    self._is_cached[block] = 1
                    self.num_cached += 1
                else:
                    self._free.move_to_end(block, last=False)

    def _unpin_plain(self, blocks: Sequence[int]) -> None:
        """The same for blocks without a prefix: a pool without shared prefixes does this for every block."""
        refs, free = self._refs, self._free
        for block in reversed(blocks):
            left = refs[block] - 1
            assert left >= 0, f"block {block} is freed twice"
            refs[block] = left
            if not left:
                free[block] = None
                free.move_to_end(block, last=False)

    def _leave_cache(self, block: int) -> None:
        self._is_cached[block] = 0
        self.num_cached -= 1

    def state(self) -> object:
        """Reference counts and the exact queue order."""
        return {"refs": list(self._refs), "free": list(self._free)}

    def check(self) -> None:
        """A block is in the free queue exactly when nothing refers to it; only such blocks are cached."""
        assert self.num_cached == sum(self._is_cached)
        for block, refs in enumerate(self._refs):
            assert refs >= 0, f"block {block} has {refs} references"
            assert (refs == 0) == (block in self._free), f"block {block}: {refs} references, queue disagrees"
            assert refs == 0 or not self._is_cached[block], f"block {block} is in use and cached"
