"""How long prompts and outputs are, in tokens: fixed, log-normal, by given weights, or as in a trace."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np

from services.core.errors import ConfigError
from services.core.seeds import numpy_stream
from services.core.workload import WorkloadRow

Z90 = 1.2815515594600038
"""The standard normal's 90th percentile."""
MAX_TOKENS = 10_000_000


class Length(Protocol):
    """A distribution of lengths."""

    def draw(self, draws: np.random.Generator) -> int:
        """One length."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same length."""

    tokens: int

    def draw(self, draws: np.random.Generator) -> int:
        """That length; takes nothing from the stream."""
        return self.tokens


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Log-normal by what people know of a workload: half of the lengths are below `median`, nine tenths below `p90`."""

    median: float
    p90: float

    def draw(self, draws: np.random.Generator) -> int:
        """exp(N(ln median, sigma)) with sigma = ln(p90 / median) / z(0.9), rounded."""
        sigma = math.log(self.p90 / self.median) / Z90
        return min(round(self.median * math.exp(sigma * float(draws.standard_normal()))), MAX_TOKENS)


@dataclass(frozen=True, slots=True)
class Empirical:
    """Lengths with given weights.

    Attributes:
        values: the lengths.
        cumulative: sums of their weights, one a length; need not end at 1.
    """

    values: tuple[int, ...]
    cumulative: tuple[float, ...]

    def draw(self, draws: np.random.Generator) -> int:
        """By inversion of the cumulative weights."""
        place = bisect_right(self.cumulative, float(draws.random()) * self.cumulative[-1])
        return self.values[min(place, len(self.values) - 1)]


def empirical(weights: Mapping[int, float]) -> Empirical:
    """Of lengths and their weights.

    Raises:
        ValueError: none, a length below 0 or no integer, or weights that are no numbers, below 0 or all 0.
    """
    for length, weight in weights.items():
        if type(length) is not int or not 0 <= length <= MAX_TOKENS:
            raise ValueError(f"{length!r} is no length")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f"{weight!r} is no weight")
    found = Empirical(tuple(weights), tuple(accumulate(map(float, weights.values()))))
    if not found.values or found.cumulative[-1] <= 0:
        raise ValueError("no weight above 0")
    return found


class Lengths(Protocol):
    """Both lengths of a request."""

    def pair(self, draws: np.random.Generator) -> tuple[int, int]:
        """Tokens of a prompt and of its output."""


@dataclass(frozen=True, slots=True)
class Independent:
    """Prompt and output, drawn one after the other."""

    prompt: Length
    output: Length

    def pair(self, draws: np.random.Generator) -> tuple[int, int]:
        """Tokens of a prompt and of its output, at least 1 each."""
        return max(1, self.prompt.draw(draws)), max(1, self.output.draw(draws))


@dataclass(frozen=True, slots=True)
class Sample:
    """Both lengths of a request of a trace, so that what belongs together stays together."""

    pairs: tuple[tuple[int, int], ...]

    def pair(self, draws: np.random.Generator) -> tuple[int, int]:
        """One of the pairs, each as likely as the others."""
        return self.pairs[int(draws.integers(len(self.pairs)))]


def sample(rows: Iterable[WorkloadRow], field: str) -> Sample:
    """The lengths of a trace's rows; those of failed requests are left out.

    Raises:
        ConfigError: there is none.
    """
    pairs = tuple((row.input_tokens, row.output_tokens) for row in rows if row.output_tokens)
    if not pairs:
        raise ConfigError(field, "", "has no row with an output; name a trace that has")
    return Sample(pairs)


def parse_length(text: str, field: str) -> Length:
    """`256`, or `lognormal:MEDIAN,P90`.

    Raises:
        ConfigError: it is neither, or out of range.
    """
    name, colon, numbers = text.partition(":")
    try:
        values = [float(each) for each in (numbers if colon else text).split(",")]
    except ValueError:
        values = []
    fix = "write tokens, as 256, or lognormal:MEDIAN,P90, as lognormal:512,2048"
    if not colon and len(values) == 1:
        if not (1 <= values[0] <= MAX_TOKENS and values[0] == int(values[0])):
            raise ConfigError(field, text, f"must be a whole number of tokens from 1 to {MAX_TOKENS}; {fix}")
        return Fixed(int(values[0]))
    if name == "lognormal" and len(values) == 2:
        median, p90 = values
        if not 1 <= median < p90 <= MAX_TOKENS:
            raise ConfigError(field, text, f"needs 1 <= MEDIAN < P90 <= {MAX_TOKENS}")
        return LogNormal(median, p90)
    raise ConfigError(field, text, fix)


def drawn(arrivals: Iterable[float], lengths: Lengths, seed: int) -> Iterator[WorkloadRow]:
    """A row for each arrival, with lengths from a stream of their own: other arrivals leave the lengths as they are."""
    draws = numpy_stream(seed, "loadgen/synth/lengths")
    for at_s in arrivals:
        prompt, output = lengths.pair(draws)
        yield WorkloadRow(at_s, prompt, output)
