"""The scheduler's batches, exactly."""

from __future__ import annotations

from typing import Any

import pytest

from services.core.batch import ScheduledBatch, StepOutput
from services.core.clock import NS_PER_S
from services.kvcache.block_manager import BlockManager
from services.scheduling.config import SchedulerConfig
from services.scheduling.mixed import MixedScheduler
from services.scheduling.waiting import RequestState
from tests.factories import make_request


def make(blocks: int = 32, **config: Any) -> MixedScheduler:
    config = {"prefill_tile_tokens": 1, **config}
    return MixedScheduler(SchedulerConfig(**config), BlockManager(blocks, 4, 0.0, prefix_caching=False))


def add(scheduler: MixedScheduler, request_id: str, prompt_tokens: int, arrived: int = 0) -> RequestState:
    request = make_request(request_id, tuple(range(prompt_tokens)), max_tokens=99)
    state = RequestState(request, "prefill", list(request.prompt), arrived)
    scheduler.add(state)
    return state


def shape(batch: ScheduledBatch | None) -> list[tuple[str, int, int, bool]]:
    assert batch is not None
    return [(row.request_id, row.start, len(row.token_ids), row.sample is not None) for row in batch.rows]


def step(scheduler: MixedScheduler) -> list[tuple[str, int, int, bool]]:
    batch = scheduler.schedule(0)
    found = shape(batch)
    assert batch is not None
    scheduler.complete(StepOutput(batch.step_id, tuple(7 if row.sample else None for row in batch.rows)))
    scheduler.check()
    return found


def test_decodes_come_first_and_prompts_share_what_is_left_of_the_budget() -> None:
    scheduler = make(max_batch_tokens=8)
    add(scheduler, "a", 3)
    assert step(scheduler) == [("a", 0, 3, True)]
    add(scheduler, "b", 12, 1)
    add(scheduler, "c", 2, 2)
    assert step(scheduler) == [("a", 3, 1, True), ("b", 0, 7, False)]
    assert step(scheduler) == [("a", 4, 1, True), ("b", 7, 5, True), ("c", 0, 2, True)]
    assert step(scheduler) == [("a", 5, 1, True), ("b", 12, 1, True), ("c", 2, 1, True)]


def test_no_second_batch_while_a_step_runs() -> None:
    scheduler = make()
    add(scheduler, "a", 3)
    assert scheduler.schedule(0) is not None
    assert scheduler.schedule(0) is None


def test_the_last_request_is_preempted_when_blocks_run_out_and_computes_its_tokens_again() -> None:
    scheduler = make(blocks=4)
    add(scheduler, "a", 7)
    add(scheduler, "b", 7, 1)
    step(scheduler)  # 7 tokens and one sampled each: two blocks each, full
    assert step(scheduler) == [("a", 7, 1, True), ("b", 7, 1, True)]
    assert step(scheduler) == [("a", 8, 1, True)], "b lost its blocks so that a can grow"
    assert scheduler.preemptions == {"no_blocks": 1}
    first = scheduler.get("a")
    assert first is not None
    scheduler.remove(first)
    assert step(scheduler) == [("b", 0, 9, True)], "prompt and output again, in one go"


def test_a_removed_request_keeps_its_blocks_until_the_step_ends() -> None:
    blocks = BlockManager(8, 4, 0.0, prefix_caching=False)
    scheduler = MixedScheduler(SchedulerConfig(), blocks)
    state = add(scheduler, "a", 7)
    batch = scheduler.schedule(0)
    assert batch is not None
    scheduler.remove(state)
    assert blocks.used == 2, "the runner may still write to them"
    assert scheduler.complete(StepOutput(batch.step_id, (7,))) == []
    assert blocks.used == 0


def test_a_failed_step_returns_the_requests_that_it_held() -> None:
    scheduler = make()
    state = add(scheduler, "a", 7)
    scheduler.schedule(0)
    assert scheduler.fail() == [state]


def test_max_sequences_bounds_the_requests_with_blocks() -> None:
    scheduler = make(max_sequences=2)
    for number in range(3):
        add(scheduler, f"r{number}", 2, number)
    assert [row[0] for row in step(scheduler)] == ["r0", "r1"]
    assert [row[0] for row in step(scheduler)] == ["r0", "r1"]


def test_prompts_keep_a_tile_however_many_requests_decode() -> None:
    scheduler = make(max_batch_tokens=8, prefill_tile_tokens=4)
    for number in range(6):
        add(scheduler, f"d{number}", 1, number)
    step(scheduler)
    add(scheduler, "long", 16, 9)
    assert [row[0] for row in step(scheduler)] == ["d0", "d1", "d2", "d3"], "no more than leave a tile hold blocks"
    first = scheduler.get("d0")
    assert first is not None
    scheduler.remove(first)
    assert step(scheduler)[3:] == [("d4", 0, 1, True)]
    for name in ("d1", "d2", "d3", "d4", "d5"):
        state = scheduler.get(name)
        assert state is not None
        scheduler.remove(state)
    add(scheduler, "d6", 1, 10)
    assert step(scheduler) == [("long", 0, 8, False)]
    assert step(scheduler) == [("long", 8, 8, True)]
    assert step(scheduler) == [("long", 16, 1, True), ("d6", 0, 1, True)]


def test_short_prompts_share_a_step_with_a_chunk_of_a_long_one() -> None:
    scheduler = make(max_batch_tokens=16, max_chunk_tokens=8)
    add(scheduler, "long", 40)
    add(scheduler, "a", 3, 1)
    add(scheduler, "b", 5, 2)
    assert step(scheduler) == [("long", 0, 8, False), ("a", 0, 3, True), ("b", 0, 5, True)]


def test_chunks_that_do_not_end_a_prompt_end_at_a_tile() -> None:
    scheduler = make(max_batch_tokens=11, prefill_tile_tokens=4)
    add(scheduler, "a", 30)
    assert [step(scheduler)[0][1:3] for _ in range(4)] == [(0, 8), (8, 8), (16, 8), (24, 6)]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("fcfs", ["late", "long", "short", "urgent"]),
        ("priority", ["urgent", "late", "long", "short"]),
        ("shortest_first", ["short", "late", "urgent", "long"]),
        ("edf", ["short", "urgent", "long", "late"]),
    ],
)
def test_orders(order: str, expected: list[str]) -> None:
    scheduler = make(order=order, max_batch_tokens=512)
    given = [("late", 8, 0, 0), ("long", 20, 0, 300), ("short", 2, 0, 100), ("urgent", 10, 5, 200)]
    for arrived, (name, tokens, priority, deadline) in enumerate(given):
        request = make_request(name, tuple(range(tokens)), priority=priority)
        scheduler.add(RequestState(request, "prefill", list(request.prompt), arrived, deadline or None))
    assert [row[0] for row in step(scheduler)] == expected


def test_age_outweighs_priority_and_length() -> None:
    for order, fields in (("priority", {"priority": 3}), ("shortest_first", {})):
        scheduler = make(order=order, ageing_s=2.0)
        old = make_request("old", tuple(range(20)))
        scheduler.add(RequestState(old, "prefill", list(old.prompt), 0))
        for name, arrived_ns in (("soon", NS_PER_S // 1000), ("later", 7 * NS_PER_S)):
            request = make_request(name, (1, 2), **fields)
            scheduler.add(RequestState(request, "prefill", [1, 2], arrived_ns))
        assert [row[0] for row in step(scheduler)] == ["soon", "old", "later"]


def test_the_victim_is_the_last_in_order_not_the_last_to_come() -> None:
    scheduler = make(blocks=4, order="priority")
    for name, priority in (("low", 0), ("high", 5)):
        request = make_request(name, tuple(range(7)), priority=priority, max_tokens=9)
        scheduler.add(RequestState(request, "prefill", list(request.prompt), 0))
    step(scheduler)
    step(scheduler)
    assert [row[0] for row in step(scheduler)] == ["high"]


def test_at_the_limit_of_preemptions_a_request_gets_blocks_for_its_whole_length() -> None:
    scheduler = make(blocks=6, max_preemptions=1)
    a, b = add(scheduler, "a", 7), add(scheduler, "b", 7, 1)
    for state in (a, b):
        state.request = make_request(state.request.request_id, state.request.prompt, max_tokens=9)
    while b.num_preemptions == 0:
        step(scheduler)
    while a.num_outputs < 9:
        step(scheduler)
        assert b.num_preemptions == 1
    scheduler.remove(a)
    step(scheduler)
    assert len(b.blocks) == 4, "16 tokens, while it knows fewer"
