"""Who is taken, who waits at the front door, and who is told to come back when."""

from __future__ import annotations

from typing import Any

from services.core.actions import Action, Cancel, Dispatch, Outputs, Reject, RequestOutput, Submit, Tick
from services.core.request import FinishReason
from services.router.flow import RequestFlow
from tests.factories import make_request
from tests.unit.router.test_flow import D0, P0, S, flow_with, report


def flow_of(queued: int = 0, decodes: int = 0, **config: Any) -> RequestFlow:
    prefill = report(P0, ("prefill",), queued_prefill_tokens=queued)
    decode = report(D0, ("decode",), running_decodes=decodes, context_tokens=100 * decodes, kv_blocks_total=10_000)
    return flow_with(prefill, decode, **config)


def ask(flow: RequestFlow, name: str = "r", now: int = 1, tokens: int = 50, **fields: Any) -> list[Action]:
    prompt = tuple(range(len(name) * 1000, len(name) * 1000 + tokens))
    actions = flow.handle(now, Submit("door", make_request(name, prompt, **fields), fields.pop("deadline", None)))
    flow.check()
    return actions


def test_a_request_that_would_be_too_late_is_told_when_to_come_back() -> None:
    (action,) = ask(flow_of(queued=2000), ttft_slo_ms=1000)
    assert isinstance(action, Reject)
    assert (action.error, action.reason) == ("OverloadedError", "PREDICTED_TTFT")
    assert action.retry_after_ms is not None and 7000 < action.retry_after_ms < 11_000
    assert isinstance(ask(flow_of(queued=200), ttft_slo_ms=1000)[0], Dispatch), "1220 ms: within half more"
    (shed,) = ask(flow_of(queued=200), ttft_slo_ms=1000, priority=-1)
    assert isinstance(shed, Reject)
    assert shed.reason == "SHED_TTFT", "who may be shed must keep its objective"


def test_an_objective_that_nobody_could_keep_is_no_reason_to_refuse() -> None:
    assert isinstance(ask(flow_of(queued=100), ttft_slo_ms=1)[0], Dispatch)
    assert isinstance(ask(flow_of(decodes=5), tpot_slo_ms=1)[0], Dispatch)


def test_requests_under_way_to_a_decode_worker_count_before_they_run_there() -> None:
    refused: dict[str, list[int]] = {}
    for policy in ("predicted", "instant", "none"):
        admission = {"policy": policy, "reject_above": 1.0, "hold_ms": 1e9}
        flow = flow_of(objectives={"tpot_ms": 100.0}, admission=admission)
        found = [ask(flow, "r" * number, now=number)[0] for number in range(1, 60)]
        refused[policy] = [number for number, action in enumerate(found) if isinstance(action, Reject)]
        assert sum(flow.holding.refused.values()) == len(refused[policy])
    assert refused["none"] == refused["instant"] == [], "nothing runs there yet"
    assert refused["predicted"] == list(range(refused["predicted"][0], 59)), "40 ms and 2 for each row"
    assert 20 < refused["predicted"][0] < 30


def test_who_waits_is_dispatched_by_priority_when_there_is_room() -> None:
    flow = flow_of(queued=1000, admission={"hold_ms": 500})
    assert ask(flow, "a") == ask(flow, "bb") == ask(flow, "ccc", priority=3) == []
    assert flow.holding.queue.depths() == {0: 2, 3: 1}
    actions = flow.handle(2, report(P0, ("prefill",), 2, queued_prefill_tokens=0))
    flow.check()
    assert next(each.request.request_id for each in actions if isinstance(each, Dispatch)) == "ccc"
    while len(flow.holding.queue):
        sent = flow.placements["handoff"]
        flow.handle(3 + sent, report(P0, ("prefill",), 3 + sent, queued_prefill_tokens=0, dispatch_sequence=sent))
        flow.check()
    assert flow.placements == {"handoff": 3}


def test_a_deadline_that_passes_in_the_queue_costs_no_work() -> None:
    flow = flow_of(queued=1000, admission={"hold_ms": 500})
    assert flow.handle(1, Submit("door", make_request("r", tuple(range(50))), 2 * S)) == []
    flow.handle(S, report(P0, ("prefill",), 2, queued_prefill_tokens=1000))
    flow.handle(S, report(D0, ("decode",), 2))
    (action,) = flow.handle(2 * S, Tick("door"))
    assert isinstance(action, Reject)
    assert (action.error, action.message) == ("DeadlineError", "the deadline passed in queue")
    flow.check()
    assert ask(flow, "s", now=2 * S) == []
    assert flow.handle(2 * S, Cancel("door", "s", FinishReason.CANCELLED, "client")) == [], "nobody has it"
    flow.check()
    assert not len(flow.holding.queue)


def test_what_tenants_are_served_is_counted() -> None:
    flow = flow_of()
    ask(flow, "r", tenant="acme")
    flow.handle(2, Outputs(P0, (RequestOutput("r", 1, 0, (7,)),)))
    assert flow.holding.counters.served("acme") == 50 + 2
    flow.handle(3, Outputs(D0, (RequestOutput("r", 1, 1, (7,), FinishReason.STOP),)))
    flow.check()
    assert flow.next_wake() is None
