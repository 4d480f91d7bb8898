"""What the scheduler hands to the sampler, and how prompt log-probabilities are gathered."""

from __future__ import annotations

from typing import Any

from services.core.actions import Action, Emit, RunStep, StepDone, Submit
from services.core.batch import Row, ScheduledBatch, ScoreSpec, StepOutput, TokenLogprob
from services.core.codec import canonical, decode, encode
from services.core.output import RequestOutput, by_request
from services.core.request import FinishReason, WorkerRef
from services.kvcache.block_manager import BlockManager
from services.scheduling.config import SchedulerConfig
from services.scheduling.mixed import MixedScheduler
from services.scheduling.waiting import RequestState, sample_spec
from tests.factories import make_core, make_request

PROMPT = tuple(range(100, 110))


def make(blocks: int = 32, **config: Any) -> MixedScheduler:
    return MixedScheduler(SchedulerConfig(**config), BlockManager(blocks, 4, 0.0, prefix_caching=True))


def add(scheduler: MixedScheduler, request_id: str, **fields: Any) -> RequestState:
    request = make_request(request_id, PROMPT, max_tokens=50, **fields)
    state = RequestState(request, "prefill", list(request.prompt), 0)
    scheduler.add(state)
    return state


def answer(batch: ScheduledBatch) -> StepOutput:
    """Token 7 where one is asked for; the score of a target is its own id."""
    scores = tuple(
        tuple(TokenLogprob(t, -float(t)) for t in row.score.targets) if row.score else () for row in batch.rows
    )
    asked = any(row.score for row in batch.rows)
    return StepOutput(
        batch.step_id, tuple(7 if row.sample else None for row in batch.rows), scores=scores if asked else ()
    )


def step(scheduler: MixedScheduler) -> tuple[Row, ...]:
    batch = scheduler.schedule(0)
    assert batch is not None
    output = answer(batch)
    assert decode(encode(batch)) == batch and decode(encode(output)) == output
    scheduler.complete(output)
    canonical(scheduler.state())
    return batch.rows


def test_a_row_carries_the_output_only_for_penalties() -> None:
    scheduler = make()
    add(scheduler, "plain", temperature=0.5)
    add(scheduler, "counted", frequency_penalty=0.1)
    rows = [step(scheduler) for _ in range(3)]
    assert [row.outputs for row in rows[0]] == [(), ()]
    assert [row.outputs for row in rows[2]] == [(), (7, 7)]
    assert rows[0][0].sample is rows[2][0].sample, "made once"


def test_a_row_carries_the_output_for_a_grammar() -> None:
    scheduler = make()
    add(scheduler, "plain")
    add(scheduler, "formed", grammar="g", stop_token_ids=(5,))
    rows = [step(scheduler) for _ in range(3)]
    assert [row.outputs for row in rows[2]] == [(), (7, 7)]
    spec = rows[2][1].sample
    assert spec is not None and (spec.grammar, spec.forbidden, spec.forbidden_before) == ("g", (5,), 10)


def test_a_request_that_its_step_refused_ends_alone() -> None:
    core = make_core(WorkerRef("w", 1), ("prefill",), num_blocks=64)
    actions: list[Action] = []
    for name in ("one", "two", "three"):
        actions += core.handle(0, Submit("door", make_request(name, PROMPT, max_tokens=4)))
    told: dict[str, list[RequestOutput]] = {"one": [], "two": [], "three": []}
    refusing = {1: "one", 3: "three"}  # in its prompt, and while it decodes
    for number in range(1, 9):
        for output in by_request(each for action in actions if isinstance(action, Emit) for each in action.outputs):
            told[output.request_id].append(output)
        batches = [action.batch for action in actions if isinstance(action, RunStep)]
        if not batches:
            break
        ids = [row.request_id for row in batches[0].rows]
        refused = ((refusing[number], "because"),) if refusing.get(number) in ids else ()
        tokens = tuple(7 if row.sample else None for row in batches[0].rows)
        output = StepOutput(batches[0].step_id, tokens, refused=refused)
        assert decode(encode(output)) == output
        actions = core.handle(0, StepDone("runner", output))
        core.check()
    assert core.idle and core.blocks_used == 0
    assert [each.finish for each in told["two"]][-1] is FinishReason.LENGTH
    for name, count in (("one", 0), ("three", 1)):
        assert told[name][-1].reason == "GRAMMAR_FAILED" and told[name][-1].message == "because"
        assert sum(len(each.token_ids) for each in told[name]) == count, told[name]
    assert dict(core.load().counters)["ended/GRAMMAR_FAILED"] == 2


def test_the_spec_has_what_the_request_asks_for() -> None:
    request = make_request(prompt=PROMPT, repetition_penalty=1.2, top_k=3, stop_token_ids=(5,), min_tokens=2, seed=9)
    spec = sample_spec(request)
    assert (spec.prompt, spec.top_k, spec.seed, spec.logprobs) == (PROMPT, 3, 9, None)
    assert (spec.forbidden, spec.forbidden_before) == ((5,), 12), "the third output token may be the stop"
    assert sample_spec(make_request(prompt=PROMPT, stop_token_ids=(5,))).forbidden == ()


def test_a_scored_prompt_is_computed_whole_and_every_target_once() -> None:
    scheduler = make(max_batch_tokens=4, prefill_tile_tokens=1)
    first = add(scheduler, "first")
    while first.num_outputs == 0:
        step(scheduler)
    scheduler.remove(first)
    scored = add(scheduler, "scored", prompt_logprobs=2)
    rows = []
    while scored.num_outputs == 0:
        rows += step(scheduler)
    assert rows[0].start == 0 and scored.cached_tokens == 0, "its blocks are cached, but have no logits"
    assert [target for row in rows if row.score for target in row.score.targets] == list(PROMPT[1:])
    assert rows[0].score == ScoreSpec(PROMPT[1 : len(rows[0].token_ids) + 1], 2)
    assert [each.token_id for each in scored.prompt_logprobs] == list(PROMPT[1:])
    assert step(scheduler)[0].score is None
    hit = add(scheduler, "hit")
    step(scheduler)
    assert hit.cached_tokens == 8


def test_a_continued_request_scores_nothing() -> None:
    scheduler = make()
    request = make_request("r", PROMPT, prompt_logprobs=2, presence_penalty=1.0, resume=(1, 2))
    scheduler.add(RequestState(request, "prefill", list(request.known_tokens), 0))
    (row,) = step(scheduler)
    assert (row.score, row.outputs) == (None, (1, 2))


def test_a_prompt_preempted_while_it_is_scored_begins_anew() -> None:
    scheduler = make(max_batch_tokens=4, prefill_tile_tokens=1)
    state = add(scheduler, "r", prompt_logprobs=0)
    step(scheduler)
    assert state.prompt_logprobs
    scheduler._preempt(0, state)
    assert not state.prompt_logprobs
    while state.num_outputs == 0:
        step(scheduler)
    assert [each.token_id for each in state.prompt_logprobs] == list(PROMPT[1:])
