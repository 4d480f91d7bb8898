"""From samples to the report: one pass over the samples, columns of numbers, then the statistics of `core/report.py`.

A column costs 8 bytes a request, so a million requests take about 150 MB; the samples are never all in memory.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.core.report import (
    SCHEMA,
    Bar,
    Dispersion,
    Failure,
    Floats,
    GeneratorTruth,
    Group,
    Latency,
    Metric,
    Phase,
    Point,
    Report,
    Series,
    Waterfall,
    distribution,
    proportion,
)
from services.core.seeds import numpy_stream
from services.core.slo import Outcome, RequestSample, Slo

NS_PER_S = 1e9
WINDOWS_S = (1, 3, 10, 30, 60, 100, 300)
LONGEST_SERIES = 600
SCATTER_POINTS = 2000
SLOWEST = 30
LARGEST_GROUPS = 30
ACHIEVED_AT_LEAST = 0.99
COLUMNS = ("intended", "sent", "end", "ttft", "ttft_sent", "tpot", "e2e", "e2e_sent", "lag", "judged", "met")
GROUPINGS = ("category", "tenant", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the samples do not say.

    Attributes:
        name: of the run.
        target: where it was sent.
        workload: what was sent, as a sentence.
        notes: warnings of the schedule and the run.
        seed: of intervals and of the choice of points.
        started_unix_ms: wall clock at the start.
        interrupted: stopped before its end.
        unsent: requests that were due when the run was stopped, for longer than a request may lag, and not sent.
        processes: how many sent.
        cpu_s: processor time of all of them while sending.
        rss_mib: their resident memory over the run.
        loop_lags_ms: how late timers fired in their loops.
        waited_for_a_slot: requests that waited because `max_in_flight` were under way.
        max_lag_ms: above this p99 the generator is called the bottleneck.
        examples: what one request of each (outcome, reason) was told.
    """

    name: str
    target: str
    workload: str = ""
    notes: tuple[str, ...] = ()
    seed: int = 0
    started_unix_ms: int = 0
    interrupted: bool = False
    unsent: int = 0
    processes: int = 1
    cpu_s: float = 0.0
    rss_mib: tuple[float, ...] = ()
    loop_lags_ms: Sequence[float] = ()
    waited_for_a_slot: int = 0
    max_lag_ms: float = 25.0
    examples: Mapping[tuple[str, str], str] = field(default_factory=dict)


def bucket(tokens: int) -> str:
    """Length bucket of a token count: powers of four from 16, e.g. `65-256`."""
    upper = 16
    while tokens > upper:
        upper *= 4
    return f"1-{upper}" if upper == 16 else f"{upper // 4 + 1}-{upper}"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


class Tally:
    """Gathers samples and gives the report; samples may come in any order."""

    def __init__(self, slo: Slo) -> None:
        self._slo = slo
        self._columns = {name: array("d") for name in COLUMNS}
        self._gaps_us = array("Q")
        self._groups = {by: array("Q") for by in GROUPINGS}
        self._names: dict[str, dict[str, int]] = {by: {} for by in GROUPINGS}
        self._ends: Counter[tuple[str, str]] = Counter()
        self._phases: dict[str, array[float]] = {}
        self._totals: Counter[str] = Counter()
        self._slowest: list[tuple[float, int, Waterfall]] = []  # a heap

    def add(self, sample: RequestSample) -> None:
        """Count one request."""
        ok = sample.outcome is Outcome.OK
        latency = ok and self._slo.judged(sample)
        row = (
            sample.intended_ns / NS_PER_S,
            sample.sent_ns / NS_PER_S,
            sample.end_ns / NS_PER_S,
            _number(sample.ttft_ms() if self._slo.judged(sample) else None),
            _number(sample.ttft_ms(intended=False) if self._slo.judged(sample) else None),
            _number(sample.tpot_ms if latency else None),
            sample.e2e_ms() if latency else math.nan,
            sample.e2e_ms(intended=False) if latency else math.nan,
            sample.lag_ms,
            self._slo.judged(sample),
            self._slo.judged(sample) and self._slo.met(sample),
        )
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        if latency:
            self._gaps_us.extend(sample.gaps_us)
        labels = (sample.category, sample.tenant, bucket(sample.input_tokens), bucket(sample.wanted_tokens))
        for by, label in zip(GROUPINGS, labels, strict=True):
            self._groups[by].append(self._names[by].setdefault(label or "(none)", len(self._names[by])))
        for name, value in sample.phases_ms.items():
            self._phases.setdefault(name, array("d")).append(value)
        if sample.phase_starts_ms:
            found = waterfall(sample)
            heapq.heappush(self._slowest, (found.e2e_ms, found.index, found))
            if len(self._slowest) > SLOWEST:
                heapq.heappop(self._slowest)
        if not ok:
            self._ends[(sample.outcome.value, sample.reason)] += 1
        self._totals["ok"] += ok
        self._totals["input"] += sample.input_tokens
        self._totals["output"] += sample.output_tokens
        self._totals["cached"] += sample.cached_tokens
        self._totals["short"] += ok and sample.output_tokens < sample.wanted_tokens

    def report(self, facts: RunFacts) -> Report:
        """Everything that was found."""
        columns = {name: _array(column) for name, column in self._columns.items()}
        random = numpy_stream(facts.seed, "loadgen/intervals")
        judged, met = int(columns["judged"].sum()), int(columns["met"].sum())
        sent = len(columns["sent"])
        duration_s = float(columns["end"].max()) if sent else 0.0
        per_second = 1.0 / duration_s if duration_s > 0 else 0.0
        span_s = float(columns["intended"].max()) if sent else 0.0
        attainment = proportion(met, judged, random)
        goodput = proportion(met, judged, random)
        scale = judged * per_second
        return Report(
            schema=SCHEMA,
            name=facts.name,
            target=facts.target,
            workload=facts.workload,
            notes=facts.notes,
            seed=facts.seed,
            started_unix_ms=facts.started_unix_ms,
            interrupted=facts.interrupted,
            slo=self._slo,
            duration_s=duration_s,
            offered=sent + facts.unsent,
            sent=sent,
            succeeded=self._totals["ok"],
            judged=judged,
            met=met,
            attainment=attainment,
            goodput_rps=type(goodput)(goodput.value * scale, goodput.low * scale, goodput.high * scale),
            offered_rps=(sent + facts.unsent) / span_s if span_s > 0 else 0.0,
            output_tokens_per_s=self._totals["output"] * per_second,
            input_tokens=self._totals["input"],
            output_tokens=self._totals["output"],
            short_outputs=self._totals["short"],
            cached_tokens=self._totals["cached"],
            latency=self._latency(columns, random),
            groups=self._group_list(columns, per_second, random),
            failures=tuple(
                Failure(outcome, reason, count, facts.examples.get((outcome, reason), ""))
                for (outcome, reason), count in self._ends.most_common()
            ),
            series=series_of(columns, duration_s),
            dispersion=dispersion_of(columns["intended"], columns["sent"]),
            scatter=_scatter(columns, random),
            phases=tuple(
                Phase(name, found)
                for name, values in self._phases.items()
                if (found := distribution(_array(values), random)) is not None
            ),
            generator=generator_truth(columns, facts, duration_s, random),
            slowest=tuple(found for _, _, found in sorted(self._slowest, reverse=True)),
        )

    def _latency(self, columns: Mapping[str, Floats], random: np.random.Generator) -> Latency:
        tpot = distribution(_known(columns["tpot"]), random)
        itl = distribution(_array(self._gaps_us) / 1000.0, random)
        return Latency(
            Metric(distribution(_known(columns["ttft"]), random), distribution(_known(columns["ttft_sent"]), random)),
            Metric(tpot, tpot),
            Metric(itl, itl),
            Metric(distribution(_known(columns["e2e"]), random), distribution(_known(columns["e2e_sent"]), random)),
        )

    def _group_list(
        self, columns: Mapping[str, Floats], per_second: float, random: np.random.Generator
    ) -> tuple[Group, ...]:
        """Groups of each kind with more than one member, largest first; the smallest of many are left out."""
        found = []
        for by, names in self._names.items():
            codes = _array(self._groups[by]).astype(np.int64)
            sizes = np.bincount(codes, minlength=len(names))
            largest = sorted(names, key=lambda name: (-sizes[names[name]], name))[:LARGEST_GROUPS]
            for name in largest if len(names) > 1 else ():
                mask = codes == names[name]
                judged, met = int(columns["judged"][mask].sum()), int(columns["met"][mask].sum())
                ttft, tpot = (distribution(_known(columns[each][mask]), random) for each in ("ttft", "tpot"))
                share = proportion(met, judged, random)
                found.append(Group(by, name, judged, met, share, met * per_second, ttft, tpot))
        return tuple(found)


def waterfall(sample: RequestSample) -> Waterfall:
    """The phases of a sample whose server told when they began."""
    lengths = sample.phases_ms
    bars = tuple(Bar(name, start, lengths[name]) for name, start in sample.phase_starts_ms.items())
    return Waterfall(sample.index, sample.ttft_ms(intended=False), sample.e2e_ms(intended=False), bars)


def _array(column: array[float] | array[int]) -> Floats:
    values: Floats = np.array(column, dtype=np.float64)  # a copy: a view would forbid the column to grow
    return values


def _known(values: Floats) -> Floats:
    known: Floats = values[~np.isnan(values)]
    return known


def generator_truth(
    columns: Mapping[str, Floats], facts: RunFacts, duration_s: float, random: np.random.Generator
) -> GeneratorTruth:
    """Whether the generator delivered what the schedule asked for."""
    intended, sent, lag = columns["intended"], columns["sent"], columns["lag"]
    lags, loop = distribution(lag, random), distribution(facts.loop_lags_ms, random)
    achieved, worst = 1.0, 1.0
    if len(sent):
        in_time = sent <= intended.max() + facts.max_lag_ms / 1000
        achieved = float(in_time.sum()) / (len(sent) + facts.unsent)
        seconds = intended.astype(np.int64)
        offered = np.bincount(seconds)
        punctual = np.bincount(seconds[lag <= facts.max_lag_ms], minlength=len(offered))
        full = offered >= 10
        worst = float((punctual[full] / offered[full]).min()) if full.any() else 1.0
    reasons = []
    bound = f"the allowed {facts.max_lag_ms:g} ms"
    if lags is not None and lags.p99.value > facts.max_lag_ms:
        slots = f"; {facts.waited_for_a_slot} waited for a free slot" if facts.waited_for_a_slot else ""
        reasons.append(f"requests were sent late: p99 {lags.p99.value:.1f} ms, over {bound}{slots}")
    if loop is not None and loop.p99.value > facts.max_lag_ms:
        reasons.append(f"the sending loop was too busy to read in time: p99 {loop.p99.value:.1f} ms, over {bound}")
    if achieved < ACHIEVED_AT_LEAST:
        reasons.append(f"when the last request was due, only {achieved:.1%} of the offered ones had been sent")
    return GeneratorTruth(
        processes=facts.processes,
        send_lag_ms=lags,
        loop_lag_ms=loop,
        achieved=achieved,
        worst_second=worst,
        cpu_cores=facts.cpu_s / duration_s if duration_s > 0 else 0.0,
        rss_mib=facts.rss_mib,
        waited_for_a_slot=facts.waited_for_a_slot,
        bottleneck=tuple(reasons),
    )


def dispersion_of(source_s: Floats, delivered_s: Floats) -> tuple[Dispersion, ...]:
    """Index of dispersion of both arrival processes, for the windows that fit at least three times."""
    if not len(source_s):
        return ()
    span_s = float(source_s.max())
    return tuple(
        Dispersion(float(window), index_of_dispersion(source_s, window), index_of_dispersion(delivered_s, window))
        for window in WINDOWS_S
        if span_s >= 3 * window
    )


def index_of_dispersion(arrivals_s: Floats, window_s: float) -> float:
    """Variance over mean of the counts in whole windows from 0 (Cox and Lewis); 0 without arrivals."""
    counts: NDArray[np.int64] = np.bincount((arrivals_s / window_s).astype(np.int64))[:-1]  # the last is not whole
    return float(counts.var() / counts.mean()) if counts.any() else 0.0


def series_of(columns: Mapping[str, Floats], duration_s: float) -> Series:
    """Counts and latencies over time; latencies stand at the intended send time."""
    bin_s = float(max(1, math.ceil(duration_s / LONGEST_SERIES)))
    bins = int(duration_s / bin_s) + 1

    def counts(times: Floats) -> tuple[int, ...]:
        return tuple(np.bincount((times / bin_s).astype(np.int64), minlength=bins).tolist())

    places = (columns["intended"] / bin_s).astype(np.int64)

    def quantiles(values: Floats, quantile: float) -> tuple[float | None, ...]:
        known = ~np.isnan(values)
        order = np.argsort(places[known], kind="stable")
        parts = np.split(values[known][order], np.searchsorted(places[known][order], np.arange(1, bins)))
        return tuple(float(np.quantile(part, quantile)) if len(part) else None for part in parts)

    missed = (columns["judged"] == 1) & (columns["met"] == 0)
    return Series(
        bin_s,
        counts(columns["intended"]),
        counts(columns["sent"]),
        counts(columns["end"]),
        counts(columns["intended"][missed]),
        quantiles(columns["ttft"], 0.5),
        quantiles(columns["ttft"], 0.99),
        quantiles(columns["tpot"], 0.5),
    )


def _scatter(columns: Mapping[str, Floats], random: np.random.Generator) -> tuple[Point, ...]:
    both = np.flatnonzero(~np.isnan(columns["ttft"]) & ~np.isnan(columns["tpot"]))
    if len(both) > SCATTER_POINTS:
        both = np.sort(random.choice(both, SCATTER_POINTS, replace=False))
    return tuple(
        Point(float(columns["ttft"][place]), float(columns["tpot"][place]), bool(columns["met"][place]))
        for place in both
    )
