"""Estimators learn another machine than the configured one, forgive outliers, and stay bounded."""

from __future__ import annotations

import random

import pytest

from services.core.config import CostConfig
from services.core.output import RequestOutput
from services.core.timeline import Mark, MarkKind
from services.router.estimators import MOST_KEYS, Level, Line, OutputLengths
from services.router.predict import Predictor

TYPICAL = (1.0, 512.0, 131072.0)
SLOW, FAST = (20.0, 4.0, 0.0005), (18.1, 0.102, 1.4e-5)


def features(tokens: int) -> tuple[float, float, float]:
    return 1.0, float(tokens), tokens * (tokens + 1) / 2


def learned(count: int, noise: float = 0.05, outliers: float = 0.0) -> Line:
    chance, line = random.Random(1), Line(SLOW, TYPICAL)
    for _ in range(count):
        row = features(chance.randint(16, 4000))
        ms = sum(a * b for a, b in zip(FAST, row, strict=True)) * chance.uniform(1 - noise, 1 + noise)
        line.observe(row, ms * (30 if chance.random() < outliers else 1))
    return line


def worst_error(line: Line) -> float:
    truth = {tokens: sum(a * b for a, b in zip(FAST, features(tokens), strict=True)) for tokens in (50, 500, 3000)}
    return max(abs(line.ms(features(tokens)) / ms - 1) for tokens, ms in truth.items())


def test_a_prior_of_another_machine_is_corrected_within_a_few_prompts() -> None:
    assert worst_error(learned(0)) > 5
    assert worst_error(learned(12)) < 0.15
    assert worst_error(learned(400)) < 0.05


def test_outliers_count_little_and_nothing_is_ever_negative() -> None:
    line = learned(400, outliers=0.05)
    assert worst_error(line) < 0.3
    assert min(line.coefficients) >= 0
    line.observe(features(1000), 1e-9)
    assert min(line.coefficients) >= 0


def test_the_estimator_follows_a_machine_that_becomes_slower() -> None:
    line = learned(300)
    for _ in range(3):
        for tokens in range(100, 4000, 13):
            line.observe(features(tokens), 2 * sum(a * b for a, b in zip(FAST, features(tokens), strict=True)))
    assert line.ms(features(2000)) == pytest.approx(
        2 * sum(a * b for a, b in zip(FAST, features(2000), strict=True)), rel=0.1
    )


def test_prompts_that_shared_steps_are_measured_together() -> None:
    predictor = Predictor(CostConfig(prefill_ms=5, prefill_token_ms=1, prefill_pair_ms=0))
    chance, now = random.Random(2), 1_000_000_000
    for _ in range(60):
        prompts = [chance.randint(50, 900) for _ in range(chance.randint(1, 4))]
        end = now + int((18.1 + 0.1 * sum(prompts)) * 1e6)  # one step for all of them
        for tokens in prompts:
            marks = (Mark(MarkKind.PREFILL_START, now), Mark(MarkKind.PREFILL_END, end))
            predictor.prompt_computed("w", "p", tokens, RequestOutput("r", 1, 0, (7,), marks=marks))
        now = end + chance.randrange(10_000_000)
    fixed, token, _ = predictor.times("p").prefill.coefficients
    assert (fixed, token) == (pytest.approx(18.1, rel=0.1), pytest.approx(0.1, rel=0.05))


def test_output_lengths_are_quantiles_of_their_kind_and_kinds_are_bounded() -> None:
    lengths, chance = OutputLengths(128), random.Random(3)
    assert lengths.quantile("t", "chat", 0.5, 1000) == 128
    assert lengths.quantile("t", "chat", 0.5, 40) == 40
    for _ in range(400):
        lengths.observe("t", "chat", chance.randint(90, 110))
        lengths.observe("t", "code", chance.randint(900, 1100))
    assert 80 <= lengths.quantile("t", "chat", 0.5, 5000) <= 130
    assert 900 <= lengths.quantile("t", "code", 0.9, 5000) <= 1400
    covered = sum(chance.randint(90, 110) <= lengths.quantile("t", "chat", 0.9, 5000) for _ in range(100))
    assert covered >= 85
    for number in range(2 * MOST_KEYS):
        lengths.observe(f"t{number}", "", 5)
    assert len(lengths._by_kind) == MOST_KEYS


def test_a_level_follows_steps_and_not_spikes() -> None:
    level = Level(0.0)
    for number in range(300):
        level.observe(1e6 if number % 50 == 49 else 10.0)
    assert 5 < level.value < 60
