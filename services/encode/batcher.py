"""Images that wait, in order of arrival, grouped into steps."""

from __future__ import annotations

from dataclasses import dataclass

from services.encode.config import EncodeConfig


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a prompt.

    Attributes:
        digest: of its content; equal images have equal embeddings.
        tokens: of its embedding.
    """

    digest: bytes
    tokens: int


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

    def take(self) -> tuple[Image, ...]:
        """The next step's images; the first one goes whatever its size."""
        taken: list[Image] = []
        left = self._config.max_batch_tokens
        for image in self._waiting.values():
            if taken and (len(taken) == self._config.max_batch_images or image.tokens > left):
                break
            taken.append(image)
            left -= image.tokens
        for image in taken:
            del self._waiting[image.digest]
        return tuple(taken)

    def state(self) -> object:
        """Digests and sizes in order."""
        return [[image.digest.hex(), image.tokens] for image in self._waiting.values()]
