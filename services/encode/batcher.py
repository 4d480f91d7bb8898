"""Images that wait, in order of arrival, grouped into steps."""

from __future__ import annotations

from services.core.request import Image
from services.encode.config import EncodeConfig


class Batcher:
    """First come, first served; an image that waits or is encoded already is not taken twice."""

    def __init__(self, config: EncodeConfig) -> None:
        self._config = config
        self._waiting: dict[bytes, Image] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def tokens(self) -> int:
        """Embedding tokens that wait."""
        return sum([image.tokens for image in self._waiting.values()])

    def add(self, image: Image) -> None:
        """An image has to be encoded."""
        self._waiting.setdefault(image.digest, image)

    def drop(self, digest: bytes) -> None:
        """Nobody wants it any more."""
        self._waiting.pop(digest, None)

    def next_ones(self) -> tuple[Image, ...]:
        """The next step's images; the first one goes whatever its size."""
        found: list[Image] = []
        left = self._config.max_batch_tokens
        for image in self._waiting.values():
            if found and (len(found) == self._config.max_batch_images or image.tokens > left):
                break
            found.append(image)
            left -= image.tokens
        return tuple(found)

    def state(self) -> list[tuple[str, int]]:
        """Digests and sizes in order."""
        return [(image.digest.hex(), image.tokens) for image in self._waiting.values()]
