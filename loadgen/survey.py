"""What a trace is like: arrivals, their dispersion, lengths, sharing of prefixes, and what to beware of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.core.workload import WorkloadRow

WINDOWS_S = (1, 10, 60, 300)
PERCENTILES = (5, 50, 90, 99, 100)
QUANTISED_SHARE = 0.5
"""More than this share of gaps of exactly zero means that times were rounded."""
HEAD_SHARE, HEAD_RATIO = 0.1, 0.25
"""A first tenth whose rate is below a quarter of the mean is a bad slice of a trace."""
CURVE_POINTS = 48


@dataclass(slots=True)
class Survey:
    """Statistics of a trace; rates per second, lengths in tokens.

    Attributes:
        gap_cv: coefficient of variation of the gaps between arrivals.
        dispersion: variance over mean of counts in windows of so many seconds; 1 for a Poisson process.
        rates: requests per second in each of CURVE_POINTS equal parts of the span; empty where it is 0.
        block_hits: share of prefix blocks that an unbounded cache would have seen before, in order of arrival.
        warnings: sentences.
    """

    rows: int = 0
    span_s: float = 0.0
    rate: float = 0.0
    gap_cv: float = 0.0
    zero_gaps: float = 0.0
    dispersion: dict[str, float] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    input_tokens: dict[str, float] = field(default_factory=dict)
    output_tokens: dict[str, float] = field(default_factory=dict)
    sessions: int = 0
    turns_per_session: float = 0.0
    failed: int = 0
    images: int = 0
    block_tokens: int = 0
    block_hits: float | None = None
    busiest_minute_rate: float = 0.0
    busiest_minute_starts_s: float = 0.0
    categories: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class PrefixTree:
    """An unbounded exact prefix cache. Ids are chained, so a block that was seen had all its predecessors seen."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self.blocks = 0
        self.hits = 0

    def add(self, prefix: tuple[int, ...]) -> int:
        """Look a prompt's blocks up and keep them; how many leading ones were there."""
        hits = 0
        for block in prefix:
            if block not in self._seen:
                break
            hits += 1
        self._seen.update(prefix[hits:])
        self.blocks += len(prefix)
        self.hits += hits
        return hits

    @property
    def hit_rate(self) -> float:
        """Hits over blocks looked up; 0 before the first."""
        return self.hits / self.blocks if self.blocks else 0.0


def survey(rows: Iterable[WorkloadRow]) -> Survey:
    """Read a trace once; memory grows by a few numbers a row."""
    arrivals: list[float] = []
    inputs: list[int] = []
    outputs: list[int] = []
    found, tree = Survey(), PrefixTree()
    sessions: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    models: Counter[str] = Counter()
    for row in rows:
        arrivals.append(row.arrival_s)
        if row.input_tokens or not row.failed:  # 0 of a failed request is no length
            inputs.append(row.input_tokens)
        if row.output_tokens or not row.failed:
            outputs.append(row.output_tokens)
        found.failed += row.failed
        found.images += row.images
        sessions[row.session] += 1
        categories[row.category] += 1
        models[row.model] += 1
        if row.prefix:
            tree.add(row.prefix)
            found.block_tokens = row.prefix_block_tokens
    found.rows = len(arrivals)
    sessions.pop("", None)
    found.sessions = len(sessions)
    found.turns_per_session = sum(sessions.values()) / len(sessions) if sessions else 0.0
    found.categories, found.models = _named(categories), _named(models)
    found.block_hits = tree.hit_rate if tree.blocks else None
    if arrivals:
        found.input_tokens, found.output_tokens = _lengths(inputs or [0]), _lengths(outputs or [0])
        _arrivals(found, np.array(arrivals))
    return found


def gap_cv(arrivals: NDArray[np.float64]) -> float:
    """Coefficient of variation of the gaps; 0 of fewer than three arrivals."""
    gaps = np.diff(arrivals)
    return float(gaps.std() / gaps.mean()) if len(gaps) > 1 and gaps.mean() > 0 else 0.0


def dispersion(arrivals: NDArray[np.float64], window_s: float) -> float:
    """Variance over mean of the counts in whole windows; 0 of fewer than two windows."""
    windows = int((arrivals[-1] - arrivals[0]) // window_s)
    if windows < 2:
        return 0.0
    places = ((arrivals - arrivals[0]) // window_s).astype(np.int64)
    counts = np.bincount(places[places < windows], minlength=windows)
    return float(counts.var() / counts.mean()) if counts.mean() else 0.0


def _arrivals(found: Survey, arrivals: NDArray[np.float64]) -> None:
    found.span_s = float(arrivals[-1] - arrivals[0])
    found.rate = (found.rows - 1) / found.span_s if found.span_s > 0 else 0.0
    found.gap_cv = gap_cv(arrivals)
    found.dispersion = {str(window): dispersion(arrivals, window) for window in WINDOWS_S}
    gaps = np.diff(arrivals)
    found.zero_gaps = float((gaps == 0).mean()) if len(gaps) else 0.0
    starts = np.searchsorted(arrivals, arrivals - 60.0, side="left")
    counts = np.arange(len(arrivals)) - starts + 1
    busiest = int(counts.argmax())
    found.busiest_minute_rate = float(counts[busiest]) / 60
    found.busiest_minute_starts_s = float(arrivals[starts[busiest]])
    if found.zero_gaps > QUANTISED_SHARE:
        ticks = np.unique(arrivals)
        tick = float(np.median(np.diff(ticks))) if len(ticks) > 1 else 0.0
        found.warnings.append(
            f"{found.zero_gaps:.0%} of arrivals fall together: times were rounded to about {tick:g} s; "
            f"replay with --dither-s {tick:g}, or bursts are an artefact"
        )
    if found.span_s > 0:
        counted = np.histogram(arrivals, CURVE_POINTS, (arrivals[0], arrivals[-1]))[0]
        found.rates = [float(each) * CURVE_POINTS / found.span_s for each in counted]
        head = float((arrivals <= arrivals[0] + HEAD_SHARE * found.span_s).mean()) / HEAD_SHARE
        if head < HEAD_RATIO:
            found.warnings.append(
                f"the first tenth of the trace has {head:.0%} of the mean rate: choose a window by rate, not the head"
            )


def _lengths(values: list[int]) -> dict[str, float]:
    array = np.array(values)
    named = {f"p{percentile}": float(np.percentile(array, percentile)) for percentile in PERCENTILES}
    return {"mean": float(array.mean()), **named}


def _named(counts: Counter[str]) -> dict[str, int]:
    return {} if set(counts) == {""} else dict(counts.most_common(20))
