"""A batch changed in place is the batch that would be made anew, at every step, and attends to the same keys."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from services.core.batch import Decodes, SampleSpec
from services.engine.attention import attend
from services.engine.decode_inputs import DecodeInputs
from services.engine.input_batch import InputBatch, build
from services.engine.kv_pool import PagedKvPool
from services.engine.layers import probe_rows
from services.engine.model_shape import ModelShape
from services.engine.tiny import tiny_shape

GREEDY = SampleSpec(0.0, 0)


class Decoding:
    """Requests that decode over random blocks, each a token on in every step."""

    def __init__(self, shape: ModelShape, block_size: int, exact: bool, seed: int = 1) -> None:
        self.shape, self.exact, self.chance = shape, exact, random.Random(seed)
        self.pool = PagedKvPool(1, 400, shape.kv_heads, block_size, shape.head_dim, torch.float32)
        self.pool.data.copy_(probe_rows(1, self.pool.data.numel()).view(self.pool.data.shape))
        self.inputs = DecodeInputs(shape, self.pool, exact)
        self.free = list(range(self.pool.num_blocks))
        self.chance.shuffle(self.free)
        self.starts: list[int] = []
        self.tables: list[tuple[int, ...]] = []

    def join(self, start: int, spare_blocks: int = 0) -> None:
        """Another request, whose next token has this position."""
        blocks = start // self.pool.block_size + 1 + spare_blocks
        self.starts.append(start)
        self.tables.append(tuple(self.free.pop() for _ in range(blocks)))

    def leave(self, place: int) -> None:
        """A request is over."""
        del self.starts[place]
        self.free += self.tables.pop(place)

    def decodes(self) -> Decodes:
        """The rows of a step."""
        ids = tuple(self.chance.randrange(self.shape.vocab) for _ in self.starts)
        names = tuple(f"r{place}" for place in range(len(ids)))
        return Decodes(names, ids, tuple(self.starts), tuple(self.tables), (GREEDY,) * len(ids))

    def step(self) -> InputBatch:
        """The tensors of the next step, compared with those of a batch of its own."""
        decodes = self.decodes()
        found = self.inputs.next(decodes)
        wanted = build(decodes.rows(), self.shape, self.pool, self.exact)
        for name in ("token_ids", "positions", "slots", "sampled", "scored"):
            assert torch.equal(getattr(found, name), getattr(wanted, name)), name
        width = self.shape.heads + 2 * self.shape.kv_heads
        heads = probe_rows(len(decodes.token_ids), width * self.shape.head_dim).view(-1, width, self.shape.head_dim)
        for window, plan in wanted.attention.items():
            ours, theirs = (attend(heads, self.pool.data[0], each) for each in (found.attention[window], plan))
            assert torch.equal(ours, theirs) if self.exact else torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5)
        self.grow()
        return found

    def grow(self) -> None:
        """Every request is a token on, in a new block where it needs one."""
        self.starts = [start + 1 for start in self.starts]
        for place, start in enumerate(self.starts):
            if start // self.pool.block_size == len(self.tables[place]):
                self.tables[place] = (*self.tables[place], self.free.pop())


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("block_size", "starts"), [(1, (0, 3)), (4, (7, 1, 40, 41, 300)), (16, (129, 5, 15, 16, 255))])
def test_each_step_equals_a_batch_made_anew(block_size: int, starts: tuple[int, ...], exact: bool) -> None:
    case = Decoding(tiny_shape(), block_size, exact)
    for start in starts:
        case.join(start)
    batches = [case.step() for _ in range(40)]
    kept = sum(one is other for one, other in pairwise(batches))
    assert kept >= 20, "the same tensors, changed in place, in most steps"


@pytest.mark.parametrize("exact", [True, False])
def test_whoever_comes_or_goes(exact: bool) -> None:
    case = Decoding(tiny_shape(), 4, exact, seed=3)
    for step in range(120):
        if case.chance.random() < 0.2 and len(case.starts) < 9:
            case.join(case.chance.randrange(60), case.chance.randrange(3))
        elif len(case.starts) > 1 and case.chance.random() < 0.15:
            case.leave(case.chance.randrange(len(case.starts)))
        if case.starts:
            case.step()
        if case.starts and step % 17 == 0:
            case.grow()  # a step with chunks of prompts came between


def test_windows_move_with_every_token() -> None:
    case = Decoding(tiny_shape(window=9, windowed_layers=(1,)), 4, exact=True)
    for start in (2, 30, 31):
        case.join(start)
    for _ in range(20):
        case.step()


def test_other_blocks_in_the_place_of_a_request_are_seen() -> None:
    case = Decoding(tiny_shape(), 4, exact=True)
    case.join(6)
    case.join(9)
    case.step()
    case.tables[0] = (case.free.pop(), case.tables[0][1])
    case.step()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": (1, 10**6)}, "request r1: a token id"),
        ({"token_ids": (-1, 1)}, "request r0: a token id"),
        ({"block_tables": ((0, 1), (2, 3, 10**6))}, "request r1: a block id"),
        ({"block_tables": ((0, 1), (2, 3))}, "request r1: 2 blocks do not cover 9 tokens"),
    ],
)
def test_rows_out_of_range_are_refused_and_forgotten(change: dict[str, tuple[int, ...]], message: str) -> None:
    case = Decoding(tiny_shape(), 4, exact=True)
    case.starts, case.tables = [5, 7], [(0, 1), (2, 3)]
    case.free = list(range(10, 50))
    case.step()
    with pytest.raises(ValueError, match=message):
        case.inputs.next(replace(case.decodes(), **change))
    case.step()


def test_the_context_window_ends() -> None:
    shape = tiny_shape()
    case = Decoding(shape, 16, exact=False)
    case.join(shape.max_position - 1, 1)
    case.step()
    with pytest.raises(ValueError, match="are not within"):
        case.step()
