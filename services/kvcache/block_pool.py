"""Which KV blocks are referenced, and in which order the others are given out again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


class BlockPool:
    """Reference counts and the free queue of `num_blocks` blocks.

    A block with no reference waits in the free queue; it may still hold a findable prefix (`PrefixCache`). The head
    of the queue is given out first: blocks without a prefix, then the least recently freed. So the queue has three
    parts: blocks that were freed without a prefix, the last one first; those never given out, by number; and those
    with a prefix. The second part is a number alone: a pool costs memory for the blocks that it has given out.

    Attributes:
        num_free: blocks without a reference, cached ones included.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = self.num_free = num_blocks
        self._refs: list[int] = []  # of blocks that were given out before
        self._plain: list[int] = []  # the last one is the head of the queue
        self._cached: dict[int, None] = {}

    @property
    def num_cached(self) -> int:
        """Blocks without a reference that held a prefix when they lost the last one."""
        return len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks with at least one reference."""
        return self.num_blocks - self.num_free

    def free_blocks(self) -> Iterator[int]:
        """Blocks without a reference, next to be given out first."""
        yield from reversed(self._plain)
        yield from range(len(self._refs), self.num_blocks)
        yield from self._cached

    def refs(self, block: int) -> int:
        """Reference count of a block."""
        return self._refs[block] if block < len(self._refs) else 0

    def take(self, count: int) -> list[int]:
        """Give out `count` blocks with one reference each; the caller has checked `num_free`."""
        assert count <= self.num_free, (count, self.num_free)
        self.num_free -= count
        refs = self._refs
        if count == 1 and self._plain:
            block = self._plain.pop()
            refs[block] = 1
            return [block]
        kept = max(0, len(self._plain) - count)
        blocks = self._plain[kept:]
        blocks.reverse()
        del self._plain[kept:]
        for block in blocks:
            refs[block] = 1
        new = min(count - len(blocks), self.num_blocks - len(refs))
        if new:
            blocks += range(len(refs), len(refs) + new)
            refs += [1] * new
        while len(blocks) < count:
            block = next(iter(self._cached))
            del self._cached[block]
            refs[block] = 1
            blocks.append(block)
        return blocks

    def pin(self, blocks: Sequence[int]) -> None:
        """Add one reference to each block; an unreferenced one, which holds a prefix, leaves the free queue."""
        refs = self._refs
        for block in blocks:
            if refs[block] == 0:
                del self._cached[block]
                self.num_free -= 1
            refs[block] += 1

    def unpin(self, blocks: Sequence[int], *, cached: Sequence[bool]) -> None:
        """Drop one reference of each block; those left with none join the queue, last block first.

        Freeing the tail of a prefix first keeps its head findable longer. Blocks without a prefix go to the head.

        Args:
            cached: which of the blocks hold a prefix; empty: none does.
        """
        refs = self._refs
        for block in blocks:
            refs[block] -= 1
        freed = [block for block in reversed(blocks) if not refs[block]]
        assert len(freed) == len(blocks) or min([refs[block] for block in blocks]) >= 0, f"one is freed twice: {blocks}"
        if len(set(freed)) < len(freed):  # one that is there twice goes where its last reference does
            freed = list(dict.fromkeys(reversed(freed)))[::-1]
        self.num_free += len(freed)
        if not cached:
            self._plain += freed
            return
        kept = {block for block, is_cached in zip(blocks, cached, strict=True) if is_cached}
        self._cached.update(dict.fromkeys([block for block in freed if block in kept]))
        self._plain += [block for block in freed if block not in kept]

    def state(self) -> object:
        """Reference counts and the exact queue order."""
        return {"refs": [self.refs(block) for block in range(self.num_blocks)], "free": list(self.free_blocks())}

    def check(self) -> None:
        """A block is in the free queue exactly once and exactly when nothing refers to it."""
        free = list(self.free_blocks())
        assert len(free) == len(set(free)) == self.num_free, free
        waiting = set(free)
        for block, refs in enumerate(self._refs):
            assert refs >= 0, f"block {block} has {refs} references"
            assert (refs == 0) == (block in waiting), f"block {block}: {refs} references, queue disagrees"
