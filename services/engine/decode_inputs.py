"""The tensors of decode steps, changed in place while the same requests go on; made anew when others come or go.

Each step of the same requests adds one token to each. So every position and slot grows by one, every attention mask
shows one key more, and a request's block table has something new only when the token opens a block. This is
vLLM's persistent batch without its slots for requests that come and go: those are rare, and a new batch is simple.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from services.core.batch import Decodes
from services.engine.attention import AttentionGroup, AttentionPlan, Ints, Span, plan, tile_blocks
from services.engine.input_batch import InputBatch, build, check_rows
from services.engine.kv_pool import PagedKvPool
from services.engine.model_shape import ModelShape

Floats = npt.NDArray[np.float32]


class GrowingGroup:
    """One attention group of decodes that grows by a key for each in every step.

    Args:
        group: as `plan` made it.
        positions: [sequences] of their newest keys.
        unit: blocks that are added when there is no room for another key.

    Attributes:
        group: what the model reads.
        positions: [sequences] as given.
        keys: columns of its masks that the model reads.
        most_keys: about a quarter more than it began with; its requests might be grouped in another way then.
    """

    def __init__(self, group: AttentionGroup, positions: Ints, pool: PagedKvPool, unit: int) -> None:
        self.group = group
        self._kv_heads, self._size, self._unit = pool.num_kv_heads, pool.block_size, unit
        self.positions = positions
        self._pages = group.pages.numpy().reshape(2, len(positions), self._kv_heads, -1)
        blocks = self._pages.shape[-1]
        self.keys = blocks * self._size
        self.most_keys = (blocks + max(1, blocks // 4 // unit) * unit) * self._size

    @property
    def num_masks(self) -> int:
        """One for all heads of a sequence, or one for each."""
        return len(self.group.bias)

    def move_masks(self, masks: Floats) -> Ints:
        """Keep the masks in other memory, which has room for all keys the group may ever have.

        Args:
            masks: [num_masks, most_keys].

        Returns:
            Where in it, flattened, the newest keys are: [num_masks].
        """
        masks[:] = -np.inf
        masks[:, : self.keys] = self.group.bias.numpy().reshape(self.num_masks, -1)
        self._masks = masks
        self._show()
        newest: Ints = np.arange(self.num_masks) * masks.shape[1]
        return newest + np.repeat(self.positions, self.num_masks // len(self.positions))

    def open_block(self, index: int, column: int, pages: Ints) -> None:
        """The sequence at `index` has another block: rows `pages` [2, kv_heads] of a layer's pages."""
        self._pages[:, index, :, column] = pages

    def widen(self) -> None:
        """Room for more keys; until a sequence opens the blocks there, they are its last one again, and not seen."""
        self._pages = np.concatenate((self._pages, np.repeat(self._pages[..., -1:], self._unit, -1)), -1)
        self.keys += self._unit * self._size
        self._show()

    def _show(self) -> None:
        bias = torch.from_numpy(self._masks)[:, None, : self.keys]
        self.group = replace(self.group, pages=torch.from_numpy(self._pages.reshape(-1)), bias=bias)


class GrowingPlan:
    """The attention of decodes over all their keys, one key more of each in every step.

    All groups' masks lie in one array, so that one write shows all newest keys, however many groups there are.

    Args:
        made: their plan.
        positions: [tokens] of all.
    """

    def __init__(self, made: AttentionPlan, positions: Ints, pool: PagedKvPool, group_size: int, exact: bool) -> None:
        self._answers = made.answers
        heads = pool.num_kv_heads * (group_size + 2)  # rows of a token among the heads, keys and values included
        unit = tile_blocks(pool.block_size) if exact else 1
        self._groups: list[GrowingGroup] = []
        self._places: dict[int, tuple[GrowingGroup, int]] = {}
        for each in made.groups:
            members = (each.queries.numpy().reshape(each.batch // pool.num_kv_heads, -1)[:, 0] // heads).tolist()
            group = GrowingGroup(each, positions[members], pool, unit)
            self._groups.append(group)
            self._places.update({member: (group, index) for index, member in enumerate(members)})
        self._masks = np.empty(sum(group.num_masks * group.most_keys for group in self._groups), dtype=np.float32)
        self._newest = self._place_masks()
        self._steps = 0
        self._room = self._next_widening()

    def _place_masks(self) -> Ints:
        """Where all newest keys are."""
        found, first = [], 0
        for group in self._groups:
            after = first + group.num_masks * group.most_keys
            found.append(first + group.move_masks(self._masks[first:after].reshape(group.num_masks, -1)))
            first = after
        return np.concatenate(found)

    def _next_widening(self) -> int:
        """After how many steps in all the first group has no room for another key."""
        return min(group.keys - 1 - int(group.positions.max()) for group in self._groups)

    def advance(self, opened: list[tuple[int, int, Ints]]) -> bool:
        """One key more of each; False when the plan should be made anew.

        Args:
            opened: of each request that has its first key in a block: its place, the block's place in its table, and
                the block's [2, kv_heads] rows of a layer's pages.
        """
        self._steps += 1
        if self._steps > self._room and not self._widen():
            return False
        self._newest += 1
        self._masks[self._newest] = 0.0
        for place, column, pages in opened:
            group, index = self._places[place]
            group.open_block(index, column, pages)
        return True

    def _widen(self) -> bool:
        """Room for this step's keys; False when a group is too long for its plan."""
        for group in self._groups:
            if int(group.positions.max()) + self._steps >= group.keys:
                if group.keys >= group.most_keys:
                    return False
                group.widen()
        self._room = self._next_widening()
        return True

    def plan(self) -> AttentionPlan:
        """What the model reads."""
        return AttentionPlan([group.group for group in self._groups], self._answers)


class DecodeInputs:
    """Makes the `InputBatch` of one decode step after the other; each is valid until the next one is asked for.

    Args:
        exact: as in `input_batch.build`, which makes the same batch but for how attention is grouped.
    """

    def __init__(self, shape: ModelShape, pool: PagedKvPool, exact: bool) -> None:
        self._shape, self._pool, self._exact = shape, pool, exact
        self._group_size = shape.heads // shape.kv_heads
        kv_heads = np.arange(pool.num_kv_heads)
        self._sides = np.stack((kv_heads, kv_heads + pool.num_blocks * pool.num_kv_heads))  # [2, kv_heads]: K, V
        self._last: Decodes | None = None

    def next(self, decodes: Decodes) -> InputBatch:
        """The tensors of a step with these rows alone.

        Raises:
            ValueError: a row is out of range; see `input_batch.check_rows`.
        """
        last, self._last = self._last, None  # an error leaves nothing to go on from
        if last is None or not self._advance(last, decodes):
            self._begin(decodes)
        else:
            self._refresh(decodes)
        self._last = decodes
        return self._batch

    def _begin(self, decodes: Decodes) -> None:
        """A batch of other requests than the last one's."""
        batch = build(decodes.rows(), self._shape, self._pool, self._exact)
        self._batch = batch
        self._token_ids, self._positions = batch.token_ids.numpy(), batch.positions.numpy()
        self._slots = batch.slots.numpy().reshape(len(self._positions), -1)
        whole = batch.attention.get(None)
        self._plan: GrowingPlan | None = None
        if whole is not None:
            self._plan = GrowingPlan(whole, self._positions, self._pool, self._group_size, self._exact)

    def _advance(self, last: Decodes, decodes: Decodes) -> bool:
        """Go one token on in everything but attention under a window; False when these are not the same requests."""
        self._positions += 1
        if tuple(self._positions.tolist()) != decodes.starts or not _continue(last, decodes):
            return False
        self._slots += 1
        size, opened = self._pool.block_size, []
        for place in (self._positions % size == 0).nonzero()[0].tolist():
            column, table = decodes.starts[place] // size, decodes.block_tables[place]
            if column >= len(table) or not 0 <= table[column] < self._pool.num_blocks:
                return False  # which will be refused
            pages = self._sides + table[column] * self._pool.num_kv_heads
            self._slots[place] = pages.reshape(-1) * size
            opened.append((place, column, pages))
        return self._plan is None or self._plan.advance(opened)

    def _refresh(self, decodes: Decodes) -> None:
        """What is new in every step of the same requests."""
        ids = decodes.token_ids
        if max(decodes.starts) >= self._shape.max_position or min(ids) < 0 or max(ids) >= self._shape.vocab:
            check_rows(decodes.rows(), self._shape, self._pool)
        self._token_ids[:] = ids
        attention = self._batch.attention
        spans: list[Span] = []
        for window in attention:
            if window is None and self._plan is not None:
                attention[None] = self._plan.plan()
            else:
                fields = zip(decodes.starts, decodes.block_tables, strict=True)
                spans = spans or [Span(place, 1, start, table) for place, (start, table) in enumerate(fields)]
                attention[window] = plan(spans, self._pool, self._group_size, window, self._exact)


def _continue(last: Decodes, decodes: Decodes) -> bool:
    """Whether every request has its blocks of the last step, and perhaps more."""
    old_tables, new_tables = last.block_tables, decodes.block_tables
    if new_tables is old_tables:
        return True
    return all(new is old or new[: len(old)] == old for old, new in zip(old_tables, new_tables, strict=True))
