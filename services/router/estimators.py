"""Online estimators: a line fitted to times, quantiles of lengths, and a slowly moving level; bounded, no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence

FORGETTING = 0.995
"""Weight of an observation after one more (recursive least squares with forgetting)."""
NOISE = 0.01
"""Variance of a measured time, as a share of it squared: one tenth."""
PRIOR_VARIANCE = 1.0
"""Of a coefficient, in units of its prior: it may well be twice as large, or nothing."""
LEAST_SHARE = 1e-3
"""Coefficients are corrected in steps of their prior; one of 0 gets this share of the largest one's step."""
CLIP = 4.0
"""A residual above this many usual ones counts the less the larger it is (Huber's weights): one stall moves little."""
FIRST_ERROR = 20.0
"""The usual residual before any is known, so that the first observations correct a prior of another machine."""
LEAST_ERROR = 0.02
LEAST_MS = 0.05
"""Times below it count as this long."""


class Line:
    """ms = c . features, by recursive least squares of relative errors with forgetting; no coefficient below zero.

    What is kept are the normal equations, in units of the prior: A c = b. The prior is in them as one observation of
    each coefficient that is never forgotten. A coefficient that would be negative is held at zero while the others are
    solved for, so that one odd observation is made good by the next ones.

    Args:
        prior: ms for one unit of each feature.
        typical: usual size of each feature; a coefficient with a prior of 0 is corrected in steps of its share.
    """

    def __init__(self, prior: Sequence[float], typical: Sequence[float]) -> None:
        size = len(prior)
        whole = sum(value * usual for value, usual in zip(prior, typical, strict=True))
        least = max(whole, 1.0) * LEAST_SHARE
        self._unit = [max(value, least / usual) for value, usual in zip(prior, typical, strict=True)]
        self._prior = [value / unit for value, unit in zip(prior, self._unit, strict=True)]
        self.coefficients = [float(value) for value in prior]
        self._seen = [[0.0] * size for _ in range(size)]
        self._sums = [0.0] * size
        self._usual_error = FIRST_ERROR
        self.count = 0

    def ms(self, features: Sequence[float]) -> float:
        """The predicted time."""
        return sum([value * each for value, each in zip(self.coefficients, features, strict=True)])

    def observe(self, features: Sequence[float], ms: float) -> float:
        """Learn from one measured time; returns (predicted - measured) / measured as it was before."""
        scale = max(ms, LEAST_MS)
        error = (self.ms(features) - ms) / scale
        limit = CLIP * self._usual_error
        self._usual_error = max(LEAST_ERROR, 0.9 * self._usual_error + 0.1 * min(abs(error), 2 * limit))
        weight = min(1.0, limit / max(abs(error), 1e-9)) / NOISE
        row = [each * unit / scale for each, unit in zip(features, self._unit, strict=True)]
        for i, x in enumerate(row):
            line = self._seen[i]
            self._sums[i] = self._sums[i] * FORGETTING + weight * x * ms / scale
            for j, y in enumerate(row):
                line[j] = line[j] * FORGETTING + weight * x * y
        self.coefficients = [value * unit for value, unit in zip(self._solved(), self._unit, strict=True)]
        self.count += 1
        return error

    def _solved(self) -> list[float]:
        """The coefficients that fit best, in units of the prior, none below zero."""
        size = len(self._prior)
        active = list(range(size))
        while active:
            found = solve(
                [[self._seen[i][j] + (1 / PRIOR_VARIANCE if i == j else 0.0) for j in active] for i in active],
                [self._sums[i] + self._prior[i] / PRIOR_VARIANCE for i in active],
            )
            if min(found) >= 0:
                break
            del active[found.index(min(found))]
        return [found[active.index(i)] if i in active else 0.0 for i in range(size)]

    def state(self) -> object:
        """Coefficients and what they rest on."""
        return [self.coefficients, self._seen, self._sums, self._usual_error, self.count]


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """x of A x = b for a small positive definite A, by elimination without pivots; both arguments are used up."""
    size = len(right)
    for i in range(size):
        for k in range(i + 1, size):
            share = matrix[k][i] / matrix[i][i]
            for j in range(i, size):
                matrix[k][j] -= share * matrix[i][j]
            right[k] -= share * right[i]
    for i in reversed(range(size)):
        right[i] = (right[i] - sum([matrix[i][j] * right[j] for j in range(i + 1, size)])) / matrix[i][i]
    return right


PER_OCTAVE = 4
DECAY = 0.998
MOST_KEYS = 512
LEAST_SEEN = 8
"""Ends of requests of one kind after which it is told from all others."""


class _Histogram:
    """Decaying counts of lengths in buckets of a quarter of an octave."""

    def __init__(self) -> None:
        self.counts: list[float] = []
        self.total = 0.0
        self.seen = 0
        self.quantiles: dict[float, int] = {}

    def add(self, length: int) -> None:
        bucket = int(PER_OCTAVE * math.log2(max(length, 1)))
        if bucket >= len(self.counts):
            self.counts += [0.0] * (bucket + 1 - len(self.counts))
        self.counts = [count * DECAY for count in self.counts]
        self.counts[bucket] += 1.0
        self.total = self.total * DECAY + 1.0
        self.seen += 1
        self.quantiles.clear()

    def quantile(self, share: float) -> int:
        """Upper end of the bucket that has it."""
        found = self.quantiles.get(share)
        if found is None:
            left, bucket = share * self.total, 0
            while left > self.counts[bucket] and bucket + 1 < len(self.counts):
                left -= self.counts[bucket]
                bucket += 1
            found = self.quantiles[share] = math.ceil(2 ** ((bucket + 1) / PER_OCTAVE))
        return found


class OutputLengths:
    """Quantiles of output lengths by tenant and category (CASTILLO: a distribution, never one number).

    Args:
        prior: tokens, while nothing was seen.
    """

    def __init__(self, prior: int) -> None:
        self._prior = prior
        self._all = _Histogram()
        self._by_kind: dict[tuple[str, str], _Histogram] = {}

    def observe(self, tenant: str, category: str, length: int) -> None:
        """A request ended with so many tokens. The kind that was not seen for longest makes room."""
        self._all.add(length)
        found = self._by_kind.pop((tenant, category), None) or _Histogram()
        found.add(length)
        self._by_kind[tenant, category] = found
        if len(self._by_kind) > MOST_KEYS:
            del self._by_kind[next(iter(self._by_kind))]

    def quantile(self, tenant: str, category: str, share: float, most: int) -> int:
        """Tokens that this share of such requests stays below; at most `most`, which the client allows."""
        found = self._by_kind.get((tenant, category))
        if found is None or found.seen < LEAST_SEEN:
            found = self._all
        return min(found.quantile(share) if found.seen >= LEAST_SEEN else self._prior, most)

    def state(self) -> object:
        """Counts by kind."""
        kinds = [[list(kind), each.counts, each.seen] for kind, each in self._by_kind.items()]
        return [self._all.counts, self._all.seen, kinds]


class Level:
    """A number that follows what is observed by steps of a share of its distance, each bounded (robust mean)."""

    def __init__(self, prior: float, step: float = 0.05) -> None:
        self.value, self._step, self._spread = prior, step, max(abs(prior), 1.0)

    def observe(self, value: float) -> None:
        """Take one observation."""
        distance = value - self.value
        limit = CLIP * self._spread
        self._spread = 0.95 * self._spread + 0.05 * min(abs(distance), 2 * limit)
        self.value += self._step * min(max(distance, -limit), limit)

    def state(self) -> object:
        """Level and spread."""
        return [self.value, self._spread]
