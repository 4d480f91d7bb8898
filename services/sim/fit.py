"""Coefficients from measured times: least squares of relative errors, none below zero, with what is left over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from services.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Fit:
    """A fit and how well it holds.

    Attributes:
        coefficients: ms: fixed, then for each column of the measurements.
        median_error, worst_error: of the fitted time to the measured one, as a share of it.
        points: measurements.
    """

    coefficients: tuple[float, ...]
    median_error: float
    worst_error: float
    points: int


def fit_ms(samples: Sequence[Sequence[float]]) -> Fit:
    """Fit ms = a + b x + c y ... to rows (x, y, ..., ms) with no coefficient below zero.

    Non-negative least squares over a few columns: the best of all choices of columns whose plain solution is not
    negative (Lawson and Hanson 1974, chapter 23: the optimum is one of these).

    Raises:
        ConfigError: fewer measurements than coefficients, or a time that is not above zero.
    """
    table = np.asarray(samples, dtype=np.float64)
    columns = table.shape[1] if table.ndim == 2 else 0
    if not columns or table.shape[0] < columns:
        raise ConfigError("profile", len(samples), "too few measurements; give the model a larger cache.memory_bytes")
    ms = table[:, -1]
    if ms.min() <= 0:
        raise ConfigError("profile", float(ms.min()), "a measured time must be above 0 ms")
    terms = np.column_stack([np.ones(len(ms)), table[:, :-1]]) / ms[:, None]  # of 1: errors are shares
    best, least = np.zeros(columns), float(len(ms))
    for count in range(1, columns + 1):
        for chosen in combinations(range(columns), count):
            found, *_ = np.linalg.lstsq(terms[:, chosen], np.ones(len(ms)), rcond=None)
            if found.min() < 0:
                continue
            left = float(((terms[:, chosen] @ found - 1) ** 2).sum())
            if left < least:
                best, least = np.zeros(columns), left
                best[list(chosen)] = found
    errors = np.abs(terms @ best - 1)
    return Fit(tuple(best.tolist()), float(np.median(errors)), float(errors.max()), len(ms))
