"""What decode steps say again is the same object until it changes, and says what rows would."""

from __future__ import annotations

from typing import Any

from services.core.actions import Emit, StepDone, Submit
from services.core.batch import Decodes, Row, ScheduledBatch, StepOutput
from services.core.codec import decode, encode
from services.core.output import RequestOutput, StepTokens, by_request
from services.core.request import FinishReason, WorkerRef
from services.kvcache.block_manager import BlockManager
from services.scheduling.config import SchedulerConfig
from services.scheduling.mixed import MixedScheduler
from services.scheduling.waiting import RequestState
from tests.factories import make_core, make_request


def make(blocks: int = 32) -> MixedScheduler:
    return MixedScheduler(SchedulerConfig(prefill_tile_tokens=1), BlockManager(blocks, 4, 0.0, prefix_caching=False))


def add(scheduler: MixedScheduler, name: str, prompt_tokens: int, **fields: Any) -> RequestState:
    request = make_request(name, tuple(range(prompt_tokens)), max_tokens=99, **fields)
    state = RequestState(request, "prefill", list(request.prompt), 0)
    scheduler.add(state)
    return state


def step(scheduler: MixedScheduler, token: int = 7) -> Decodes | None:
    batch = scheduler.schedule(0)
    assert batch is not None
    scheduler.complete(StepOutput(batch.step_id, (token,) * len(batch.rows)))
    scheduler.check()
    return batch.decodes


def test_what_did_not_change_is_the_same_object() -> None:
    scheduler = make()
    add(scheduler, "a", 3)
    add(scheduler, "b", 4)
    assert step(scheduler) is None
    first, second, third = (step(scheduler, token) for token in (8, 9, 10))
    assert first is not None and second is not None and third is not None
    assert (first.token_ids, second.token_ids, third.token_ids) == ((7, 7), (8, 8), (9, 9))
    assert (first.starts, second.starts) == ((3, 4), (4, 5))
    for one, next_one in ((first, second), (second, third)):
        assert one.request_ids is next_one.request_ids == ("a", "b")
        assert one.samples is next_one.samples
    assert first.block_tables != second.block_tables, "a's fifth token needs a second block"
    assert first.block_tables[1] is second.block_tables[1]
    assert second.block_tables is third.block_tables
    assert first.outputs == ()


def test_who_joins_or_leaves_makes_another_group() -> None:
    scheduler = make()
    a = add(scheduler, "a", 3)
    step(scheduler)
    add(scheduler, "b", 2, repetition_penalty=2.0)
    assert step(scheduler) == Decodes(("a",), (7,), (3,), ((0,),), (a.spec,))
    together = step(scheduler)
    assert together is not None
    assert together.request_ids == ("a", "b")
    assert together.outputs == ((), (7,)), "a counts no tokens"
    scheduler.remove(a)
    alone = step(scheduler)
    assert alone is not None
    assert alone.request_ids == ("b",)


def test_rows_are_the_decodes_one_by_one_and_then_the_chunks() -> None:
    scheduler = make()
    a = add(scheduler, "a", 3)
    step(scheduler)
    b = add(scheduler, "b", 2)
    batch = scheduler.schedule(0)
    assert batch is not None
    assert batch.rows == (Row("a", (7,), 3, (0,), a.spec), Row("b", (0, 1), 0, (1,), b.spec))
    assert batch.num_tokens == 3
    again: ScheduledBatch = decode(encode(batch))
    assert again == batch and again.rows == batch.rows


def test_the_last_given_token_of_a_continued_request_is_a_chunk() -> None:
    scheduler = make()
    request = make_request("r", (1, 2, 3), resume=(4,), max_tokens=9)
    scheduler.add(state := RequestState(request, "prefill", [1, 2, 3, 4], 0))
    state.num_computed = 3
    assert not state.is_decoding, "its block may have a hash, which only a chunk makes findable"


def test_plain_tokens_of_a_step_are_one_output() -> None:
    core = make_core(WorkerRef("w", 1), ("prefill", "decode"))
    for name, limit in (("a", 3), ("b", 9), ("c", 9)):
        core.handle(1, Submit("door", make_request(name, (1, 2, 3), max_tokens=limit)))

    def emitted(step_id: int) -> tuple[object, ...]:
        actions = core.handle(2, StepDone("runner", StepOutput(step_id, (5,) * (1 if step_id == 1 else 3))))
        (emit,) = (action for action in actions if isinstance(action, Emit))
        return emit.outputs

    for step_id in (1, 2):
        emitted(step_id)
    outputs = emitted(3)
    assert len(outputs) == 2
    tokens, last = outputs
    assert tokens == StepTokens(("b", "c"), (1, 1), (1, 1), (5, 5)) == decode(encode(tokens))
    assert isinstance(last, RequestOutput)
    assert (last.request_id, last.finish) == ("a", FinishReason.LENGTH)
    assert by_request((tokens, last)) == (RequestOutput("b", 1, 1, (5,)), RequestOutput("c", 1, 1, (5,)), last)
