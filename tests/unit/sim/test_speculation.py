"""Guesses pay while a step is short of work, and never cost anything where they do not."""

import numpy as np
import pytest

from services.core.cost import best_gamma, expected_tokens
from services.core.errors import ConfigError
from services.sim.cost_model import Linear, StepShape, opt_13b_a100
from services.sim.models import MODELS
from services.sim.roofline import DEVICES, Roofline
from services.sim.speculation import Speculating, Speculation

VERIFIER = Roofline(MODELS["llama-3-70b"], DEVICES["h100-80g"], 4)
DRAFT = Linear(4.0, 0.01, 0.0)


def decodes(rows: int, context: int = 1000) -> StepShape:
    return StepShape(0, 0, 0.0, 0, rows, rows * context)


def test_expected_tokens_are_the_sum_of_the_chances() -> None:
    random = np.random.default_rng(1)
    for acceptance in (0.0, 0.3, 0.8, 1.0):
        for gamma in (0, 1, 4):
            right = random.random((40_000, gamma)) < acceptance
            accepted = np.cumprod(right, axis=1).sum(axis=1) if gamma else np.zeros(1)
            assert expected_tokens(acceptance, gamma) == pytest.approx(1 + accepted.mean(), rel=0.02)


def test_gamma_follows_from_cost() -> None:
    assert best_gamma(0.8, [10.0] * 9, 0.0) == 8, "guesses are free"
    assert best_gamma(0.8, [10.0] * 9, 1.0) == 6
    assert best_gamma(0.8, [10.0] * 9, 4.0) == 2, "dear ones are fewer"
    assert best_gamma(0.8, [10.0] * 9, 9.0) == 0, "as slow as the verifier itself"
    assert best_gamma(0.0, [10.0] * 9, 0.01) == 0, "never accepted"
    assert best_gamma(0.8, [10.0 * (n + 1) for n in range(9)], 0.1) == 0, "the device is full"


def test_speculation_pays_at_small_batches_and_is_never_a_loss() -> None:
    cost = Speculating(VERIFIER, 0.75, DRAFT)
    gammas = [cost.gamma(rows, rows * 100) for rows in (1, 16, 64, 256, 4096)]
    assert gammas[0] > 0 and gammas == sorted(gammas, reverse=True) and gammas[-1] == 0, gammas
    for rows in (1, 16, 64, 256, 1024):
        assert cost.step(decodes(rows)).busy_ns <= VERIFIER.step(decodes(rows)).busy_ns + 1
    assert cost.step(decodes(1)).busy_ns < 0.6 * VERIFIER.step(decodes(1)).busy_ns
    better = Speculating(VERIFIER, 0.9, DRAFT)
    assert better.step(decodes(1)).busy_ns < cost.step(decodes(1)).busy_ns
    assert better.gamma(1, 1000) > cost.gamma(1, 1000)


def test_steps_that_are_passed_over_take_what_single_ones_take() -> None:
    for inner in (VERIFIER, opt_13b_a100(2)):
        cost = Speculating(inner, 0.6, DRAFT)
        for rows in (1, 7, 120):
            ahead = cost.decode_ns(rows, 500 * rows, 40)
            single = [cost.step(StepShape(0, 0, 0.0, 0, rows, (500 + each) * rows)).busy_ns for each in range(40)]
            assert ahead.tolist() == single


def test_steps_with_prompts_do_not_speculate() -> None:
    cost = Speculating(VERIFIER, 0.9, DRAFT)
    mixed = StepShape(1, 100, 5050.0, 0, 4, 4000)
    assert cost.step(mixed) == VERIFIER.step(mixed)


@pytest.mark.parametrize("acceptance", [-0.1, 1.5])
def test_a_share_is_between_0_and_1(acceptance: float) -> None:
    with pytest.raises(ConfigError, match="share between 0 and 1"):
        Speculation(acceptance)
