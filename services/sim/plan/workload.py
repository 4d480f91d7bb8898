"""What a plan knows of its traffic: lengths that stand for a whole trace, and arrivals drawn at any rate.

A trace is read once, row by row; memory does not grow with it. Lengths are a uniform sample (reservoir, Vitter 1985).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.core.clock import NS_PER_S
from services.core.errors import ConfigError
from services.core.seeds import numpy_stream, stream
from services.core.workload import WorkloadRow
from services.sim.plan.solo import Arrivals

SAMPLE_ROWS = 20_000
DISPERSION_WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class Workload:
    """Traffic in short.

    Attributes:
        inputs, outputs: lengths of sampled requests; int64, [n] each, a pair has one place.
        rate: mean requests a second of the trace.
        rows: requests of the trace; `sampled` of them are in the lengths.
        dispersion: variance over mean of the requests in windows of ten seconds; 1 for Poisson arrivals.
        images: share of requests with pictures.
        pictures: of each sampled request; int64, [n]; None: they are left out, as of a model that reads text alone.
        prefixed: share of requests that name a shared prefix.
        image_tokens: that each picture adds to its prompt.
    """

    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    rate: float
    rows: int
    dispersion: float = 1.0
    images: float = 0.0
    prefixed: float = 0.0
    pictures: NDArray[np.int64] | None = None
    image_tokens: int = 0

    @property
    def sampled(self) -> int:
        """Requests whose lengths are kept."""
        return len(self.inputs)

    @property
    def mean_input(self) -> float:
        """Tokens of a prompt."""
        return float(self.inputs.mean())

    @property
    def mean_output(self) -> float:
        """Tokens of an output."""
        return float(self.outputs.mean())

    @property
    def prompts(self) -> NDArray[np.int64]:
        """Tokens of prompts with their pictures: int64, [n]."""
        return self.inputs if self.pictures is None else self.inputs + self.image_tokens * self.pictures

    @property
    def mean_prompt(self) -> float:
        """Tokens of a prompt with its pictures."""
        return float(self.prompts.mean())

    @property
    def mean_pictures(self) -> float:
        """Pictures of a request that are not left out."""
        return 0.0 if self.pictures is None else float(self.pictures.mean())

    def arrivals(self, rate: float, count: int, seed: int, decoded: bool = False) -> Arrivals:
        """Requests that come at random (Poisson): the same ones in the same order at every rate, closer together.

        Args:
            rate: requests a second; above 0.
            decoded: only requests of at least two tokens, which are those that decode workers see.
        """
        random = numpy_stream(seed, "plan/arrivals")
        places = random.integers(0, self.sampled, count)
        gaps = random.exponential(1.0, count)
        if decoded:
            long = np.flatnonzero(self.outputs >= 2)
            places = long[places % len(long)] if len(long) else places
        at_ns = np.rint(np.cumsum(gaps) / rate * NS_PER_S).astype(np.int64)
        pictures = None if self.pictures is None else self.pictures[places]
        return Arrivals(at_ns, self.inputs[places], self.outputs[places], pictures, self.image_tokens)

    def pictures_apart(self, rate: float, count: int, seed: int) -> Arrivals:
        """Pictures of requests that come at `rate`, as an encode worker sees them: one by one, at random."""
        gaps = numpy_stream(seed, "plan/pictures").exponential(1.0, count)
        at_ns = np.rint(np.cumsum(gaps) / (rate * self.mean_pictures) * NS_PER_S).astype(np.int64)
        one = np.ones(count, dtype=np.int64)
        return Arrivals(at_ns, one, one, one, self.image_tokens)


def survey(rows: Iterable[WorkloadRow], seed: int, sample: int = SAMPLE_ROWS) -> Workload:
    """Read a trace once.

    Raises:
        ConfigError: it has no request, or all of them at one time.
    """
    draws = stream(seed, "plan/reservoir")
    kept: list[tuple[int, int, int]] = []
    count, images, prefixed, last = 0, 0, 0, 0.0
    windows: dict[int, int] = {}
    for row in rows:
        if row.failed:
            continue
        sizes = (max(1, row.input_tokens), max(1, row.output_tokens), row.images)
        if count < sample:
            kept.append(sizes)
        else:
            place = draws.randrange(count + 1)
            if place < sample:
                kept[place] = sizes
        count += 1
        images += row.images > 0
        prefixed += bool(row.prefix)
        last = max(last, row.arrival_s)
        window = int(row.arrival_s / DISPERSION_WINDOW_S)
        windows[window] = windows.get(window, 0) + 1
    if count < 2 or last <= 0:
        raise ConfigError("--trace", f"{count} requests in {last:g} s", "a plan needs requests at different times")
    found = np.array(kept, dtype=np.int64)
    counts = np.zeros(max(windows) + 1)
    counts[list(windows)] = list(windows.values())
    dispersion = float(counts.var() / counts.mean()) if len(counts) > 1 else 1.0
    pictures = found[:, 2] if images else None
    return Workload(
        found[:, 0], found[:, 1], count / last, count, dispersion, images / count, prefixed / count, pictures
    )


def log_normal(
    mean_input: float,
    mean_output: float,
    spread: float,
    longest: int,
    rate: float = 1.0,
    seed: int = 0,
    rows: int = SAMPLE_ROWS,
) -> Workload:
    """Lengths of log-normal shape with the given means, as papers publish them.

    Args:
        spread: standard deviation of the logarithm, of both lengths.
        longest: prompts and outputs are cut there; means are those after the cut to about 1 %.
    """
    found = []
    for name, mean in (("inputs", mean_input), ("outputs", mean_output)):
        draws = numpy_stream(seed, f"plan/log-normal/{name}").standard_normal(rows)
        shift = float(np.log(mean) - spread**2 / 2)
        for _ in range(20):  # the cut takes from the mean; shift the rest until it is met
            values = np.clip(np.exp(shift + spread * draws), 1, longest)
            shift += float(np.log(mean / values.mean()))
        found.append(np.maximum(np.rint(values), 1).astype(np.int64))
    return Workload(found[0], found[1], rate, rows)
