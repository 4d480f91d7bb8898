"""The request flow and the cache: what is asked, replayed, placed and kept."""

from __future__ import annotations

from services.core.actions import (
    Action,
    Cancel,
    CancelRemote,
    Dispatch,
    Emit,
    Outputs,
    Reject,
    RequestOutput,
    Submit,
    WorkerReport,
)
from services.core.codec import decode, encode
from services.core.lookup import CacheResult, LookupCache, StoreCache
from services.core.request import FinishReason, WorkerRef
from services.router.config import RouterConfig
from services.router.flow import RequestFlow
from tests.factories import make_request

WORKER = WorkerRef("prefill-0", 1)
REPORT = WorkerReport(WORKER, 1, "prefill", ("prefill", "decode"), False, 1, 100, 0, 0, 0, 0, 0, 0, "h:1", 0, 0, 0)


def asked(name: str = "r") -> tuple[RequestFlow, Submit]:
    flow = RequestFlow("door", RouterConfig(), 4)
    flow.handle(0, REPORT)
    submit = Submit("door", make_request(name, (1, 2, 3)), cached=True)
    assert flow.handle(1, submit) == [LookupCache(name)]
    return flow, submit


def test_a_hit_is_replayed_and_nothing_is_dispatched() -> None:
    flow, _ = asked()
    before = flow.state()
    actions = flow.handle(2, CacheResult("door", "r", (7, 8), "exact"))
    assert actions == [Emit("r", (RequestOutput("r", 1, 0, (7, 8), FinishReason.STOP),))]
    assert flow.state() != before and not flow.placements
    assert flow.handle(3, CacheResult("door", "r", (7, 8), "exact")) == [], "it waits no longer"
    flow.check()


def test_a_miss_is_placed_and_its_whole_output_is_offered() -> None:
    flow, submit = asked()
    (dispatch,) = flow.handle(2, CacheResult("door", "r"))
    assert isinstance(dispatch, Dispatch)
    assert dispatch.request.prompt == submit.request.prompt
    first = RequestOutput("r", dispatch.request.attempt, 0, (7,))
    assert flow.handle(3, Outputs(WORKER, (first,))) == [Emit("r", (first,))]
    last = RequestOutput("r", dispatch.request.attempt, 1, (8,), FinishReason.STOP)
    kept = StoreCache("r", (7, 8), FinishReason.STOP)
    assert flow.handle(4, Outputs(WORKER, (last,))) == [kept, Emit("r", (last,))]


def test_what_fails_or_was_not_asked_for_is_not_offered() -> None:
    flow, submit = asked()
    flow.handle(2, CacheResult("door", "r"))
    failed = RequestOutput("r", 1, 0, (), FinishReason.CANCELLED, "x")
    assert not any(isinstance(action, StoreCache) for action in flow.handle(3, Outputs(WORKER, (failed,))))
    flow.handle(4, Submit("door", submit.request))
    actions: list[Action] = flow.handle(5, Outputs(WORKER, (RequestOutput("r", 2, 0, (7,), FinishReason.STOP),)))
    assert [type(action) for action in actions] == [Emit]


def test_a_request_that_is_cancelled_meanwhile_is_forgotten() -> None:
    flow, _ = asked()
    assert flow.handle(2, Cancel("door", "r", FinishReason.CANCELLED, "gone")) == []
    assert flow.handle(3, CacheResult("door", "r")) == []


def test_a_request_is_placed_while_its_meaning_is_looked_for_and_a_hit_cancels_the_work() -> None:
    flow, _ = asked()
    (dispatch,) = flow.handle(2, CacheResult("door", "r", pending=True))
    assert isinstance(dispatch, Dispatch)
    emit, cancel = flow.handle(3, CacheResult("door", "r", (7, 8), "semantic"))
    assert emit == Emit("r", (RequestOutput("r", dispatch.request.attempt + 1, 0, (7, 8), FinishReason.STOP),))
    assert cancel == CancelRemote(WORKER, "r", FinishReason.CANCELLED, "cache_hit", dispatch.request.attempt)
    assert flow.looking.overtaken == 1
    late = RequestOutput("r", dispatch.request.attempt, 0, (9,))
    assert not any(isinstance(action, Emit) for action in flow.handle(4, Outputs(WORKER, (late,))))
    flow.check()


def test_a_hit_after_the_first_token_and_a_late_miss_change_nothing() -> None:
    for result in (CacheResult("door", "r", (7, 8), "semantic"), CacheResult("door", "r")):
        flow, _ = asked()
        (dispatch,) = flow.handle(2, CacheResult("door", "r", pending=True))
        assert isinstance(dispatch, Dispatch)
        flow.handle(3, Outputs(WORKER, (RequestOutput("r", dispatch.request.attempt, 0, (9,)),)))
        assert flow.handle(4, result) == []
        assert flow.looking.late == len(result.token_ids) / 2 and not flow.looking.overtaken
        last = RequestOutput("r", dispatch.request.attempt, 1, (8,), FinishReason.STOP)
        assert flow.handle(5, Outputs(WORKER, (last,)))[-1] == Emit("r", (last,))


def test_a_request_that_no_worker_takes_may_still_be_answered_by_the_cache() -> None:
    for found in (True, False):
        flow = RequestFlow("door", RouterConfig(), 4)
        flow.handle(1, Submit("door", make_request("r", (1, 2, 3)), cached=True))
        assert flow.handle(2, CacheResult("door", "r", pending=True)) == []
        result = CacheResult("door", "r", (7, 8) if found else (), "semantic" if found else "")
        (action,) = flow.handle(3, result)
        assert isinstance(action, Emit if found else Reject)
        flow.handle(4, Submit("door", make_request("s", (1, 2, 3)), cached=True))
        assert flow.handle(5, CacheResult("door", "s", pending=True)) == []
        flow.handle(6, Cancel("door", "s", FinishReason.CANCELLED, "gone"))
        assert flow.handle(7, CacheResult("door", "s")) == [], "nobody waits for it"


def test_messages_can_be_recorded() -> None:
    for message in (CacheResult("d", "r", (1,), "exact"), LookupCache("r"), StoreCache("r", (1,), FinishReason.STOP)):
        assert decode(encode(message)) == message
