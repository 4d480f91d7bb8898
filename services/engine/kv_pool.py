"""Pages of K and V for every layer of one worker, and their copies to and from contiguous staging buffers."""

from __future__ import annotations

import copy
import math
import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from services.core.errors import MemoryShortError
from services.engine.model_shape import ModelShape


def num_blocks_for(memory_bytes: int, shape: ModelShape, block_size: int, dtype: str) -> int:
    """How many KV blocks of `block_size` tokens fit into `memory_bytes`.

    Args:
        dtype: the configured `model.dtype`; it decides how wide a stored key is.

    Raises:
        MemoryShortError: not even two blocks fit, so no request could ever run.
    """
    block_bytes = block_size * shape.kv_bytes_per_token(dtype)
    count = memory_bytes // block_bytes
    if count < 2:
        raise MemoryShortError(
            f"cache.memory_bytes = {memory_bytes}: one KV block of {block_size} tokens takes {block_bytes} bytes; "
            f"give at least {2 * block_bytes}"
        )
    return count


class PagedKvPool:
    """All KV memory of a worker, cut into blocks of `block_size` tokens.

    Every page is written once here: a first touch later would cost a prompt 0.6 ms/MB in the middle of its hand-off.
    Memory starts as zeros: attention may multiply what lies behind the end of a sequence by a probability of zero.

    Args:
        num_kv_heads: KV heads that this worker holds.
        first_kv_head: global number of the first of them; other than 0 under tensor parallelism alone.
        total_kv_heads: KV heads of the model; default: those held here.
        layers_per_group: layers that travel together in a hand-off. Three layers of a 512-token prompt of the default
            model are 2.4 MB: large enough to send at full speed, small enough to overlap with the next gather.

    Attributes:
        data: [num_layers, 2 (K, V), num_blocks, num_kv_heads, block_size, head_dim].
    """

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        num_kv_heads: int,
        block_size: int,
        head_dim: int,
        dtype: torch.dtype,
        first_kv_head: int = 0,
        total_kv_heads: int | None = None,
        layers_per_group: int = 3,
    ) -> None:
        assert layers_per_group >= 1, layers_per_group
        self.num_layers = num_layers
        self.num_blocks = num_blocks
        self.num_kv_heads = num_kv_heads
        self.block_size = block_size
        self.head_dim = head_dim
        self.dtype = dtype
        self.first_kv_head = first_kv_head
        self.total_kv_heads = num_kv_heads if total_kv_heads is None else total_kv_heads
        self.layers_per_group = layers_per_group
        shape = (num_layers, 2, num_blocks, num_kv_heads, block_size, head_dim)
        # Private anonymous memory, not torch.empty: the allocator may hand out used memory, which can hold NaN.
        memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(AttributeError, OSError):  # huge pages, where the system has them
            memory.madvise(mmap.MADV_HUGEPAGE)
        self.data = torch.frombuffer(memory, dtype=dtype).view(shape).zero_()
        self._lay_out()
        first_rows = (torch.arange(num_layers * 2) * num_blocks).view(-1, 1)
        groups = [self.layer_group(group) for group in range(self.num_layer_groups)]
        self._first_rows = [first_rows[layers.start * 2 : layers.stop * 2] for layers in groups]

    def _lay_out(self) -> None:
        """See `data` as rows for gather and scatter."""
        per_row = self.num_kv_heads * self.block_size * self.head_dim  # one block of one layer, K or V
        self._rows = self.data.view(self.num_layers * 2 * self.num_blocks, per_row)
        # Scattering is a loop over elements: the widest ones there are make it a quarter faster.
        head_bytes = self.block_size * self.head_dim * self.dtype.itemsize
        self._wide_dtype = torch.complex128 if head_bytes % 16 == 0 else self.dtype

    def part(self, heads: range) -> PagedKvPool:
        """Some neighbouring KV heads (global numbers) of the same memory, for a link that carries no others."""
        first = heads.start - self.first_kv_head
        assert heads and 0 <= first <= first + len(heads) <= self.num_kv_heads, (heads, self.first_kv_head)
        part = copy.copy(self)
        part.num_kv_heads, part.first_kv_head = len(heads), heads.start
        part.data = self.data[:, :, :, first : first + len(heads)]
        part._lay_out()
        return part

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers, K and V."""
        return self.num_layers * 2 * self.num_kv_heads * self.block_size * self.head_dim * self.dtype.itemsize

    @property
    def num_layer_groups(self) -> int:
        """Pieces that one block range is sent in."""
        return -(-self.num_layers // self.layers_per_group)

    def layer_group(self, group: int) -> slice:
        """Layers of the piece `group`; the last piece may be smaller."""
        assert 0 <= group < self.num_layer_groups, group
        start = group * self.layers_per_group
        return slice(start, min(start + self.layers_per_group, self.num_layers))

    def staging_shape(self, group: int, num_blocks: int) -> tuple[int, ...]:
        """Shape of a staging buffer: [layers of the group, 2, num_blocks, num_kv_heads, block_size, head_dim]."""
        layers = self.layer_group(group)
        return (layers.stop - layers.start, 2, num_blocks, self.num_kv_heads, self.block_size, self.head_dim)

    def gather(self, group: int, blocks: Sequence[int] | Tensor, out: Tensor) -> Tensor:
        """Copy blocks of a layer group into contiguous `out` of `staging_shape(group, len(blocks))`; returns `out`."""
        torch.index_select(self._rows, 0, self._rows_of(group, blocks), out=out.view(-1, self._rows.shape[1]))
        return out

    def scatter(self, group: int, blocks: Sequence[int] | Tensor, staging: Tensor) -> None:
        """Copy a staging buffer into blocks of a layer group; the inverse of `gather`. Block ids must be distinct."""
        rows = staging.reshape(-1, self._rows.shape[1]).view(self._wide_dtype)
        self._rows.view(self._wide_dtype).index_copy_(0, self._rows_of(group, blocks), rows)

    def _rows_of(self, group: int, blocks: Sequence[int] | Tensor) -> Tensor:
        """[layers of the group * 2 * blocks] int64: where the blocks of a layer group lie in `_rows`."""
        return (self._first_rows[group] + torch.as_tensor(blocks, dtype=torch.int64)).view(-1)
