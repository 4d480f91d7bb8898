"""The report of a run, its JSON form under a schema version, and the statistics in it.

Percentiles are of all samples, never of buckets or of a sketch. Intervals are 95 % bootstrap intervals. The k-th order
statistic of a resample of n sorted values x is x[floor(n u)] where u is the k-th order statistic of n uniform draws,
which is distributed as Beta(k, n - k + 1); so a resample costs one draw (Efron 1979; David and Nagaraja, section 2.3).
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from services.core.errors import ConfigError
from services.core.slo import Slo

SCHEMA = "triptych.report/1"
RESAMPLES = 1000
Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """Summary of `count` values, and 101 evenly spaced quantiles to draw them with."""

    count: int
    mean: float
    p50: Interval
    p90: Interval
    p99: Interval
    max: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One latency in milliseconds from both send times; None when no request has it."""

    intended: Distribution | None
    sent: Distribution | None


@dataclass(frozen=True, slots=True)
class Latency:
    """TPOT and ITL lie between two tokens, so the send time moves them only through the server; e2e is of successes."""

    ttft_ms: Metric
    tpot_ms: Metric
    itl_ms: Metric
    e2e_ms: Metric


@dataclass(frozen=True, slots=True)
class Group:
    """A share of the requests: by category, tenant or length bucket."""

    by: str
    name: str
    judged: int
    met: int
    attainment: Interval
    goodput_rps: float
    ttft_ms: Distribution | None
    tpot_ms: Distribution | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Requests that ended alike, and what one of them said."""

    outcome: str
    reason: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Series:
    """Columns over time, one entry for each `bin_s` seconds; None where no first token was due."""

    bin_s: float
    offered: tuple[int, ...]
    sent: tuple[int, ...]
    ended: tuple[int, ...]
    missed: tuple[int, ...]
    ttft_p50_ms: tuple[float | None, ...]
    ttft_p99_ms: tuple[float | None, ...]
    tpot_p50_ms: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Dispersion:
    """Variance over mean of the arrivals in windows of that length: 1 for Poisson, more for bursts."""

    window_s: float
    source: float
    delivered: float


@dataclass(frozen=True, slots=True)
class Point:
    """One request of the scatter plot."""

    ttft_ms: float
    tpot_ms: float
    met: bool


@dataclass(frozen=True, slots=True)
class Phase:
    """Time that the server says requests spent in one phase."""

    name: str
    ms: Distribution


@dataclass(frozen=True, slots=True)
class Bar:
    """One phase of one request in the waterfall: when it began after the request was received, and how long it was."""

    name: str
    start_ms: float
    ms: float


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Where the time of one request went, as the server tells it.

    Attributes:
        index: place in the schedule.
        ttft_ms: when its client read the first token, from the actual send time; None without one.
        e2e_ms: when its stream ended, from there too.
        bars: its phases.
    """

    index: int
    ttft_ms: float | None
    e2e_ms: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class GeneratorTruth:
    """What the generator says about itself.

    Attributes:
        processes: how many sent.
        send_lag_ms: actual minus intended send time.
        loop_lag_ms: how late a timer of the sending loop fired: an upper bound of the error of every read time.
        achieved: requests sent over requests offered until the run ended.
        worst_second: the same of the worst second with at least ten offered, sent late counted as not sent.
        cpu_cores: processor time of the sending processes over the run's length.
        rss_mib: resident memory of all sending processes, a value for each tenth of the run.
        waited_for_a_slot: requests that were late because as many were under way as the run allows.
        bottleneck: why the generator, not the server, limited the run; empty when it did not.
    """

    processes: int
    send_lag_ms: Distribution | None
    loop_lag_ms: Distribution | None
    achieved: float
    worst_second: float
    cpu_cores: float
    rss_mib: tuple[float, ...]
    waited_for_a_slot: int
    bottleneck: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run found."""

    schema: str
    name: str
    target: str
    workload: str
    notes: tuple[str, ...]
    seed: int
    started_unix_ms: int
    interrupted: bool
    slo: Slo
    duration_s: float
    offered: int
    sent: int
    succeeded: int
    judged: int
    met: int
    attainment: Interval
    goodput_rps: Interval
    offered_rps: float
    output_tokens_per_s: float
    input_tokens: int
    output_tokens: int
    short_outputs: int
    cached_tokens: int
    latency: Latency
    groups: tuple[Group, ...]
    failures: tuple[Failure, ...]
    series: Series
    dispersion: tuple[Dispersion, ...]
    scatter: tuple[Point, ...]
    phases: tuple[Phase, ...]
    generator: GeneratorTruth
    slowest: tuple[Waterfall, ...] = ()
    """Slowest first; only of a server that tells when phases began. Reports before it had none."""


# ------------------------------------------------------------------ statistics


def quantile_rank(count: int, quantile: float) -> int:
    """1-based rank of a quantile among `count` sorted values: the smallest with at least that share at or below it."""
    return max(1, math.ceil(count * quantile))


def resampled_quantile(ordered: Floats, quantile: float, random: np.random.Generator) -> Floats:
    """The quantile in each of RESAMPLES bootstrap resamples of the sorted values [n]; float64 [RESAMPLES]."""
    count = len(ordered)
    rank = quantile_rank(count, quantile)
    places = random.beta(rank, count - rank + 1, RESAMPLES) * count
    resampled: Floats = ordered[np.minimum(places.astype(np.int64), count - 1)]
    return resampled


def interval(value: float, resamples: Floats) -> Interval:
    """The value between the 2.5 % and the 97.5 % quantile of its resamples."""
    low, high = np.quantile(resamples, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def distribution(values: Sequence[float] | Floats, random: np.random.Generator) -> Distribution | None:
    """Summary of the values in any order; None of none."""
    if len(values) == 0:
        return None
    ordered = np.sort(np.asarray(values, dtype=np.float64))

    def at(quantile: float) -> Interval:
        value = float(ordered[quantile_rank(len(ordered), quantile) - 1])
        return interval(value, resampled_quantile(ordered, quantile, random))

    places = np.linspace(0, len(ordered) - 1, 101).round().astype(np.int64)
    return Distribution(
        len(ordered),
        float(ordered.mean()),
        at(0.5),
        at(0.9),
        at(0.99),
        float(ordered[-1]),
        tuple(float(each) for each in ordered[places]),
    )


def proportion(hits: int, count: int, random: np.random.Generator) -> Interval:
    """hits / count with its bootstrap interval: resamples of a proportion are binomial. 0 of 0 is 0."""
    if count == 0:
        return Interval(0.0, 0.0, 0.0)
    return interval(hits / count, random.binomial(count, hits / count, RESAMPLES) / count)


# ------------------------------------------------------------------ JSON


def report_to_json(report: Report) -> dict[str, Any]:
    """A value that `json` writes."""
    return dataclasses.asdict(report)


def report_from_json(data: Any, where: str) -> Report:
    """The report that `report_to_json` gave.

    Args:
        data: parsed JSON.
        where: name of the file, for the message.

    Raises:
        ConfigError: another schema, or a field that is missing or of the wrong type.
    """
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        raise ConfigError(f"{where}: schema", found, f"this is no {SCHEMA} report; write one with `loadgen report`")
    try:
        report: Report = _build(Report, data)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(where, str(error), "the report is damaged; write it again with `loadgen report`") from None
    return report


def _build(kind: Any, data: Any) -> Any:
    """`data` as the annotated type `kind`: dataclasses, tuples, unions with None and plain values."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return None if data is None else _build(next(each for each in args if each is not type(None)), data)
    if origin is tuple:
        return tuple(_build(args[0], each) for each in data)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _build(hint, data[name]) for name, hint in hints.items() if name in data})  # type: ignore[operator]
    if not isinstance(data, (int, float) if kind is float else kind):
        raise TypeError(f"{data!r} is no {kind.__name__}")
    return data
