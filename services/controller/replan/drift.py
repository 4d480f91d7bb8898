"""Whether traffic has drifted: rate and mean lengths of each window against a reference, with hysteresis. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.controller.replan.config import ReplanConfig
from services.core.clock import NS_PER_S
from services.core.wire import TrafficRow

LONGEST = 10
"""Windows wait so many times their length for requests; after that, only the rate is known."""


@dataclass(frozen=True, slots=True)
class Level:
    """Traffic of a time.

    Attributes:
        rate: requests a second.
        input_tokens, output_tokens: means; 0 where too few requests say.
    """

    rate: float
    input_tokens: float = 0.0
    output_tokens: float = 0.0

    def __str__(self) -> str:
        lengths = f" of {self.input_tokens:.0f} + {self.output_tokens:.0f} tokens" if self.input_tokens else ""
        return f"{self.rate:.3g} requests/s{lengths}"

    def ratio(self, other: Level) -> float:
        """How far the furthest of the three is off, as a factor of at least 1; what one does not know is left out."""
        worst = 1.0
        for mine, others in (
            (self.rate, other.rate),
            (self.input_tokens, other.input_tokens),
            (self.output_tokens, other.output_tokens),
        ):
            if mine > 0 and others > 0:
                worst = max(worst, mine / others, others / mine)
        return float("inf") if (self.rate == 0) != (other.rate == 0) else worst


def level(rows: Sequence[TrafficRow], seconds: float, min_requests: int) -> Level:
    """What a window was."""
    count = len(rows)
    if count < max(min_requests, 1):
        return Level(count / seconds)
    inputs, outputs = (sum(row[place] for row in rows) / count for place in (1, 2))
    return Level(count / seconds, inputs, outputs)


class DriftDetector:
    """Compares windows: so many in a row beyond `ratio` are a drift, and one within `calm_ratio` ends the row.

    A window lasts until it has enough requests for its means to say something. Between the two ratios it neither counts
    nor ends the row, so that traffic on the edge does not flutter. The first windows are the first reference; after a
    drift, what was seen in its windows is the next one.

    Attributes:
        reference: what is usual; None while that is not known.
        drifted: requests of the windows that differed since one that did not.
    """

    def __init__(self, config: ReplanConfig, began_ns: int) -> None:
        self._config = config
        self._window_ns = int(config.window_s * NS_PER_S)
        self._began_ns = began_ns
        self._rows: list[TrafficRow] = []
        self._off: list[Level] = []
        self.reference: Level | None = None
        self.drifted: list[TrafficRow] = []

    def add(self, rows: Sequence[TrafficRow]) -> None:
        """Requests that were reported."""
        self._rows += rows

    def tick(self, now: int) -> tuple[Level, Level] | None:
        """Close the window if it is over; (reference, what came instead) when that made a drift."""
        seconds = (now - self._began_ns) / NS_PER_S
        enough = len(self._rows) >= self._config.min_requests or seconds >= LONGEST * self._config.window_s
        if now < self._began_ns + self._window_ns or not enough:
            return None
        rows, self._rows = self._rows, []
        self._began_ns = now
        return self._close(level(rows, seconds, self._config.min_requests), rows)

    def _close(self, seen: Level, rows: list[TrafficRow]) -> tuple[Level, Level] | None:
        if self.reference is None:  # as many windows as a drift needs say what is usual
            self._off += [seen] if seen.input_tokens else []
            if len(self._off) == self._config.windows:
                self.reference = mean(self._off, seen)
                self._off.clear()
            return None
        off = seen.ratio(self.reference)
        if not self._off:
            self.drifted.clear()
        if off <= self._config.calm_ratio:
            self._off.clear()
        elif off >= self._config.ratio:
            self._off.append(seen)
            self.drifted += rows
        if len(self._off) < self._config.windows:
            return None
        before, self.reference = self.reference, mean(self._off, self.reference)
        self._off.clear()
        return before, self.reference

    def next_wake(self, now: int) -> int:
        """When to look at the window again: at its end, or a little later where requests lack."""
        return max(self._began_ns + self._window_ns, now + self._window_ns // 10)

    def state(self) -> object:
        """Everything that decides."""

        def plain(each: Level) -> list[float]:
            return [each.rate, each.input_tokens, each.output_tokens]

        return {
            "began_ns": self._began_ns,
            "rows": [list(row) for row in self._rows],
            "off": [plain(each) for each in self._off],
            "drifted": [list(row) for row in self.drifted],
            "reference": None if self.reference is None else plain(self.reference),
        }


def mean(levels: Sequence[Level], before: Level) -> Level:
    """The mean of several windows; lengths that none of them knows stay as they were."""
    known = [each for each in levels if each.input_tokens]
    rate = sum(each.rate for each in levels) / len(levels)
    if not known:
        return Level(rate, before.input_tokens, before.output_tokens)
    inputs, outputs = (
        sum(getattr(each, name) for each in known) / len(known) for name in ("input_tokens", "output_tokens")
    )
    return Level(rate, inputs, outputs)
