"""How long a step takes, from its shape: fitted coefficients, and the published ones of OPT on A100.

    chunks of prompts: a + b x + c x (cached + x / 2)        decodes: a + b rows + c (tokens they look at)

A step with both pays one fixed part, the larger. `roofline.py` derives the same from datasheets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.core.batch import ScheduledBatch
from services.core.clock import NS_PER_MS
from services.core.config import CostConfig
from services.core.errors import ConfigError
from services.core.quick import quick


@quick
@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step's time depends on.

    Attributes:
        chunks: chunks of prompts.
        tokens: prompt tokens in them.
        pairs: (token, token it looks at) in them: x (cached + (x + 1) / 2) of a chunk of x tokens.
        cached: tokens before the chunks whose KV is read.
        rows: decodes.
        context: tokens that the decodes look at, their own included.
        images: images to encode, and `image_tokens` of their embeddings; a step has these alone.
    """

    chunks: int
    tokens: int
    pairs: float
    cached: int
    rows: int
    context: int
    images: int = 0
    image_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StepTime:
    """When a step's worker is free for the next one, and how much later its results are out (pipeline stages)."""

    busy_ns: int
    lag_ns: int = 0


class CostModel(Protocol):
    """Times of one worker's steps."""

    def step(self, shape: StepShape) -> StepTime:
        """Time of any step."""

    def decode_ns(self, rows: int, context: int, count: int) -> NDArray[np.int64]:
        """Times of `count` steps of the same decodes, whose context grows by `rows` each step: int64, [count].

        Entry i is exactly `step` of that shape.
        """


def shape_of(batch: ScheduledBatch) -> StepShape:
    """The shape of a scheduled batch."""
    if batch.images:
        return StepShape(0, 0, 0.0, 0, 0, 0, len(batch.images), sum([row.tokens for row in batch.images]))
    tokens, pairs, cached = 0, 0.0, 0
    for row in batch.chunks:
        count = len(row.token_ids)
        tokens += count
        pairs += count * (row.start + (count + 1) / 2)
        cached += row.start
    decodes = batch.decodes
    rows, context = (0, 0) if decodes is None else (len(decodes.starts), sum(decodes.starts) + len(decodes.starts))
    return StepShape(len(batch.chunks), tokens, pairs, cached, rows, context)


def nanoseconds(ms: float) -> int:
    """Milliseconds as whole nanoseconds, rounded as numpy does it; at least one."""
    return max(1, round(ms * NS_PER_MS))


def nanoseconds_each(ms: NDArray[np.float64]) -> NDArray[np.int64]:
    """`nanoseconds` of every entry."""
    found: NDArray[np.int64] = np.maximum(np.rint(ms * NS_PER_MS), 1).astype(np.int64)
    return found


@dataclass(frozen=True, slots=True)
class Linear:
    """A fixed time, one for each unit, one for each token looked at; all in ms."""

    fixed: float
    unit: float
    context: float

    def ms(self, units: float, context: float) -> float:
        """Time of `units` (tokens or rows) that look at `context` tokens."""
        return self.fixed + units * self.unit + context * self.context

    def each_ms(self, units: float, contexts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same for each of several contexts: float64, [contexts]."""
        return self.fixed + units * self.unit + contexts * self.context

    def divided(self, share: float) -> Linear:
        """Every time divided by `share`."""
        return Linear(self.fixed / share, self.unit / share, self.context / share)


@dataclass(frozen=True, slots=True)
class FittedCost:
    """Linear costs, as profiles of a machine give them (DistServe, appendix A).

    Attributes:
        prefill: units are tokens, context is pairs.
        decode: units are rows.
        decode_many: from `many_rows` rows on, where kernels change.
        stages: of a pipeline. A worker is free for the next prompts when its first stage is; decodes wait for their
            last one, and go through it in as many groups as there are stages.
    """

    prefill: Linear
    decode: Linear
    decode_many: Linear | None = None
    many_rows: int = 0
    stages: int = 1

    def step(self, shape: StepShape) -> StepTime:
        """Time of any step."""
        if not shape.rows:
            whole_ms = self.prefill.ms(shape.tokens, shape.pairs)
            busy = nanoseconds(whole_ms / self.stages)
            return StepTime(busy, busy * (self.stages - 1))
        decode = self._decode(shape.rows)
        decode_ms = decode.ms(shape.rows / self.stages, float(shape.context) / self.stages)
        if not shape.tokens:
            return StepTime(nanoseconds(decode_ms))
        prefill_ms = self.prefill.ms(shape.tokens / self.stages, shape.pairs / self.stages)
        return StepTime(nanoseconds(decode_ms + prefill_ms - min(decode.fixed, self.prefill.fixed)))

    def decode_ns(self, rows: int, context: int, count: int) -> NDArray[np.int64]:
        """Times of `count` steps of the same decodes, whose context grows by `rows` each step: int64, [count]."""
        contexts = context + rows * np.arange(count, dtype=np.float64)
        return nanoseconds_each(self._decode(rows).each_ms(rows / self.stages, contexts / self.stages))

    def _decode(self, rows: int) -> Linear:
        many = self.decode_many
        return self.decode if many is None or rows / self.stages < self.many_rows else many


def fitted(cost: CostConfig) -> FittedCost:
    """The coefficients of `core/cost.py`."""
    return FittedCost(
        Linear(cost.prefill_ms, cost.prefill_token_ms, cost.prefill_pair_ms),
        Linear(cost.decode_step_ms, cost.decode_row_ms, cost.decode_context_ms),
    )


@dataclass(frozen=True, slots=True)
class WithImages:
    """A cost model that knows what encoding takes, too.

    Attributes:
        encode: units are tokens of embeddings, context is images.
    """

    inner: CostModel
    encode: Linear

    def step(self, shape: StepShape) -> StepTime:
        """Time of any step."""
        if not shape.images:
            return self.inner.step(shape)
        return StepTime(nanoseconds(self.encode.ms(shape.image_tokens, float(shape.images))))

    def decode_ns(self, rows: int, context: int, count: int) -> NDArray[np.int64]:
        """Times of `count` steps of the same decodes: int64, [count]."""
        return self.inner.decode_ns(rows, context, count)


NO_TOKENS = FittedCost(Linear(0.0, 0.0, 0.0), Linear(0.0, 0.0, 0.0))
"""Of a worker that is never given any."""

# Coefficients that DistServe's authors fitted on A100-80G (github.com/LLMServe/DistServe,
# simdistserve/estimators/profile_data/profiler-a100-80g.distserve.json; Zhong et al., OSDI 2024, appendix A), by tensor
# parallelism: prefill (fixed, each token, each squared length), decode below 95 rows and from there on (fixed, each
# token looked at, each row). One revision of their simulator multiplies prefill by 1.1; that one is used here.
OPT_13B_A100 = {
    1: ((16.45686, 0.0926475, 6.47479e-06), (19.93470, 0.000626936, 0.0385070), (7.16619, 0.000579800, 0.158311)),
    2: ((13.40270, 0.0623429, 2.22688e-06), (13.29480, 0.000341092, 0.0629639), (10.63874, 0.000311834, 0.0856291)),
    4: ((10.96572, 0.0346195, 4.75114e-07), (10.25623, 0.000187867, 0.0326927), (10.48351, 0.000171209, 0.0456665)),
}
PREFILL_FACTOR = 1.1
MANY_ROWS = 95


def opt_13b_a100(tp: int = 1, stages: int = 1) -> FittedCost:
    """OPT-13B on A100-80G as DistServe's authors fitted it.

    Raises:
        ConfigError: a tensor parallelism that they did not publish.
    """
    if tp not in OPT_13B_A100:
        raise ConfigError("tp", tp, f"published for {', '.join(map(str, OPT_13B_A100))}; choose one of these")
    (fixed, token, square), few, many = OPT_13B_A100[tp]
    # A prompt of n tokens has about n^2 / 2 pairs.
    prefill = Linear(fixed, token, 2 * square).divided(1 / PREFILL_FACTOR)
    below, above = (Linear(fixed, row, context) for fixed, context, row in (few, many))
    return FittedCost(prefill, below, above, MANY_ROWS, stages)


def pipelined(cost: FittedCost, stages: int) -> FittedCost:
    """The same model cut into equal stages."""
    return replace(cost, stages=stages)
