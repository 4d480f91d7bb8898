"""Embeddings kept by the content hash of their image; those that nobody waits for leave in order of their last use."""

from __future__ import annotations

from collections import Counter


class EmbedCache:
    """Which embeddings are here; counts alone, never tensors.

    Args:
        capacity_tokens: of the embeddings that are kept; pinned ones may be more.
    """

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity = capacity_tokens
        self._tokens: dict[bytes, int] = {}  # the least recently used one first
        self._pins: Counter[bytes] = Counter()
        self.used_tokens = 0
        self.evictions = 0

    def __contains__(self, image: bytes) -> bool:
        return image in self._tokens

    def insert(self, image: bytes, tokens: int) -> None:
        """An image was encoded."""
        if image not in self._tokens:
            self._tokens[image] = tokens
            self.used_tokens += tokens

    def pin(self, image: bytes) -> None:
        """Someone needs an embedding that is here; it stays until `unpin`."""
        self._tokens[image] = self._tokens.pop(image)
        self._pins[image] += 1

    def unpin(self, image: bytes) -> None:
        """One fewer needs it."""
        assert self._pins[image] > 0, image
        self._pins[image] -= 1
        if not self._pins[image]:
            del self._pins[image]
        self.shrink()

    def shrink(self) -> list[bytes]:
        """Forget embeddings until the others fit, those used longest ago first; which ones."""
        gone = []
        for image in list(self._tokens):
            if self.used_tokens <= self._capacity:
                break
            if image not in self._pins:
                self.used_tokens -= self._tokens.pop(image)
                self.evictions += 1
                gone.append(image)
        return gone

    @property
    def num_pins(self) -> int:
        """Needs of embeddings, one embedding counted once for each."""
        return self._pins.total()

    def state(self) -> object:
        """Embeddings in order of their last use, and pins."""
        return {
            "tokens": [[image.hex(), tokens] for image, tokens in self._tokens.items()],
            "pins": [[image.hex(), count] for image, count in self._pins.items()],
        }

    def check(self) -> None:
        """Counts agree, and what is too much is pinned."""
        assert self.used_tokens == sum(self._tokens.values())
        assert self._pins.keys() <= self._tokens.keys()
        if self.used_tokens > self._capacity:
            assert set(self._tokens) <= set(self._pins), "something that nobody needs should be gone"
