"""Longest cached prefix by chained block hash."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from services.core.block_news import BlockNews

JOURNAL = 4096
"""Events that are remembered; whoever has heard of none of them gets a snapshot."""
NOTHING = -1
"""Number of the last event for whoever has heard of nothing."""


class PrefixCache:
    """A two-way map between block hashes and the blocks that hold their KV."""

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._journal: deque[tuple[bytes, bool]] = deque(maxlen=JOURNAL)  # says what decides nothing here
        self._events = 0

    def __len__(self) -> int:
        return len(self._block_of)

    def __contains__(self, block: int) -> bool:
        return block in self._hash_of

    def match(self, hashes: Sequence[bytes]) -> list[int]:
        """Blocks of the longest run of leading hashes that are cached."""
        blocks: list[int] = []
        for block_hash in hashes:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def insert(self, block_hash: bytes, block: int) -> bool:
        """Make a block findable; False when the hash is already held by another block, or the block has a hash."""
        if block_hash in self._block_of or block in self._hash_of:
            return False
        self._block_of[block_hash] = block
        self._hash_of[block] = block_hash
        self._note(block_hash, True)
        return True

    def evict(self, block: int) -> bool:
        """Forget what a block holds; False when it held nothing."""
        block_hash = self._hash_of.pop(block, None)
        if block_hash is None:
            return False
        del self._block_of[block_hash]
        self._note(block_hash, False)
        return True

    def _note(self, block_hash: bytes, findable: bool) -> None:
        self._journal.append((block_hash, findable))
        self._events += 1

    def news(self, since: int) -> BlockNews | None:
        """What came and went after `since` events, or everything where that is not known; None when nothing did."""
        new = self._events - since
        if new == 0:
            return None
        if since == NOTHING or new > len(self._journal):
            return BlockNews(0, self._events, b"".join(self._block_of), b"", snapshot=True)
        last = dict(islice(self._journal, len(self._journal) - new, None))
        added = b"".join([each for each, findable in last.items() if findable])
        removed = b"".join([each for each, findable in last.items() if not findable])
        return BlockNews(since, self._events, added, removed)

    def state(self) -> object:
        """Hash by block, in insertion order."""
        return {block: block_hash.hex() for block, block_hash in self._hash_of.items()}

    def check(self) -> None:
        """Both directions agree."""
        assert len(self._block_of) == len(self._hash_of)
        for block, block_hash in self._hash_of.items():
            assert self._block_of[block_hash] == block, f"block {block} and its hash disagree"
