"""Greedy and counter-based sampling: ties, independence of the batch, and the distribution of the draws."""

import math
from dataclasses import replace

import pytest
import torch

from services.core.batch import SampleSpec
from services.engine.filters import kept
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


FILTERED = SampleSpec(1.2, 7, top_k=12, top_p=0.9, min_p=0.02)


def test_filtered_draws_follow_the_renormalised_distribution_and_an_unfiltered_sampler_is_caught() -> None:
    logits = probe_rows(1, 40) * 1.5
    scaled = (logits[0] - logits[0].max()) / FILTERED.temperature
    ids = kept(scaled, FILTERED)
    assert ids is not None and 3 < len(ids) <= 12
    probabilities = torch.zeros(40, dtype=torch.float64)
    probabilities[ids] = scaled[ids].double().softmax(0)

    def statistic(spec: SampleSpec) -> float:
        draws = [sample(logits, [spec], [position])[0] for position in range(5000)]
        return chi_square(torch.bincount(torch.tensor(draws), minlength=40).double(), probabilities)

    assert statistic(FILTERED) < bound(len(ids) + 1)
    # Negative controls: without one of the filters the draws are not taken for these.
    assert statistic(replace(FILTERED, top_k=0, top_p=1.0, min_p=0.0)) > bound(len(ids) + 1)
    assert statistic(replace(FILTERED, top_k=len(ids) - 1)) > bound(len(ids) + 1)


@pytest.mark.parametrize("vocab", [1003, 49152])
@pytest.mark.parametrize("others", [0, 7, 15])
def test_a_seeded_sample_does_not_change_with_the_batch(vocab: int, others: int) -> None:
    """Vocabularies of every alignment; others with every kind of parameters, before and behind."""
    logits = probe_rows(16, vocab) * 2
    kinds = [
        GREEDY,
        FILTERED,
        SampleSpec(0.7, 3),
        SampleSpec(1.0, 4, top_p=0.5),
        SampleSpec(0.0, 0, logit_bias=((3, 9.0),)),
    ]
    specs = [kinds[row % len(kinds)] for row in range(others)]
    for spec in (
        SampleSpec(0.9, 5),
        FILTERED,
        SampleSpec(1.5, 6, repetition_penalty=1.3, presence_penalty=0.5, prompt=(1, 2, 3), logit_bias=((7, 1.0),)),
    ):
        for position in range(20):
            alone = sample(logits[15:], [spec], [position], [(4, 4)])
            for place in {0, others // 2, others}:
                rows = torch.cat([logits[:place], logits[15:], logits[place:others]])
                mixed = [*specs[:place], spec, *specs[place:]]
                found = sample(rows, mixed, [position] * len(mixed), [(4, 4)] * len(mixed))
                assert found[place] == alone[0]


def test_a_temperature_that_float32_cannot_divide_by_is_greedy() -> None:
    logits = probe_rows(1, 100)
    assert sample(logits, [SampleSpec(1e-40, 1)], [0]) == sample(logits, [GREEDY], [0])
