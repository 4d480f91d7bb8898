"""The highest rate at which the SLO is still attained: bisection over rates on a grid, every probe's report kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadgen.page import page
from loadgen.plots import GoodputPoint
from services.core.errors import ConfigError, FailedPreconditionError
from services.core.report import Report


@dataclass(frozen=True, slots=True)
class Grid:
    """Rates `low`, `low + step`, ... up to at most `high`, in requests per second.

    Raises:
        ConfigError: no such grid.
    """

    low: float
    high: float
    step: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ConfigError("--low", self.low, f"must be above 0 and at most --high, which is {self.high:g}")
        if self.step <= 0:
            raise ConfigError("--step", self.step, "must be above 0")

    @property
    def last(self) -> int:
        """Place of the highest rate."""
        return int((self.high - self.low) / self.step + 1e-9)

    def rate(self, place: int) -> float:
        """The rate at a place, without the dust of floating point."""
        return round(self.low + place * self.step, 9)


@dataclass(frozen=True, slots=True)
class Found:
    """Outcome of a search.

    Attributes:
        rate: the highest that attains the target; None when not even the lowest does.
        at_the_top: the highest rate of the grid attains it, so the limit may lie above.
        probes: rate and report of each probe, in order of rate.
    """

    rate: float | None
    at_the_top: bool
    probes: tuple[tuple[float, Report], ...]


def bisect(grid: Grid, target: float, probe: Callable[[float], Report]) -> Found:
    """Find the highest rate whose attainment is at least `target`, given that attainment falls with the rate.

    Raises:
        FailedPreconditionError: the generator was a probe's bottleneck, so its attainment is not the server's.
    """
    probes: dict[float, Report] = {}

    def passes(place: int) -> bool:
        rate = grid.rate(place)
        report = probes[rate] = probe(rate)
        if report.generator.bottleneck:
            raise FailedPreconditionError(
                f"at {rate:g} requests/s the generator was the bottleneck: {'; '.join(report.generator.bottleneck)}; "
                "use more --processes, a lower --high, or a machine of its own"
            )
        return report.attainment.value >= target and not report.interrupted

    below, above = -1, grid.last + 1  # the highest known to pass, the lowest known to fail
    for end in dict.fromkeys((0, grid.last)):
        if passes(end):
            below = end
        else:
            above = end
            break
    while above - below > 1:
        middle = (below + above) // 2
        if passes(middle):
            below = middle
        else:
            above = middle
    return Found(
        grid.rate(below) if below >= 0 else None, below == grid.last, tuple(sorted(probes.items(), key=lambda x: x[0]))
    )


def write_search(folder: Path, found: Found, target: float, grid: Grid) -> None:
    """`search.json`, and `search.html` with the goodput curve beside the best probe's report."""
    points = [GoodputPoint(rate, report.goodput_rps.value, report.attainment.value) for rate, report in found.probes]
    summary = {
        "schema": "triptych.search/1",
        "target_attainment": target,
        "low": grid.low,
        "high": grid.high,
        "step": grid.step,
        "highest_rate": found.rate,
        "at_the_top": found.at_the_top,
        "probes": [
            {"rate": point.offered_rps, "goodput_rps": point.goodput_rps, "attainment": point.attainment}
            for point in points
        ],
    }
    (folder / "search.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    best = next((report for rate, report in found.probes if rate == found.rate), found.probes[0][1])
    (folder / "search.html").write_text(page([best], [best.name], points), encoding="utf-8")
