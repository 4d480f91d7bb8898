"""The hand-off in the real cluster: what its messages add to moving the bytes, and what an early grant hides."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from tests.bench.data_leg import measure
from tests.cluster.harness import Cluster, running

pytestmark = pytest.mark.bench
CACHE = Path(__file__).parents[2] / ".cache" / "models"
ROUNDS, RUNS, WARM_UP = 4, 10, 3


def prompts(size: int) -> Iterator[list[int]]:
    """Prompts that share no block."""
    return ([number + 10, *((7 * i) % 900 + 50 for i in range(size - 1))] for number in itertools.count())


def handed_over_ms(cluster: Cluster, prompt: list[int]) -> float:
    """From the end of prefill, when the offer leaves, to the commit."""
    done = cluster.generate(prompt, max_tokens=3, ignore_eos=True)
    assert done.error is None
    return done.at_ms["handoff_committed"] - done.at_ms["prefill_end"]


def test_offer_to_commit_is_the_data_leg_plus_five_milliseconds(tmp_path: Path) -> None:
    """The data leg is that of two bare processes beside the same idle cluster, measured in turn with the hand-offs."""
    config = {
        "model": {"path": str(prepare_model(DEFAULT_MODEL, CACHE)), "name": DEFAULT_MODEL, "dtype": "float32"},
        "router": {"early_grant_tokens": 0},
    }
    whole, leg = [], []
    with running(tmp_path / "c", config) as cluster:
        made = prompts(512)
        for _ in range(WARM_UP):
            handed_over_ms(cluster, next(made))
        for _ in range(ROUNDS):
            whole += [handed_over_ms(cluster, next(made)) for _ in range(RUNS)]
            cluster.wait_idle()
            leg.append(measure().leg_ms)
    whole_ms, leg_ms = statistics.median(whole), statistics.median(leg)
    print(
        f"\n512 tokens: offer to commit {whole_ms:.1f} ms, data leg {leg_ms:.1f} ms, added {whole_ms - leg_ms:.1f} ms"
    )
    assert whole_ms - leg_ms <= 5.0


LONG, LONG_RUNS = 2000, 10


def test_an_early_grant_hides_three_quarters_of_the_hand_off(tmp_path: Path) -> None:
    """From the end of prefill until decode may start, early against late, in one run."""
    path = str(prepare_model(DEFAULT_MODEL, CACHE))
    waits: dict[str, list[float]] = {}
    for name in ("late", "early"):
        config = {
            "model": {"path": path, "name": DEFAULT_MODEL, "dtype": "float32"},
            "router": {"early_grant_tokens": 512 if name == "early" else 0},
        }
        with running(tmp_path / name, config) as cluster:
            made = prompts(LONG)
            waits[name] = [handed_over_ms(cluster, next(made)) for _ in range(LONG_RUNS + 1)]
            cluster.wait_idle()
    late, early = (statistics.median(times[1:]) for times in waits.values())
    print(f"\n{LONG} tokens, prefill end to decode-ready: late {late:.1f} ms, early {early:.1f} ms, {early / late:.2f}")
    assert early <= 0.25 * late
