"""Greedy and counter-based sampling: ties, independence of the batch, and the distribution of the draws."""

import math

import pytest
import torch

from services.core.batch import SampleSpec
from services.engine.layers import probe_rows
from services.engine.sampler import draw, sample, uniform

GREEDY = SampleSpec(0.0, 0)


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Pearson's statistic over the outcomes that are expected at least five times; the rest count as one."""
    expected = probabilities * counts.sum()
    common = expected >= 5
    seen = torch.cat([counts[common], counts[~common].sum().view(1)])
    wanted = torch.cat([expected[common], expected[~common].sum().view(1)])
    return float(((seen - wanted) ** 2 / wanted.clamp_min(1e-9)).sum())


def bound(outcomes: int) -> float:
    """A value that chi-square with outcomes - 1 degrees of freedom exceeds about once in 30,000 (four sigma)."""
    freedom = outcomes - 1
    return freedom + 4 * math.sqrt(2 * freedom) + 8


def test_greedy_takes_the_largest_and_of_equals_the_lowest() -> None:
    logits = torch.zeros(3, 50000)
    logits[0, [7, 4000, 49999]] = 2.0
    logits[1, 49999] = 1.0
    assert sample(logits, [GREEDY] * 3, [1, 2, 3]) == [7, 49999, 0]


def test_a_draw_depends_on_seed_position_and_purpose_alone() -> None:
    assert uniform(5, 10) == uniform(5, 10)
    assert len({uniform(5, 10), uniform(5, 11), uniform(6, 10), uniform(5, 10, "accept"), uniform(51, 0)}) == 5
    logits = probe_rows(6, 1000) * 3
    specs = [SampleSpec(0.8, 1), GREEDY, SampleSpec(1.0, 2**62), SampleSpec(0.8, 1), SampleSpec(2.0, 0), GREEDY]
    positions = [10, 10, 11, 12, 13, 14]
    together = sample(logits, specs, positions)
    alone = [sample(logits[row : row + 1], [specs[row]], [positions[row]])[0] for row in range(6)]
    assert together == alone
    assert together == sample(logits.flip(0), specs[::-1], positions[::-1])[::-1]


def test_uniform_numbers_are_uniform() -> None:
    numbers = torch.tensor([uniform(3, position) for position in range(20000)], dtype=torch.float64)
    counts = torch.histc(numbers, 50, 0.0, 1.0)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert chi_square(counts, torch.full((50,), 1 / 50, dtype=torch.float64)) < bound(50)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_draws_follow_the_softmax_and_a_biased_sampler_is_caught(temperature: float) -> None:
    logits = probe_rows(1, 40)
    probabilities = torch.softmax(logits[0].double() / temperature, dim=0)
    draws = [sample(logits, [SampleSpec(temperature, 11)], [position])[0] for position in range(5000)]
    counts = torch.bincount(torch.tensor(draws), minlength=40).double()
    assert chi_square(counts, probabilities) < bound(40)
    # Negative control: the draws of a temperature 30 % higher are not taken for those of this one.
    biased = [sample(logits, [SampleSpec(temperature * 1.3, 11)], [position])[0] for position in range(5000)]
    assert chi_square(torch.bincount(torch.tensor(biased), minlength=40).double(), probabilities) > bound(40)


def test_ends_of_the_interval_stay_inside_what_is_possible() -> None:
    below = torch.tensor([float("-inf"), -1.0, 0.0, -3.0, float("-inf")])
    assert draw(below, SampleSpec(1.0, 0), 0.0) == 1
    assert draw(below, SampleSpec(1.0, 0), 1 - 2.0**-52) == 3
    assert draw(below, SampleSpec(1e-4, 0), 0.5) == 2
    assert draw(torch.zeros(49152), SampleSpec(1.0, 0), 1 - 2.0**-52) == 49151


def test_nan_is_an_error_not_a_token() -> None:
    logits = torch.zeros(2, 8)
    logits[1, 3] = float("nan")
    with pytest.raises(ArithmeticError, match="NaN"):
        sample(logits, [GREEDY, SampleSpec(1.0, 0)], [0, 0])


def test_nothing_to_sample() -> None:
    assert sample(torch.empty(0, 8), [], []) == []
