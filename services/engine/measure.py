"""Times of a model's steps on this machine, for the cost models: prompts and decodes of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from statistics import median
from threading import Event

from services.core.batch import Decodes, Row, SampleSpec, ScheduledBatch
from services.core.clock import NS_PER_MS
from services.core.errors import ModelError
from services.engine.model_runner import ModelRunner

PROMPTS = tuple((tokens, cached) for cached in (0, 256, 512) for tokens in (16, 64, 128, 256, 512))
"""(tokens, tokens before them whose KV is there)."""
DECODES = tuple((rows, context) for rows in (1, 2, 4, 8, 16, 24) for context in (32, 256, 768))
"""(requests, tokens that each looks at)."""
ROWS, CONTEXT, ROUNDS = 4, 256, 5
"""Where two ways to compute the same step are compared, and how often."""
PAUSED, PAUSE_S = 128, 0.3
"""Tokens of the prompt that is measured after a pause, and how long that is: a usual request of a cluster at ease."""
SPREAD = 0.5
"""Share by which the contexts of a step differ at most from their mean."""
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
        if tokens + cached > min(_room(runner), runner.shape.max_position):
            continue
        told(f"prompt of {tokens} tokens after {cached}")
        batch = prefill_batch(runner, tokens, cached)
        yield tokens, tokens * (cached + (tokens + 1) / 2), median_ms(runner, batch, repeats)


def decode_times(runner: ModelRunner, repeats: int, told: Callable[[str], None]) -> Iterator[Sample]:
    """Median times of decode steps; arguments as in `prefill_times`."""
    for rows, context in DECODES:
        if context > runner.shape.max_position or rows * (context + runner.pool.block_size) > _room(runner):
            continue
        told(f"{rows} decodes that look at {context} tokens each")
        yield rows, rows * context, median_ms(runner, decode_batch(runner, rows, context), repeats)


def prefill_batch(runner: ModelRunner, tokens: int, cached: int) -> ScheduledBatch:
    """A step with one chunk of `tokens` tokens after `cached` ones."""
    row = Row("profile", (1,) * tokens, cached, _table(runner, 0, tokens + cached), GREEDY)
    return ScheduledBatch(1, (row,))


def decode_batch(runner: ModelRunner, rows: int, context: int) -> ScheduledBatch:
    """A step with `rows` decodes that look at `context` tokens each, or at all that the model was made for.

    In the mean: from half of it to one and a half, for those of a cluster differ, and the longest counts for all.
    """
    context = min(context, runner.shape.max_position)
    share = min(SPREAD, runner.shape.max_position / context - 1)
    contexts = [round(context * (1 + share * ((2 * row + 1) / rows - 1))) for row in range(rows)]
    firsts = accumulate([0, *[-(-each // runner.pool.block_size) for each in contexts]])
    decodes = Decodes(
        tuple(f"profile-{row}" for row in range(rows)),
        (1,) * rows,
        tuple(each - 1 for each in contexts),
        tuple(_table(runner, first, each) for first, each in zip(firsts, contexts, strict=False)),
        (GREEDY,) * rows,
    )
    return ScheduledBatch(1, (), decodes)


def lent_speedup(runner: ModelRunner, own: int, all_cores: int, told: Callable[[str], None]) -> float:
    """How many times faster a decode step is with all cores of the host than with its worker's own; at least 1."""
    told(f"decodes on {all_cores} cores")
    batch, ratios = decode_batch(runner, ROWS, CONTEXT), []
    for _ in range(ROUNDS):
        runner.set_threads(own)
        alone = median_ms(runner, batch, 2)
        runner.set_threads(all_cores)
        ratios.append(alone / median_ms(runner, batch, 2))
    runner.set_threads(own)
    return max(1.0, median(ratios))


def waking(runner: ModelRunner, told: Callable[[str], None]) -> tuple[float, float]:
    """How many times slower a prompt is after a pause than right after another one, and its time right after one."""
    told("prompts after a pause")
    tokens = min(PAUSED, _room(runner), runner.shape.max_position)
    batch, pause, ratios, warm = prefill_batch(runner, tokens, 0), Event(), [], 0.0
    for _ in range(ROUNDS):
        pause.wait(PAUSE_S)
        first = _ms(runner, batch)
        warm = median_ms(runner, batch, 2)
        ratios.append(first / warm)
    return max(1.0, median(ratios)), warm


def _room(runner: ModelRunner) -> int:
    return runner.pool.num_blocks * runner.pool.block_size


def _table(runner: ModelRunner, first: int, tokens: int) -> tuple[int, ...]:
    """Blocks for so many tokens, from a first one on."""
    return tuple(range(first, first - (-tokens // runner.pool.block_size)))


def median_ms(runner: ModelRunner, batch: ScheduledBatch, repeats: int) -> float:
    """Median time of a step; one run goes before those that are counted.

    Raises:
        ModelError: the step failed.
    """
    return median([_ms(runner, batch) for _ in range(repeats + 1)][1:])


def _ms(runner: ModelRunner, batch: ScheduledBatch) -> float:
    output = runner.execute(batch)
    if output.error is not None:
        raise ModelError(f"a step for the profile failed: {output.error}")
    return output.duration_ns / NS_PER_MS
