"""The request flow and the cache: what is asked, replayed, placed and kept."""

from __future__ import annotations

from services.core.actions import Action, Cancel, Dispatch, Emit, Outputs, RequestOutput, Submit, WorkerReport
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


def test_messages_can_be_recorded() -> None:
    for message in (CacheResult("d", "r", (1,), "exact"), LookupCache("r"), StoreCache("r", (1,), FinishReason.STOP)):
        assert decode(encode(message)) == message
