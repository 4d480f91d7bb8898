"""Embeddings in blocks of the worker's one pool: found by their image's digest, and evicted like cached prefixes."""

from __future__ import annotations

import hashlib

from services.core.request import Image
from services.encode.config import EncodeConfig
from services.kvcache.block import HASH_BYTES
from services.kvcache.block_manager import BlockManager


class EmbedCache:
    """Where embeddings are; ids and counts alone, never tensors. It holds nothing itself: whoever asks has a reference.

    Args:
        blocks: the worker's block ids.
    """

    def __init__(self, config: EncodeConfig, blocks: BlockManager) -> None:
        self._tokens_per_block, self._blocks = config.tokens_per_block, blocks

    def size(self, image: Image) -> int:
        """Blocks of an embedding."""
        return -(-image.tokens // self._tokens_per_block)

    def find(self, image: Image) -> list[int] | None:
        """The blocks of an embedding that is here, with one more reference each."""
        room = self.size(image) * self._blocks.block_size
        got = self._blocks.allocate(room, self._hashes(image), room)
        if got is None or got.cached_blocks == len(got.blocks):
            return None if got is None else got.blocks
        self._blocks.free(got.blocks)  # some of it was evicted
        return None

    def reserve(self, image: Image) -> list[int] | None:
        """Blocks for an embedding that is to be computed; None when there is no room now."""
        got = self._blocks.allocate(self.size(image) * self._blocks.block_size, (), 0)
        return None if got is None else got.blocks

    def publish(self, image: Image, blocks: list[int]) -> None:
        """An image was encoded: its embedding can be found from now on."""
        self._blocks.publish(blocks, self._hashes(image), len(blocks) * self._blocks.block_size)

    def _hashes(self, image: Image) -> tuple[bytes, ...]:
        """Names of its blocks; they never meet those of KV, which are chained from a root of the model."""
        return tuple(
            hashlib.blake2b(
                image.digest + place.to_bytes(4, "little"), digest_size=HASH_BYTES, person=b"image"
            ).digest()
            for place in range(self.size(image))
        )
