"""Times of a model's steps on this machine, for the cost models: prompts and decodes of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

from services.core.batch import Decodes, Row, SampleSpec, ScheduledBatch
from services.core.clock import NS_PER_MS
from services.core.errors import ModelError
from services.engine.model_runner import ModelRunner

PROMPTS = tuple((tokens, cached) for cached in (0, 256, 512) for tokens in (16, 64, 128, 256, 512))
"""(tokens, tokens before them whose KV is there)."""
DECODES = tuple((rows, context) for rows in (1, 2, 4, 8) for context in (32, 256, 768))
"""(requests, tokens that each looks at)."""
GREEDY = SampleSpec(0.0, 0)
Sample = tuple[float, float, float]
"""Units (tokens or requests), tokens that they look at in all, milliseconds."""


def prefill_times(runner: ModelRunner, repeats: int, told: Callable[[str], None]) -> Iterator[Sample]:
    """Median times of prompts and chunks.

    Args:
        repeats: runs of each shape; one more goes before them and is not counted.
        told: hears what is measured.
    """
    for tokens, cached in PROMPTS:
        if tokens + cached > _room(runner):
            continue
        told(f"prompt of {tokens} tokens after {cached}")
        row = Row("profile", (1,) * tokens, cached, _table(runner, 0, tokens + cached), GREEDY)
        yield tokens, tokens * (cached + (tokens + 1) / 2), _median_ms(runner, ScheduledBatch(1, (row,)), repeats)


def decode_times(runner: ModelRunner, repeats: int, told: Callable[[str], None]) -> Iterator[Sample]:
    """Median times of decode steps; arguments as in `prefill_times`."""
    for rows, context in DECODES:
        if rows * (context + runner.pool.block_size) > _room(runner):
            continue
        told(f"{rows} decodes that look at {context} tokens each")
        decodes = Decodes(
            tuple(f"profile-{row}" for row in range(rows)),
            (1,) * rows,
            (context - 1,) * rows,
            tuple(_table(runner, row, context) for row in range(rows)),
            (GREEDY,) * rows,
        )
        yield rows, rows * context, _median_ms(runner, ScheduledBatch(1, (), decodes), repeats)


def _room(runner: ModelRunner) -> int:
    return runner.pool.num_blocks * runner.pool.block_size


def _table(runner: ModelRunner, row: int, tokens: int) -> tuple[int, ...]:
    blocks = -(-tokens // runner.pool.block_size)
    return tuple(range(row * blocks, (row + 1) * blocks))


def _median_ms(runner: ModelRunner, batch: ScheduledBatch, repeats: int) -> float:
    found = []
    for _ in range(repeats + 1):
        output = runner.execute(batch)
        if output.error is not None:
            raise ModelError(f"a step for the profile failed: {output.error}")
        found.append(output.duration_ns / NS_PER_MS)
    return median(found[1:])
