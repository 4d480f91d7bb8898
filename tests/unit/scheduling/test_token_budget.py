"""How long chunks of prompts are."""

from __future__ import annotations

from services.scheduling.config import SchedulerConfig
from services.scheduling.token_budget import TokenBudget


def chunks(tokens: int, left: int, **config: int) -> list[int]:
    budget = TokenBudget.of(SchedulerConfig(**config))
    found, start = [], 0
    while start < tokens:
        found.append(budget.chunk(start, tokens - start, left))
        start += found[-1]
    return found


def test_a_long_chunk_ends_at_a_tile() -> None:
    assert chunks(1000, 450, max_batch_tokens=512, prefill_tile_tokens=32) == [448, 448, 104]
    budget = TokenBudget.of(SchedulerConfig(max_batch_tokens=512, prefill_tile_tokens=32))
    assert budget.chunk(7, 900, 450) == 441, "from anywhere"


def test_a_chunk_is_never_made_less_than_a_tile() -> None:
    assert chunks(10, 16, max_batch_tokens=16, prefill_tile_tokens=4, max_chunk_tokens=3) == [3, 3, 3, 1]
    budget = TokenBudget.of(SchedulerConfig(max_batch_tokens=64, prefill_tile_tokens=16))
    assert budget.chunk(7, 100, 16) == 16, "9 would end at a tile, and leave 7 tokens of this step to nobody"
