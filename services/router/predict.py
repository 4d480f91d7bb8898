"""What a placement will take, in milliseconds, learned from what requests took (formulas: `core/cost.py`).

    prefill of x tokens after c cached ones   a0 + a1 x + a2 x (c + (x + 1) / 2)     by pool
    decode step of b rows over K tokens       b0 + b1 b + b2 K                       by pool
    hand-off of n tokens                      t0 + t1 n                              one host, or two
    all else before the first token           a level                                by pool of the prefill

Until a class of workers has told enough, the configured coefficients (`router.cost`) are believed.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field

from services.core.clock import NS_PER_MS
from services.core.config import CostConfig
from services.core.output import RequestOutput
from services.core.timeline import MarkKind
from services.router.estimators import Level, Line, OutputLengths

OUTPUT_PRIOR = 128
"""Tokens of an output while none has ended."""
PROMPT_PRIOR = 512.0
LEAST_DECODE_TOKENS = 4
"""Outputs that are shorter tell too little of a step's time."""
MOST_PROMPTS = 16
"""After so many prompts a worker's busy time is measured even if it goes on."""
PREFILL, DECODE = (1.0, 512.0, 131072.0), (1.0, 16.0, 8192.0)
"""Typical features of a prompt and of a decode step."""


@dataclass(slots=True)
class PoolTimes:
    """Estimators of one class of workers."""

    prefill: Line
    decode: Line
    overhead: Level


@dataclass(slots=True)
class _Busy:
    """A time in which one worker computed prompts, and which ones.

    Steps pack prompts and cut them into chunks, so that the time between start and end of one prompt is its
    neighbours' too. What can be measured is all of them together, from a moment that no prompt spans to the next.
    """

    start_ns: int
    end_ns: int
    steps: int
    prompts: int
    tokens: float
    pairs: float


@dataclass(frozen=True, slots=True)
class Rates:
    """What one class of workers takes, by all that was observed so far.

    Attributes:
        pool: name of the class.
        prefill, decode: coefficients a0 a1 a2 and b0 b1 b2.
        overhead_ms: all else before the first token.
        queued_token_ms: of a prompt token in a queue of which nothing else is known.
    """

    pool: str
    prefill: tuple[float, float, float]
    decode: tuple[float, float, float]
    overhead_ms: float
    queued_token_ms: float

    @property
    def row_ms(self) -> float:
        """Time of one more request in a decode step."""
        return self.decode[1]

    @property
    def context_ms(self) -> float:
        """Time of one more token that a decode step looks at."""
        return self.decode[2]

    def prefill_ms(self, tokens: int, cached: int) -> float:
        """Time to compute a prompt of which some tokens are in the prefix cache."""
        computed = tokens - cached
        a0, a1, a2 = self.prefill
        return a0 + computed * (a1 + a2 * (cached + (computed + 1) / 2))

    def step_ms(self, num_rows: float, context_tokens: float) -> float:
        """Time of a decode step."""
        b0, b1, b2 = self.decode
        return b0 + b1 * num_rows + b2 * context_tokens


@dataclass(slots=True)
class Predictor:
    """Every estimator of a front door.

    Attributes:
        pools: by name.
        transfers: between two hosts, and on one.
        lengths: of outputs.
        prompt_tokens: mean tokens of a prompt that are computed.
    """

    cost: CostConfig
    pools: dict[str, PoolTimes] = field(default_factory=dict)
    lengths: OutputLengths = field(default_factory=lambda: OutputLengths(OUTPUT_PRIOR))
    prompt_tokens: Level = field(default_factory=lambda: Level(PROMPT_PRIOR))
    transfers: tuple[Line, Line] = field(init=False)
    _busy: dict[str, _Busy] = field(default_factory=dict)
    _rates: dict[str, Rates] = field(default_factory=dict)  # made of the above, until something is observed

    def __post_init__(self) -> None:
        prior = (self.cost.transfer_ms, self.cost.transfer_token_ms)
        self.transfers = (Line(prior, (1.0, 512.0)), Line(prior, (1.0, 512.0)))

    def aside(self) -> Predictor:
        """The same estimators, where those that are made when somebody asks for them stay with the copy."""
        found = copy(self)
        found.pools, found._busy, found._rates = dict(self.pools), dict(self._busy), dict(self._rates)
        return found

    def times(self, pool: str) -> PoolTimes:
        """The estimators of a pool; new ones believe the configuration."""
        found = self.pools.get(pool)
        if found is None:
            cost = self.cost
            found = self.pools[pool] = PoolTimes(
                Line((cost.prefill_ms, cost.prefill_token_ms, cost.prefill_pair_ms), PREFILL),
                Line((cost.decode_step_ms, cost.decode_row_ms, cost.decode_context_ms), DECODE),
                Level(0.0),
            )
        return found

    def rates(self, pool: str) -> Rates:
        """What its workers take now."""
        found = self._rates.get(pool)
        if found is None:
            each, usual = self.times(pool), max(self.prompt_tokens.value, 1.0)
            a0, a1, a2 = each.prefill.coefficients
            token_ms = each.prefill.ms((1.0, usual, usual * usual / 2)) / usual
            b0, b1, b2 = each.decode.coefficients
            found = self._rates[pool] = Rates(pool, (a0, a1, a2), (b0, b1, b2), max(each.overhead.value, 0.0), token_ms)
        return found

    def transfer_ms(self, tokens: int, same_host: bool) -> float:
        """Time from the end of prefill to the commit of its KV elsewhere."""
        return self.transfers[same_host].ms((1.0, float(tokens)))

    # --- observations -------------------------------------------------------------------------------------------

    def prompt_computed(self, worker: str, pool: str, tokens: int, output: RequestOutput) -> None:
        """A first token came: its worker says when the prompt began and ended, on its own clock.

        Args:
            tokens: of the prompt, those found in its prefix cache included.
        """
        start = end = None
        for mark in output.marks:
            if mark.kind is MarkKind.PREFILL_START and start is None:
                start = mark.at_ns
            elif mark.kind is MarkKind.PREFILL_END:
                end = mark.at_ns
        if start is None or end is None or end <= start:
            return
        computed = max(tokens - output.cached_tokens, 1)
        self.prompt_tokens.observe(computed)
        self._rates.clear()
        pairs = computed * (output.cached_tokens + (computed + 1) / 2)
        known = self._busy.get(worker)
        if known is not None and (start >= known.end_ns or known.prompts >= MOST_PROMPTS):
            ms = (known.end_ns - known.start_ns) / NS_PER_MS
            self.times(pool).prefill.observe((float(known.steps), known.tokens, known.pairs), ms)
            start, known = max(start, known.end_ns), None
        if known is None:
            self._busy[worker] = _Busy(start, max(end, start + 1), 1, 1, computed, pairs)
            return
        known.steps += end > known.end_ns
        known.start_ns, known.end_ns = min(known.start_ns, start), max(known.end_ns, end)
        known.prompts, known.tokens, known.pairs = known.prompts + 1, known.tokens + computed, known.pairs + pairs

    def surrounded(self, pool: str, ms: float) -> None:
        """All else before a first token, beside the wait and the prefill that were predicted, took so long."""
        self.times(pool).overhead.observe(ms)
        self._rates.pop(pool, None)

    def forget(self, worker: str) -> None:
        """A process is gone, and its clock with it."""
        self._busy.pop(worker, None)

    def handed_off(self, tokens: int, same_host: bool, output: RequestOutput) -> float | None:
        """The first token of a decode worker came: how long the hand-off took, and what was predicted for it, in ms.

        Returns:
            predicted - measured; None when the marks do not tell.
        """
        offered = committed = None
        for mark in output.marks:
            if mark.kind is MarkKind.HANDOFF_GRANTED:
                offered = mark.at_ns  # what the wait for blocks took is no property of the link
            elif mark.kind is MarkKind.HANDOFF_COMMITTED:
                committed = mark.at_ns
        if offered is None or committed is None or committed <= offered:
            return None
        ms = (committed - offered) / NS_PER_MS
        error = self.transfer_ms(tokens, same_host) - ms
        self.transfers[same_host].observe((1.0, float(tokens)), ms)
        return error

    def decoded(self, pool: str, rows: float, context: float, tokens: int, duration_ms: float) -> float | None:
        """A request got so many tokens in a time beside so many others; returns its mean time of a token."""
        if tokens < LEAST_DECODE_TOKENS or duration_ms <= 0:
            return None
        ms = duration_ms / tokens
        self.times(pool).decode.observe((1.0, max(rows, 1.0), context), ms)
        self._rates.pop(pool, None)
        return ms

    def state(self) -> object:
        """All that was learned."""
        return {
            "pools": {
                name: [each.prefill.state(), each.decode.state(), each.overhead.state()]
                for name, each in self.pools.items()
            },
            "transfers": [each.state() for each in self.transfers],
            "lengths": self.lengths.state(),
            "prompt_tokens": self.prompt_tokens.state(),
            "busy": {
                worker: [each.start_ns, each.end_ns, each.steps, each.prompts, each.tokens, each.pairs]
                for worker, each in self._busy.items()
            },
        }
