"""Transformations of rows and drawn arrivals: laws of scaling, seeds, order, windows, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadgen import arrivals
from services.core.errors import ConfigError
from services.core.workload import WorkloadRow

TICKS = [WorkloadRow(3.0 * (index // 10), 10, 5, session=f"s{index % 7}") for index in range(2000)]


def gap_cv(times: list[float]) -> float:
    gaps = np.diff(times)
    return float(gaps.std() / gaps.mean())


def test_scaling_leaves_the_cv_of_gaps() -> None:
    times = [row.arrival_s for row in TICKS]
    scaled = [row.arrival_s for row in arrivals.scaled(TICKS, 7.3)]
    assert scaled == [time / 7.3 for time in times]
    assert gap_cv(scaled) == pytest.approx(gap_cv(times), rel=1e-9)


def test_dither_is_ordered_seeded_and_stays_in_its_tick() -> None:
    moved = list(arrivals.dithered(TICKS, 3.0, seed=4))
    times = [row.arrival_s for row in moved]
    assert times == sorted(times) and len(times) == len(TICKS)
    assert moved == list(arrivals.dithered(TICKS, 3.0, seed=4)) != list(arrivals.dithered(TICKS, 3.0, seed=5))
    assert {row.arrival_s // 3.0 for row in moved} == {row.arrival_s // 3.0 for row in TICKS}
    assert gap_cv(times) == pytest.approx(1.0, abs=0.1) and gap_cv([row.arrival_s for row in TICKS]) > 2


def test_thinning_keeps_whole_sessions() -> None:
    rows = [WorkloadRow(float(at), 10, 5, session=f"s{at % 50}", turn=at // 50) for at in range(500)]
    kept = list(arrivals.thinned(rows, 0.5, seed=1))
    sessions = {row.session for row in kept}
    assert 10 < len(sessions) < 40 and len(kept) == 10 * len(sessions)


def test_sessions_begin_by_a_process_of_their_own_and_keep_their_inner_times() -> None:
    rows = [
        WorkloadRow(float(turn), 10, 5, session=f"s{each}" + "/0" * (turn == 1), turn=turn)
        for turn in range(3) for each in range(400)
    ]  # fmt: skip
    moved = list(arrivals.restarted(rows, 2.0, seed=3))
    times = {(row.session, row.turn): row.arrival_s for row in moved}
    assert [row.arrival_s for row in moved] == sorted(times.values())
    begins = [times[f"s{each}", 0] for each in range(400)]
    assert gap_cv(begins) == pytest.approx(1.0, abs=0.15) and begins[-1] == pytest.approx(200, rel=0.15)
    assert all(times[f"s{each}/0", 1] - begins[each] == pytest.approx(1.0) for each in range(400))
    assert moved == list(arrivals.restarted(rows, 2.0, seed=3)) != list(arrivals.restarted(rows, 2.0, seed=4))


def test_a_window_by_rate_and_a_warning_at_the_head() -> None:
    quiet, busy = np.arange(0, 1000, 20.0), np.arange(1000, 2000, 0.5)
    times = [*quiet.tolist(), *busy.tolist()]
    head = arrivals.find_window(times, 100)
    assert head.start_s == 0 and "ramp-up" in head.warning
    found = arrivals.find_window(times, 100, rate=2)
    assert found.start_s >= 995 and found.rate == 2 and not found.warning
    with pytest.raises(ConfigError, match="--rate = 50"):
        arrivals.find_window(times, 100, rate=50)
    rows = [WorkloadRow(time, 1, 1) for time in times]
    assert len(list(arrivals.cut(rows, found.start_s, found.length_s))) == 200


@pytest.mark.parametrize(("family", "cv"), [("poisson", 1.0), ("gamma", 2.0), ("weibull", 0.5), ("weibull", 2.0)])
def test_drawn_gaps_have_their_rate_and_cv(family: str, cv: float) -> None:
    times = list(arrivals.renewal(20, 2000, 3, family, cv))
    assert len(times) / 2000 == pytest.approx(20, rel=0.06)
    assert gap_cv(times) == pytest.approx(cv, rel=0.06)


@pytest.mark.parametrize(("family", "cv"), [("poisson", 1.0), ("gamma", 5.0), ("weibull", 5.0), ("gamma", 0.2)])
def test_a_short_stretch_of_bursts_has_its_rate_too(family: str, cv: float) -> None:
    counts = [len(list(arrivals.renewal(2, 2, seed, family, cv))) for seed in range(3000)]
    assert np.mean(counts) == pytest.approx(4, abs=0.6)  # a process that began with a burst would have 12 and more


def test_a_modulated_client_follows_its_rate() -> None:
    times = np.array(list(arrivals.modulated([arrivals.Segment(500, 1), arrivals.Segment(500, 0),
                                              arrivals.Segment(500, 9, 2.0, "gamma")], 0)))  # fmt: skip
    assert np.all(np.diff(times) >= 0) and not np.any((times >= 500) & (times < 1000))
    assert np.sum(times < 500) == pytest.approx(500, rel=0.2)
    assert np.sum(times >= 1000) == pytest.approx(4500, rel=0.2)


def test_a_client_added_to_a_mixture_changes_no_other() -> None:
    segments = [arrivals.Segment(100, 2)]
    both = [at for at, name in arrivals.mixture({"a": segments, "b": segments}, 1) if name == "a"]
    assert both == [at for at, _ in arrivals.mixture({"a": segments}, 1)] and len(both) > 100


def test_bad_numbers_are_refused_by_name() -> None:
    for speed in (0, -1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="--scale"):
            arrivals.scaled([], speed)
    with pytest.raises(ConfigError, match="--cv"):
        list(arrivals.renewal(1, 1, 0, "gamma", 0))
    with pytest.raises(ConfigError, match="--session-rate"):
        arrivals.restarted([], -1, 0)
    with pytest.raises(ConfigError, match="--keep-sessions"):
        list(arrivals.thinned([], 0, 0))
