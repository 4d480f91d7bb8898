"""The hand-off in the real cluster: what its messages add to moving the bytes, and what an early grant hides."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from tests.bench.data_leg import measure
from tests.cluster.harness import running

pytestmark = pytest.mark.bench
CACHE = Path(__file__).parents[2] / ".cache" / "models"
RUNS, WARM_UP = 20, 3


def test_offer_to_commit_is_the_data_leg_plus_five_milliseconds(tmp_path: Path) -> None:
    """The offer leaves when prefill ends. The data leg is that of two bare processes, beside the same idle cluster."""
    config = {
        "model": {"path": str(prepare_model(DEFAULT_MODEL, CACHE)), "name": DEFAULT_MODEL, "dtype": "float32"},
        "router": {"early_grant_tokens": 0},
    }
    whole = []
    with running(tmp_path / "c", config) as cluster:
        for number in range(RUNS + WARM_UP):
            prompt = [number + 10, *((7 * i) % 900 + 50 for i in range(511))]
            done = cluster.generate(prompt, max_tokens=3, ignore_eos=True)
            assert done.error is None
            whole.append(done.at_ms["handoff_committed"] - done.at_ms["prefill_end"])
        cluster.wait_idle()
        leg_ms = measure().leg_ms
    whole_ms = statistics.median(whole[WARM_UP:])
    print(
        f"\n512 tokens: offer to commit {whole_ms:.1f} ms, data leg {leg_ms:.1f} ms, added {whole_ms - leg_ms:.1f} ms"
    )
    assert whole_ms - leg_ms <= 5.0


LONG, LONG_RUNS = 2000, 10


def test_an_early_grant_hides_three_quarters_of_the_hand_off(tmp_path: Path) -> None:
    """From the end of prefill until decode may start, early against late, in one run."""
    path = str(prepare_model(DEFAULT_MODEL, CACHE))
    waits: dict[str, list[float]] = {"late": [], "early": []}
    for name in waits:
        config = {
            "model": {"path": path, "name": DEFAULT_MODEL, "dtype": "float32"},
            "router": {"early_grant_tokens": 512 if name == "early" else 0},
        }
        with running(tmp_path / name, config) as cluster:
            for number in range(LONG_RUNS + 1):
                prompt = [number + 10, *((7 * i) % 900 + 50 for i in range(LONG - 1))]
                done = cluster.generate(prompt, max_tokens=2, ignore_eos=True)
                assert done.error is None
                waits[name].append(done.at_ms["handoff_committed"] - done.at_ms["prefill_end"])
            cluster.wait_idle()
    late, early = (statistics.median(times[1:]) for times in waits.values())
    print(f"\n{LONG} tokens, prefill end to decode-ready: late {late:.1f} ms, early {early:.1f} ms, {early / late:.2f}")
    assert early <= 0.25 * late
