"""DistServe's accept rule at its borders, and every reason for which an offer waits."""

from __future__ import annotations

from dataclasses import replace

from services.core.request import Discipline
from services.decode.config import DecodeConfig
from services.decode.intake import BackPressure, IntakeLoad, IntakeQueue, WaitingOffer, back_pressure
from tests.factories import make_request

CONFIG = DecodeConfig(max_waiting_block_share=0.05, max_early_block_share=0.5)
EMPTY = IntakeLoad(total=100, free=50, block_size=16, places=8, waiting_blocks=0, early_blocks=0)


def offer(tokens: int = 16, discipline: Discipline = Discipline.LATE, transfer_id: str = "r/1") -> WaitingOffer:
    return WaitingOffer(transfer_id, make_request(discipline=discipline), tokens, arrived_ns=100)


def rule(load: IntakeLoad, tokens: int = 16, discipline: Discipline = Discipline.LATE) -> BackPressure | None:
    return back_pressure(offer(tokens, discipline), load, CONFIG)


def test_waiting_blocks_stay_strictly_below_the_share() -> None:
    assert rule(EMPTY) is None
    assert rule(replace(EMPTY, waiting_blocks=4)) is None
    assert rule(replace(EMPTY, waiting_blocks=5)) is BackPressure.WAITING_SHARE, "equality refuses"


def test_the_prompt_must_fit_the_free_blocks() -> None:
    for discipline in Discipline:
        assert rule(replace(EMPTY, free=2), 32, discipline) is None
        assert rule(replace(EMPTY, free=2), 33, discipline) is BackPressure.BLOCKS


def test_with_nothing_waiting_a_small_pool_still_accepts() -> None:
    small = replace(EMPTY, total=4, free=4)
    assert rule(small) is None
    assert rule(small, discipline=Discipline.EARLY) is None


def test_early_grants_are_used_blocks_with_a_share_of_their_own() -> None:
    busy = replace(EMPTY, early_blocks=50, waiting_blocks=0)
    assert rule(busy, discipline=Discipline.EARLY) is BackPressure.EARLY_SHARE
    assert rule(busy) is None, "a prompt that is done does not wait for those that are being computed"
    assert rule(replace(busy, early_blocks=49), discipline=Discipline.EARLY) is None
    assert rule(replace(EMPTY, waiting_blocks=99), discipline=Discipline.EARLY) is None


def test_what_was_here_before_goes_first() -> None:
    assert rule(replace(EMPTY, num_preempted=1)) is BackPressure.PREEMPTED_FIRST
    assert rule(replace(EMPTY, blocked_since=99)) is BackPressure.OLDER_FIRST
    assert rule(replace(EMPTY, blocked_since=101)) is None
    assert rule(replace(EMPTY, places=0)) is BackPressure.PLACES


def test_an_offer_is_counted_once_for_each_reason() -> None:
    queue = IntakeQueue()
    queue.add(offer())
    for reason in (BackPressure.BLOCKS, BackPressure.BLOCKS, BackPressure.PLACES, BackPressure.BLOCKS):
        queue.hold_back(reason)
    assert dict(queue.held_back) == {"blocks": 2, "places": 1}
    queue.add(replace(offer(), arrived_ns=500))
    head = queue.head()
    assert head is not None
    assert head.arrived_ns == 100, "a new attempt keeps its place"
    queue.remove("r/1")
    queue.hold_back(None)
    assert queue.pressure is None
    queue.add(offer(transfer_id="s/1"))
    queue.hold_back(BackPressure.BLOCKS)
    assert queue.held_back["blocks"] == 3
