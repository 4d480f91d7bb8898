"""Coefficients are found again from times that were made with them, and none is below zero."""

import pytest

from services.core.errors import ConfigError
from services.sim.fit import fit_ms

ROWS = [(x, x * (cached + (x + 1) / 2)) for cached in (0, 256, 512) for x in (16, 64, 256)]


def test_exact_times_give_their_coefficients() -> None:
    found = fit_ms([(x, pairs, 20 + 4 * x + 0.0005 * pairs) for x, pairs in ROWS])
    assert found.coefficients == pytest.approx((20, 4, 0.0005))
    assert found.points == 9 and found.worst_error < 1e-9
    assert fit_ms([(x, 3 + 0.5 * x) for x in (1, 2, 9)]).coefficients == pytest.approx((3, 0.5))


def test_no_coefficient_is_below_zero_and_the_error_says_so() -> None:
    found = fit_ms([(x, pairs, 4 * x - 0.0005 * pairs) for x, pairs in ROWS])
    assert found.coefficients[2] == 0 and min(found.coefficients) >= 0
    assert 0 < found.median_error <= found.worst_error < 0.2


def test_noise_is_told() -> None:
    clean = [(x, pairs, 20 + 4 * x) for x, pairs in ROWS]
    noisy = [(x, pairs, ms * (1.1 if place % 2 else 0.9)) for place, (x, pairs, ms) in enumerate(clean)]
    assert fit_ms(noisy).median_error == pytest.approx(0.1, abs=0.04)


def test_too_few_measurements_and_times_of_nothing_are_refused() -> None:
    for bad in ([], [(1, 2, 3)], [(1, 1), (2, 0), (3, 3)]):
        with pytest.raises(ConfigError, match="profile"):
            fit_ms(bad)
