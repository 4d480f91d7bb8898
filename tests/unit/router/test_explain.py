"""An explanation is what placement would do, for each candidate too, and leaves nothing behind."""

from __future__ import annotations

from services.core.actions import Submit
from services.core.request import Request, SamplingParams, WorkerRef
from services.kvcache.block import prompt_block_hashes
from services.router.config import RouterConfig
from services.router.explain import Explanation, explain
from services.router.flow import RequestFlow
from services.router.profiles import NoCandidate
from tests.factories import BLOCK_SIZE, ROOT
from tests.unit.router.test_flow import D0, D1, P0, P1, S, flow_with, report

P2 = WorkerRef("prefill-2", 1)


def request(name: str, tokens: int = 64) -> Request:
    prompt = tuple(range(tokens))
    hashes = prompt_block_hashes(ROOT, prompt, BLOCK_SIZE)
    return Request(name, 1, prompt, hashes, SamplingParams(max_tokens=8), "door")


def fleet(**config: object) -> RequestFlow:
    return flow_with(
        report(P0, ("prefill",), queued_prefill_tokens=900),
        report(P1, ("prefill",), queued_prefill_tokens=100),
        report(P2, ("prefill",), draining=True),
        report(D0, ("decode",), running_decodes=9, context_tokens=900),
        report(D1, ("decode",), running_decodes=2, context_tokens=100),
        **config,
    )


def chosen(told: Explanation) -> dict[str, WorkerRef]:
    return {each.stage: each.worker for each in told.candidates if each.chosen}


def test_it_is_what_happens_next_and_the_chosen_cost_least() -> None:
    flow = fleet()
    told = explain(S, request("r1"), flow, 9)
    flow.handle(S, Submit("door", request("r1"), None))
    assert told.decision == flow.explain("r1") and not told.held and told.refusal is None
    assert chosen(told) == {"prefill": P1, "decode": D1}
    by_place = {(each.stage, each.worker.worker_id): each for each in told.candidates}
    assert by_place["prefill", "prefill-2"].excluded_by == "not_draining"
    assert {name for (stage, name), each in by_place.items() if stage == "prefill" and each.excluded_by} == {
        "prefill-2", "decode-0", "decode-1",
    }  # fmt: skip
    for stage in ("prefill", "decode"):
        costs = {
            each.worker: each.decision.cost_ms for each in told.candidates if each.stage == stage and each.decision
        }
        assert len(costs) == 2 and min(costs, key=costs.__getitem__) == chosen(told)[stage]


def test_few_are_told_with_the_chosen_among_them() -> None:
    told = explain(S, request("r1"), fleet(), 1)
    assert [(each.stage, each.worker) for each in told.candidates] == [("prefill", P1), ("decode", D1)]


def test_nothing_is_left_behind() -> None:
    flow = fleet()
    flow.handle(S, Submit("door", request("r1"), None))
    late = 70 * S  # guesses of prefixes have grown old; the next placement, and not this look, turns them over
    for worker, role in ((P0, "prefill"), (P1, "prefill"), (D0, "decode"), (D1, "decode")):
        flow.handle(late, report(worker, (role,), 2))
    index, before = flow.placing.index, repr(flow.state())
    guesses = [repr(vars(each)) for each in (index._guessed, index._pending)]
    assert explain(late, request("r2"), flow, 9).decision is not None
    assert repr(flow.state()) == before
    assert [repr(vars(each)) for each in (index._guessed, index._pending)] == guesses
    fresh = fleet()
    before, rates = repr(fresh.state()), dict(fresh.placing.predictor._rates)
    explain(S, request("r1"), fresh, 9)
    assert repr(fresh.state()) == before and fresh.placing.predictor._rates == rates
    flow.check()


def test_stages_placed_by_scores_are_explained_too() -> None:
    flow = fleet(placement="scored")
    told = explain(S, request("r1"), flow, 9)
    assert chosen(told)["prefill"] == P1 and told.decision is not None and told.refusal is None
    empty = RequestFlow("door", RouterConfig(), BLOCK_SIZE)
    nowhere = explain(S, request("r1"), empty, 9)
    assert isinstance(nowhere.placed, NoCandidate) and nowhere.candidates == ()
