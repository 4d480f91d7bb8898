"""Distributions of lengths: what was asked for comes out, pairs stay pairs, and bad ones are named."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadgen.synth.lengths import (
    Fixed,
    Independent,
    Length,
    LogNormal,
    Sample,
    drawn,
    empirical,
    parse_length,
    sample,
)
from services.core.errors import ConfigError
from services.core.seeds import numpy_stream
from services.core.workload import WorkloadRow


def quantiles(length: Length) -> list[float]:
    draws = numpy_stream(3, "test")
    return np.percentile([length.draw(draws) for _ in range(20_000)], (50, 90)).tolist()


def test_a_log_normal_has_its_median_and_p90_and_another_has_not() -> None:
    asked = pytest.approx([500, 2000], rel=0.05)
    assert quantiles(parse_length("lognormal:500,2000", "--input-tokens")) == asked
    assert quantiles(LogNormal(500, 1500)) != asked
    assert quantiles(Fixed(500)) != asked


def test_weights_are_kept() -> None:
    draws, length = numpy_stream(3, "test"), empirical({7: 1, 100: 3})
    found = [length.draw(draws) for _ in range(4000)]
    assert set(found) == {7, 100} and found.count(100) / 4000 == pytest.approx(0.75, abs=0.03)
    assert Independent(empirical({0: 1}), Fixed(3)).pair(draws) == (1, 3)


@pytest.mark.parametrize(
    "weights", [{}, {1: 0.0}, {-1: 1.0}, {1.5: 1.0}, {1: -1.0}, {1: math.nan}, {1: "1"}, {True: 1}]
)
def test_weights_that_are_none_are_refused(weights: dict) -> None:
    with pytest.raises(ValueError, match="no "):
        empirical(weights)


def test_a_sample_keeps_both_lengths_of_a_request_together() -> None:
    rows = [WorkloadRow(0.0, 10, 1), WorkloadRow(1.0, 2000, 50), WorkloadRow(2.0, 300, 0, failed=True)]
    lengths = sample(rows, "--lengths-from")
    assert lengths == Sample(((10, 1), (2000, 50)))
    made = list(drawn([0.1 * each for each in range(200)], lengths, seed=1))
    assert {(row.input_tokens, row.output_tokens) for row in made} == {(10, 1), (2000, 50)}
    assert made == list(drawn([0.1 * each for each in range(200)], lengths, seed=1))
    with pytest.raises(ConfigError, match="--lengths-from"):
        sample(rows[2:], "--lengths-from")


@pytest.mark.parametrize("text", ["", "x", "0", "-5", "1.5", "nan", "1,2", "lognormal:5", "lognormal:9,3", "zipf:1,2"])
def test_what_is_no_length_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="--input-tokens"):
        parse_length(text, "--input-tokens")
