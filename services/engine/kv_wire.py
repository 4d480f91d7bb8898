"""What a KV part looks like on the wire: headers, block ranges, and staging buffers that hold header and pages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.core.ports import LinkError
from services.engine.kv_pool import PagedKvPool

MAGIC = 0x5452_4950_4B56_0002  # "TRIPKV", version of the wire format
HEADER_WORDS = 16
HEADER_BYTES = HEADER_WORDS * 8
WHOLE_RANGE = -1  # stands for the layer group in the header that asks for a block range
RANGE_BYTES = 32 * 2**20  # staging of a receiver; a longer part is sent as several block ranges
GEOMETRY = (
    "num_layers",
    "layers_per_group",
    "num_kv_heads",
    "first_kv_head",
    "total_kv_heads",
    "block_size",
    "head_dim",
)

Header = NDArray[np.int64]  # numpy, because torch takes microseconds for each element it sets


def digest(text: str) -> int:
    """BLAKE2b-64 as a signed number."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def empty_header() -> Tensor:
    """[HEADER_WORDS] int64 of zeros."""
    return torch.zeros(HEADER_WORDS, dtype=torch.int64)


def write_header(target: Header, words: Sequence[int]) -> None:
    """Fill the first words of a header."""
    target[: len(words)] = words


def check_header(received: Header, expected: Sequence[int]) -> int:
    """Compare a received header with what it must be; returns the word after those, the checksum.

    Raises:
        LinkError: it belongs to something else, so the two ends have lost step.
    """
    words: list[int] = received.tolist()
    if words[: len(expected)] != list(expected):
        raise LinkError(f"protocol: a header says {words[: len(expected)]}, expected {list(expected)}")
    return words[len(expected)]


@dataclass(frozen=True, slots=True)
class Part:
    """What identifies a part: BLAKE2b-64 of the transfer id, attempt and number."""

    transfer: int
    attempt: int
    number: int


@dataclass(frozen=True, slots=True)
class Message:
    """A layer group of a block range as one buffer: the header, then the staged pages.

    Attributes:
        buffer: [HEADER_BYTES + payload bytes] uint8, what is sent.
        header: [HEADER_WORDS], the first bytes of it.
        staging: [layers, 2, blocks, heads, block_size, head_dim], the rest of it.
    """

    group: int
    buffer: Tensor
    header: Header
    staging: Tensor


class KvWire:
    """Cuts parts into messages, the same way at both ends of a link.

    Args:
        pool: whose pages travel; `RANGE_BYTES` bounds the staging memory, which grows to the largest part and is kept.
    """

    def __init__(self, pool: PagedKvPool) -> None:
        self._pool = pool
        self._layer_bytes = pool.block_bytes // pool.num_layers  # of one block
        self._resize(0)

    def hello(self) -> list[int]:
        """Header words that both ends must agree on before any part."""
        return [MAGIC, *(int(getattr(self._pool, name)) for name in GEOMETRY), digest(str(self._pool.dtype))]

    def check_hello(self, received: Header) -> None:
        """Compare the peer's hello with ours.

        Raises:
            LinkError: the pools differ; the message names the field.
        """
        names = ("wire format", *GEOMETRY, "dtype")
        for name, here, there in zip(names, self.hello(), received.tolist(), strict=False):
            if here != there:
                raise LinkError(f"protocol: {name} is {here} here and {there} at the peer")

    def words(self, part: Part, group: int, first: int, count: int) -> list[int]:
        """Header words of a layer group, or WHOLE_RANGE, of the blocks [first, first + count) of a part.

        The checksum of a layer group follows them.
        """
        layers = slice(0, self._pool.num_layers) if group == WHOLE_RANGE else self._pool.layer_group(group)
        size = (layers.stop - layers.start) * count * self._layer_bytes
        identity = [MAGIC, part.transfer, part.attempt, part.number]
        return [*identity, group, layers.start, layers.stop, first, count, size]

    def ranges(self, num_blocks: int) -> list[tuple[int, int]]:
        """A part as ranges (first block, count) that fit into a receiver's staging."""
        step = max(1, RANGE_BYTES // self._pool.block_bytes)
        return [(first, min(step, num_blocks - first)) for first in range(0, num_blocks, step)]

    def messages(self, num_blocks: int, slots: int) -> Iterator[Message]:
        """One message for each layer group; message i lies where message i - slots lay before."""
        groups = [self._pool.layer_group(group) for group in range(self._pool.num_layer_groups)]
        sizes = [(layers.stop - layers.start) * num_blocks * self._layer_bytes for layers in groups]
        stride = HEADER_BYTES + -(-max(sizes) // HEADER_BYTES) * HEADER_BYTES  # keeps every header and page row aligned
        if self._memory.numel() < slots * stride:
            self._resize(slots * stride)
        width = self._pool.dtype.itemsize
        for group, size in enumerate(sizes):
            start = group % slots * stride
            pages = start + HEADER_BYTES
            yield Message(
                group,
                self._memory[start : pages + size],
                self._words[start // 8 : pages // 8],
                self._values[pages // width : (pages + size) // width].view(
                    self._pool.staging_shape(group, num_blocks)
                ),
            )

    def _resize(self, num_bytes: int) -> None:
        """Staging memory, seen as bytes, as header words and as values of the pool's dtype."""
        self._memory = torch.empty(num_bytes, dtype=torch.uint8)
        self._words: Header = self._memory.view(torch.int64).numpy()
        self._values = self._memory.view(self._pool.dtype)
