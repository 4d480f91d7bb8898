"""What the requests of the last minute looked like, for people who watch: exact quantiles, without a metrics server."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.core.clock import NS_PER_S

WINDOW_S = 60
MAX_GAPS = 100_000
"""Times between tokens that are kept; beyond it the oldest requests are forgotten before their minute is over."""
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Ended:
    """One request.

    Attributes:
        at_ns: when it ended, monotonic.
        ttft_s: time to the first token; None: there was none.
        gaps_s: times between its tokens.
    """

    at_ns: int
    ttft_s: float | None
    gaps_s: Sequence[float]
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """How a time was spread.

    Attributes:
        quantiles_ms: 50, 90 and 99 %; none without an observation.
        kept: share within the bound.
    """

    quantiles_ms: tuple[float, ...]
    kept: float


@dataclass(frozen=True, slots=True)
class Minute:
    """The last minute."""

    requests: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft: Spread
    itl: Spread


class RecentRequests:
    """The requests that ended in the last minute."""

    def __init__(self) -> None:
        self._kept: deque[Ended] = deque()
        self._num_gaps = 0

    def add(self, ended: Ended) -> None:
        """One more."""
        self._kept.append(ended)
        self._num_gaps += len(ended.gaps_s)
        self._forget(ended.at_ns)

    def minute(self, now: int, ttft_bound_ms: float, itl_bound_ms: float) -> Minute:
        """All of them together."""
        self._forget(now)
        kept = self._kept
        return Minute(
            requests=len(kept),
            failed=sum(each.failed for each in kept),
            prompt_tokens=sum(each.prompt_tokens for each in kept),
            cached_tokens=sum(each.cached_tokens for each in kept),
            output_tokens=sum(each.output_tokens for each in kept),
            ttft=spread([each.ttft_s for each in kept if each.ttft_s is not None], ttft_bound_ms),
            itl=spread([gap for each in kept for gap in each.gaps_s], itl_bound_ms),
        )

    def _forget(self, now: int) -> None:
        while self._kept and (self._kept[0].at_ns < now - WINDOW_S * NS_PER_S or self._num_gaps > MAX_GAPS):
            self._num_gaps -= len(self._kept.popleft().gaps_s)


def spread(seconds: Sequence[float], bound_ms: float) -> Spread:
    """Quantiles, and the share within a bound."""
    if not seconds:
        return Spread((), 1.0)
    found = np.asarray(seconds) * 1000
    return Spread(tuple(float(each) for each in np.quantile(found, QUANTILES)), float(np.mean(found <= bound_ms)))
