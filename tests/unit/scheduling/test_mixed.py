"""The scheduler's batches, exactly."""

from __future__ import annotations

from services.core.batch import ScheduledBatch, StepOutput
from services.kvcache.block_manager import BlockManager
from services.scheduling.config import SchedulerConfig
from services.scheduling.mixed import MixedScheduler
from services.scheduling.waiting import RequestState
from tests.factories import make_request


def make(blocks: int = 32, **config: int) -> MixedScheduler:
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
    batch = scheduler.schedule()
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
    assert scheduler.schedule() is not None
    assert scheduler.schedule() is None


def test_the_last_request_is_preempted_when_blocks_run_out_and_computes_its_tokens_again() -> None:
    scheduler = make(blocks=4)
    add(scheduler, "a", 7)
    add(scheduler, "b", 7, 1)
    step(scheduler)  # 7 tokens and one sampled each: two blocks each, full
    assert step(scheduler) == [("a", 7, 1, True), ("b", 7, 1, True)]
    assert step(scheduler) == [("a", 8, 1, True)], "b lost its blocks so that a can grow"
    assert scheduler.preemptions == 1
    first = scheduler.get("a")
    assert first is not None
    scheduler.remove(first)
    assert step(scheduler) == [("b", 0, 9, True)], "prompt and output again, in one go"


def test_a_removed_request_keeps_its_blocks_until_the_step_ends() -> None:
    blocks = BlockManager(8, 4, 0.0, prefix_caching=False)
    scheduler = MixedScheduler(SchedulerConfig(), blocks)
    state = add(scheduler, "a", 7)
    batch = scheduler.schedule()
    assert batch is not None
    scheduler.remove(state)
    assert blocks.used == 2, "the runner may still write to them"
    assert scheduler.complete(StepOutput(batch.step_id, (7,))) == []
    assert blocks.used == 0


def test_a_failed_step_returns_the_requests_that_it_held() -> None:
    scheduler = make()
    state = add(scheduler, "a", 7)
    scheduler.schedule()
    assert scheduler.fail() == [state]


def test_max_sequences_bounds_the_requests_with_blocks() -> None:
    scheduler = make(max_sequences=2)
    for number in range(3):
        add(scheduler, f"r{number}", 2, number)
    assert [row[0] for row in step(scheduler)] == ["r0", "r1"]
    assert [row[0] for row in step(scheduler)] == ["r0", "r1"]
