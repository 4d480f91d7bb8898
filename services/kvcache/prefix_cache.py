"""Longest cached prefix by chained block hash."""

from __future__ import annotations

from collections.abc import Sequence


class PrefixCache:
    """A two-way map between block hashes and the blocks that hold their KV."""

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

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
        return True

    def evict(self, block: int) -> bool:
        """Forget what a block holds; False when it held nothing."""
        block_hash = self._hash_of.pop(block, None)
        if block_hash is None:
            return False
        del self._block_of[block_hash]
        return True

    def state(self) -> object:
        """Hash by block, in insertion order."""
        return {block: block_hash.hex() for block, block_hash in self._hash_of.items()}

    def check(self) -> None:
        """Both directions agree."""
        assert len(self._block_of) == len(self._hash_of)
        for block, block_hash in self._hash_of.items():
            assert self._block_of[block_hash] == block, f"block {block} and its hash disagree"
