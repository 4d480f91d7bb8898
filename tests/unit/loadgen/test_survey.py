"""Statistics of traces against processes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from loadgen.survey import PrefixTree, dispersion, gap_cv, survey
from services.core.workload import WorkloadRow


def rows(arrivals: list[float]) -> list[WorkloadRow]:
    return [WorkloadRow(each, 10 + index, 5) for index, each in enumerate(arrivals)]


def test_a_poisson_process_has_cv_and_dispersion_of_one() -> None:
    arrivals = np.cumsum(np.random.default_rng(3).exponential(0.1, 40_000))
    assert gap_cv(arrivals) == pytest.approx(1.0, abs=0.02)
    assert dispersion(arrivals, 1) == pytest.approx(1.0, abs=0.06)
    assert dispersion(arrivals, 10) == pytest.approx(1.0, abs=0.2)


def test_a_metronome_has_none_of_either_and_bursts_have_much() -> None:
    found = survey(rows([each * 0.5 for each in range(1000)]))
    assert (found.rate, round(found.gap_cv, 9), found.dispersion["10"], found.warnings) == (2.0, 0.0, 0.0, [])
    bursts = survey(rows([float(each // 100 * 60) for each in range(1000)]))
    assert bursts.dispersion["10"] > 50
    assert any("--dither-s 60" in warning for warning in bursts.warnings)


def test_a_thin_head_is_told() -> None:
    slow, fast = [each * 10.0 for each in range(100)], [1000 + each * 0.1 for each in range(90_000)]
    assert any("the head" in warning for warning in survey(rows(slow + fast)).warnings)


def test_lengths_sessions_and_the_busiest_minute() -> None:
    found = survey(
        [WorkloadRow(float(each), each, 2 * each, session=f"s{each % 4}", category="api") for each in range(101)]
    )
    assert found.input_tokens == {"mean": 50.0, "p5": 5.0, "p50": 50.0, "p90": 90.0, "p99": 99.0, "p100": 100.0}
    assert (found.sessions, found.turns_per_session, found.categories) == (4, 25.25, {"api": 101})
    assert found.busiest_minute_rate == pytest.approx(61 / 60)


def test_the_prefix_tree_hits_leading_blocks_alone() -> None:
    tree = PrefixTree()
    assert [tree.add((1, 2, 3)), tree.add((1, 2, 4)), tree.add((9, 2)), tree.add((1, 2, 4, 5))] == [0, 2, 0, 3]
    assert tree.hit_rate == 5 / 12


def test_an_empty_trace_has_no_statistics() -> None:
    assert survey([]).rows == 0
