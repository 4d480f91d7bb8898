"""When requests come: transformations of a trace's rows, and processes that draw arrivals where there is no trace.

Every transformation takes rows in order of arrival and gives rows in order of arrival. None of them thins a session:
turns that lose their predecessors would say nothing about a cache.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.core.errors import ConfigError
from services.core.seeds import derive_seed, numpy_stream, stream
from services.core.workload import WorkloadRow

HEAD_SHARE, HEAD_RATIO = 0.1, 0.25
"""A window that begins in a trace's first tenth and has less than a quarter of its mean rate is its ramp-up."""
WINDOW_STEPS = 20
"""Windows are tried at so many places per window length."""
ROUNDING_S = 1e-6
SEED_RANGE = 1 << 63
FAMILIES = ("poisson", "gamma", "weibull")

# ------------------------------------------------------------------ rows to rows


def scaled(rows: Iterable[WorkloadRow], speed: float) -> Iterator[WorkloadRow]:
    """Arrivals `speed` times closer; think times stay, as people do not type faster.

    The gaps' coefficient of variation stays; dispersion at window w becomes that of the original at w times speed.

    Raises:
        ConfigError: `speed` is not above 0.
    """
    check_above_zero("--scale", speed, "2 replays twice as fast")
    return (replace(row, arrival_s=row.arrival_s / speed) for row in rows)


def dithered(rows: Iterable[WorkloadRow], tick_s: float, seed: int) -> Iterator[WorkloadRow]:
    """Each arrival moved by a uniform draw from [0, tick_s): undoes timestamps that were rounded down to ticks.

    Turns of one session keep their order. The same seed gives the same times.

    Raises:
        ConfigError: `tick_s` is not above 0.
    """
    check_above_zero("--dither-s", tick_s, "give the tick that timestamps were rounded to, in seconds")
    draws = stream(seed, "loadgen/dither")
    latest: dict[str, float] = {}
    waiting: list[tuple[float, int, WorkloadRow]] = []
    for index, row in enumerate(rows):
        while waiting and waiting[0][0] <= row.arrival_s:  # whatever follows comes no earlier than this row
            yield heapq.heappop(waiting)[2]
        moved = row.arrival_s + draws.random() * tick_s
        if row.session:
            moved = latest[row.session] = max(moved, latest.get(row.session, 0.0))
        heapq.heappush(waiting, (moved, index, replace(row, arrival_s=moved)))
    while waiting:
        yield heapq.heappop(waiting)[2]


def thinned(rows: Iterable[WorkloadRow], keep: float, seed: int) -> Iterator[WorkloadRow]:
    """Whole sessions, each kept with probability `keep`; a row without a session is a session of its own.

    Thinning requests that have no sessions pulls any process toward Poisson; prefer `scaled` for those.

    Raises:
        ConfigError: `keep` is not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise ConfigError("--keep-sessions", keep, "must be above 0 and at most 1: the share of sessions to keep")
    for index, row in enumerate(rows):
        name = f"loadgen/keep/session/{row.session}" if row.session else f"loadgen/keep/row/{index}"
        if derive_seed(seed, name) < keep * SEED_RANGE:
            yield row


def restarted(rows: Iterable[WorkloadRow], rate: float, seed: int) -> Iterator[WorkloadRow]:
    """Sessions begun by a Poisson process, for traces that know times within a session only; held in memory.

    Rows of one session keep the times between them; sub-agents (`session/...`) begin with the session they belong to.

    Raises:
        ConfigError: `rate` is not above 0.
    """
    check_above_zero("--session-rate", rate, "give sessions per second")
    draws, begin_s = stream(seed, "loadgen/sessions"), 0.0
    shifts: dict[str, float] = {}
    found = []
    for index, row in enumerate(rows):
        session = row.session.partition("/")[0] or f"/{index}"
        if session not in shifts:
            begin_s += draws.expovariate(rate)
            shifts[session] = begin_s - row.arrival_s
        found.append(replace(row, arrival_s=row.arrival_s + shifts[session]))
    return iter(sorted(found, key=lambda row: row.arrival_s))


def cut(rows: Iterable[WorkloadRow], start_s: float, length_s: float) -> Iterator[WorkloadRow]:
    """The rows of [start_s, start_s + length_s), with arrivals counted from its beginning."""
    for row in rows:
        if row.arrival_s >= start_s + length_s:
            return
        if row.arrival_s >= start_s:
            yield replace(row, arrival_s=row.arrival_s - start_s)


def redrawn(rows: Iterable[WorkloadRow], arrivals: Iterable[float]) -> Iterator[WorkloadRow]:
    """The rows' lengths at other times, until one of both ends."""
    return (replace(row, arrival_s=arrival_s) for row, arrival_s in zip(rows, arrivals, strict=False))


# ------------------------------------------------------------------ a window by its rate


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a trace.

    Attributes:
        start_s: its beginning on the trace's clock.
        length_s: how long it is.
        rate: requests per second in it.
        mean_rate: of the whole trace.
        warning: what to beware of, or "".
    """

    start_s: float
    length_s: float
    rate: float
    mean_rate: float
    warning: str = ""


def find_window(
    arrivals: Sequence[float], length_s: float, rate: float | None = None, start_s: float | None = None
) -> Window:
    """The window of that length which begins at `start_s`, or whose rate is nearest to `rate`, the earliest of equals;
    without either, the head.

    Args:
        arrivals: seconds, in order.

    Raises:
        ConfigError: no rows, a window that is not within the trace, or a rate that no window comes near.
    """
    times = np.asarray(arrivals, dtype=np.float64)
    span_s = float(times[-1]) if times.size else 0.0
    if rate is not None and start_s is not None:
        raise ConfigError("--start-s", start_s, "choose a window by its beginning or by its --rate, not by both")
    if start_s is not None and not 0 <= start_s < span_s:
        raise ConfigError("--start-s", start_s, f"must be within the trace, which is {span_s:g} s long")
    check_above_zero("--window-s", length_s, "give the window's length in seconds")
    if (start_s or 0.0) + length_s > span_s + ROUNDING_S:
        raise ConfigError(
            "--window-s", length_s, f"the trace is {span_s:g} s long; choose a window that ends within it"
        )
    mean_rate = times.size / span_s
    starts = np.array([start_s or 0.0])
    if rate is not None:
        starts = np.arange(0.0, span_s - length_s + 1e-9, length_s / WINDOW_STEPS)
    rates = (np.searchsorted(times, starts + length_s) - np.searchsorted(times, starts)) / length_s
    chosen = 0
    if rate is not None:
        check_above_zero("--rate", rate, "give requests per second")
        chosen = int(np.argmin(np.abs(rates - rate)))
        if not rate / 2 <= rates[chosen] <= rate * 2:
            reached = f"windows of {length_s:g} s have {rates.min():.3g} to {rates.max():.3g} requests/s"
            raise ConfigError("--rate", rate, f"{reached}; choose one of these, and --scale to go beyond")
    begin_s, found = float(starts[chosen]), float(rates[chosen])
    if not found:
        raise ConfigError("--start-s", begin_s, f"the trace has no request in the {length_s:g} s from there")
    warning = ""
    if begin_s < HEAD_SHARE * span_s and found < HEAD_RATIO * mean_rate:
        warning = (
            f"the window is the head of the trace and has {found:.3g} requests/s where the whole has {mean_rate:.3g}: "
            "its ramp-up is not typical; choose a window with --rate"
        )
    return Window(begin_s, length_s, found, mean_rate, warning)


# ------------------------------------------------------------------ drawn arrivals


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time in which a client's gaps have one distribution.

    Attributes:
        length_s: how long it lasts.
        rate: requests per second; 0 is silence.
        cv: coefficient of variation of the gaps; ignored by poisson.
        family: poisson, gamma or weibull.
    """

    length_s: float
    rate: float
    cv: float = 1.0
    family: str = "poisson"


def modulated(segments: Iterable[Segment], seed: int, name: str = "arrivals") -> Iterator[float]:
    """Arrivals in seconds of one client whose rate changes: ServeGen's model of a client (Xiang et al., 2025).

    Gaps are drawn with mean 1 and spent in operational time, the integral of the rate, so that a gap which crosses
    into the next segment is stretched or shortened by that one's rate. The process was under way before its beginning,
    so that the expected number of arrivals is the rate times the length, however short that is.

    Raises:
        ConfigError: a family that is not known, or a rate or CV out of range.
    """
    draws = numpy_stream(seed, f"loadgen/{name}")
    begin_s = 0.0
    left: float | None = None
    gap_of = _rest_of_a_gap
    for segment in segments:
        check_segment(segment)
        shape = _shape(segment)
        at_s, end_s = begin_s, begin_s + segment.length_s
        while segment.rate > 0:
            if left is None:
                left = gap_of(draws, segment.family, shape)
                gap_of = _unit_gap
            if at_s + left / segment.rate >= end_s:
                left -= (end_s - at_s) * segment.rate
                break
            at_s += left / segment.rate
            left = None
            yield at_s
        begin_s = end_s


def renewal(rate: float, length_s: float, seed: int, family: str = "poisson", cv: float = 1.0) -> Iterator[float]:
    """Arrivals of independent gaps at one rate: Poisson, Gamma or Weibull.

    Raises:
        ConfigError: the rate is not above 0, or the family or CV is wrong.
    """
    check_above_zero("--rate", rate, "give requests per second")
    return modulated([Segment(length_s, rate, cv, family)], seed, "renewal")


def mixture(clients: dict[str, Sequence[Segment]], seed: int) -> Iterator[tuple[float, str]]:
    """Arrivals of many clients in one order, each with its client's name; each client draws from a stream of its own,
    so that adding one changes no other."""

    def tagged(name: str) -> Iterator[tuple[float, str]]:
        return ((at_s, name) for at_s in modulated(clients[name], seed, f"client/{name}"))

    return heapq.merge(*(tagged(name) for name in clients))


def check_segment(segment: Segment) -> None:
    """Raises ConfigError where a segment says what cannot be."""
    if segment.family not in FAMILIES:
        raise ConfigError("--family", segment.family, f"is not known; use one of {', '.join(FAMILIES)}")
    if not 0 <= segment.rate < math.inf:
        raise ConfigError("rate", segment.rate, "must be a number of requests per second, 0 or above")
    if segment.family != "poisson" and not 0.01 <= segment.cv <= 100:
        raise ConfigError("--cv", segment.cv, "must be between 0.01 and 100; 1 is Poisson-like, above is bursty")


def check_above_zero(field: str, value: float, fix: str) -> None:
    """Raises ConfigError where a number is not finite and above 0."""
    if not 0 < value < math.inf:
        raise ConfigError(field, value, f"must be above 0; {fix}")


def weibull_shape(cv: float) -> float:
    """The Weibull shape k of that CV: 1 + CV² = Γ(1 + 2/k) / Γ(1 + 1/k)², which falls in k; by bisection."""
    low, high = 0.05, 200.0
    for _ in range(100):
        middle = math.sqrt(low * high)
        ratio = math.lgamma(1 + 2 / middle) - 2 * math.lgamma(1 + 1 / middle)
        low, high = (middle, high) if ratio > math.log1p(cv * cv) else (low, middle)
    return low


def _shape(segment: Segment) -> float:
    if segment.family == "gamma":
        return 1 / segment.cv**2
    return weibull_shape(segment.cv) if segment.family == "weibull" else 1.0


def _rest_of_a_gap(draws: np.random.Generator, family: str, shape: float) -> float:
    """What is left of the gap that a point in time falls into: a uniform share of a gap, long ones being likelier.

    Gaps weighted by their length are again Gamma, of shape + 1, and a power of a Gamma for Weibull (Cox, Renewal
    Theory, 1962, on forward recurrence times).
    """
    if family == "gamma":
        return float(draws.random() * draws.gamma(shape + 1, 1 / shape))
    if family == "weibull":
        return float(draws.random() * draws.gamma(1 + 1 / shape) ** (1 / shape)) / math.gamma(1 + 1 / shape)
    return float(draws.exponential())


def _unit_gap(draws: np.random.Generator, family: str, shape: float) -> float:
    """A gap of mean 1."""
    if family == "gamma":
        return float(draws.gamma(shape, 1 / shape))
    if family == "weibull":
        return float(draws.weibull(shape)) / math.gamma(1 + 1 / shape)
    return float(draws.exponential())
