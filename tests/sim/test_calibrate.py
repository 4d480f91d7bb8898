"""A profile's slowdowns are found again from what clients of a cluster with known ones saw."""

from dataclasses import replace
from typing import Any

import pytest

from services.cli.calibrate import FITTED, MOST, Lived, Seen, fit_host, told
from services.cli.measure_door import AT_ONCE, OUTPUT, TURNS, Arrivals, Clients, Sessions
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
KINDS = [
    Clients((each,), salt=1)
    for each in (
        Sessions("one", 1, TURNS, OUTPUT),
        Sessions("many", AT_ONCE, TURNS, OUTPUT),
        Arrivals(60, 690.0, 40, 112, 0.7),
    )
]
CLIENTS = KINDS[-1]


def profile(**host: float) -> dict[str, Any]:
    """Of a host with two cores."""
    cpu = {"request_cpu_ms": 5.0, "item_cpu_ms": 1.0, "token_cpu_ms": 0.2}
    return COST | {"host": {"cores": 2, "lent_speedup": 1.5, **cpu, **host}, "delays": {"door_ms": 8.0}}


@pytest.mark.parametrize("known", [(1.2, 2.0, 1.0, 1.0), (1.4, 0.0, 1.3, 1.3), (1.3, 4.0, 1.5, 1.2)])
def test_what_is_known_of_a_host_is_found(known: tuple[float, ...]) -> None:
    config, truth = ClusterConfig(), profile(**dict(zip(FITTED, known, strict=True)))
    lived = Lived(*(Seen(each, *told(config, truth, each())) for each in KINDS))
    found = fit_host(config, profile(), lived)
    lent, step_ms, *slowdowns = known
    assert [found["lent_speedup"], *(found[name] for name in FITTED[2:])] == pytest.approx([lent, *slowdowns], abs=0.06)
    assert found["step_ms"] == pytest.approx(step_ms, abs=0.5)
    again = told(config, profile(**found), CLIENTS())
    assert again == pytest.approx((lived.mixed.ttft_ms, lived.mixed.tpot_ms), rel=0.03)


def test_what_nothing_explains_ends_at_the_bounds() -> None:
    fast = Lived(*(Seen(each, 1.0, 1.0) for each in KINDS))
    slow = replace(fast, mixed=Seen(CLIENTS, 60_000.0, 5_000.0))
    found = fit_host(ClusterConfig(), profile(), slow)
    assert (found["prefill_slowdown"], found["decode_slowdown"]) == (MOST, MOST)
    found = fit_host(ClusterConfig(), profile(), fast)
    assert (found["prefill_slowdown"], found["decode_slowdown"], found["step_ms"]) == (1.0, 1.0, 0.0)


def test_lengths_differ_as_they_were_asked_to() -> None:
    rows = list(CLIENTS())
    assert {each.input_tokens for each in rows} > {len(each.prompt()) for each in rows[:3]}
    prompts, outputs = [each.input_tokens for each in rows], [each.output_tokens for each in rows]
    assert min(prompts) < 50 and max(prompts) > 170 and 100 < sum(prompts) / len(prompts) < 125
    assert min(outputs) < 20 and max(outputs) > 60 and 36 < sum(outputs) / len(outputs) < 44
    assert all(each.input_tokens == len(each.prompt()) for each in rows)


def test_hand_offs_take_what_was_measured() -> None:
    one = KINDS[0]
    quick, slow = (told(ClusterConfig(), profile() | {"transfer_ms": ms}, one())[1] for ms in (3.0, 103.0))
    # Between the first token and the second; the core that computed the prompt is lent sooner after a long one.
    assert slow - quick == pytest.approx(100 / (OUTPUT - 1), rel=0.15)
