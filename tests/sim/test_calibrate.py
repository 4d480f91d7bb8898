"""A profile's slowdowns are found again from what clients of a cluster with known ones saw."""

from typing import Any

import pytest

from services.cli.calibrate import MOST, Seen, fit_slowdowns, told
from services.cli.measure_door import Arrivals, Clients
from services.cluster.config import ClusterConfig

COST = {
    "prefill_ms": 45.0,
    "prefill_token_ms": 1.75,
    "prefill_pair_ms": 0.001,
    "decode_step_ms": 30.0,
    "decode_row_ms": 3.5,
    "decode_context_ms": 0.01,
    "transfer_ms": 3.0,
    "transfer_token_ms": 0.05,
}
CLIENTS = Clients((Arrivals(60, 690.0, 40, 112, 0.7),), salt=1)


def profile(**host: float) -> dict[str, Any]:
    """Of a host with two cores."""
    host = {"cores": 2, "lent_speedup": 1.15, "step_ms": 2.0, "request_cpu_ms": 5.0, "token_cpu_ms": 0.2, **host}
    return COST | {"host": host, "delays": {"door_ms": 8.0}}


@pytest.mark.parametrize("known", [(1.0, 1.0), (1.3, 1.3), (1.5, 1.2)])
def test_known_slowdowns_are_found(known: tuple[float, float]) -> None:
    names = ("prefill_slowdown", "decode_slowdown")
    config, truth = ClusterConfig(), profile(**dict(zip(names, known, strict=True)))
    seen = Seen(CLIENTS, *told(config, truth, CLIENTS()))
    found = fit_slowdowns(config, profile(), seen)
    assert [found[name] for name in names] == pytest.approx(known, abs=0.06)
    again = told(config, profile(**found), CLIENTS())
    assert again == pytest.approx((seen.ttft_ms, seen.tpot_ms), rel=0.03)


def test_what_no_slowdown_explains_ends_at_the_bound() -> None:
    found = fit_slowdowns(ClusterConfig(), profile(), Seen(CLIENTS, 60_000.0, 5_000.0))
    assert found == {"prefill_slowdown": MOST, "decode_slowdown": MOST}
    assert fit_slowdowns(ClusterConfig(), profile(), Seen(CLIENTS, 1.0, 1.0)) == {
        "prefill_slowdown": 1.0,
        "decode_slowdown": 1.0,
    }


def test_lengths_differ_as_they_were_asked_to() -> None:
    rows = list(CLIENTS())
    assert {each.input_tokens for each in rows} > {len(each.prompt()) for each in rows[:3]}
    prompts, outputs = [each.input_tokens for each in rows], [each.output_tokens for each in rows]
    assert min(prompts) < 50 and max(prompts) > 170 and 100 < sum(prompts) / len(prompts) < 125
    assert min(outputs) < 20 and max(outputs) > 60 and 36 < sum(outputs) / len(outputs) < 44
    assert all(each.input_tokens == len(each.prompt()) for each in rows)
