"""Where requests go, and how each of their ends is told to whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
    Tick,
    WorkerReport,
)
from services.core.request import Discipline, FinishReason, WorkerRef
from services.router.config import RouterConfig
from services.router.flow import RequestFlow
from tests.factories import BLOCK_SIZE, make_request

S = 1_000_000_000


def report(worker: WorkerRef, roles: tuple[str, ...], sequence: int = 1, **fields: object) -> WorkerReport:
    base = WorkerReport(worker, 1, roles[0], roles, False, sequence, 100, 0, 0, 0, 0, 0, 0, "h:1", 0, 0, 0)
    return replace(base, **fields)  # type: ignore[arg-type]


P0, P1, D0, D1 = (WorkerRef(name, 1) for name in ("prefill-0", "prefill-1", "decode-0", "decode-1"))


def flow_with(*reports: WorkerReport, **config: Any) -> RequestFlow:
    flow = RequestFlow("door", RouterConfig(**config), BLOCK_SIZE)
    for each in reports:
        flow.handle(0, each)
    return flow


def submit(
    flow: RequestFlow, request_id: str, now: int = 1, tokens: int = 5, deadline: int | None = None
) -> list[Action]:
    actions = flow.handle(now, Submit("door", make_request(request_id, tuple(range(tokens))), deadline))
    flow.check()
    return actions


def dispatched(actions: list[Action]) -> tuple[WorkerRef, WorkerRef | None]:
    (action,) = actions
    assert isinstance(action, Dispatch)
    return action.to, action.request.handoff_to


def test_requests_between_two_reports_spread_over_equal_workers() -> None:
    flow = flow_with(*(report(w, (w.worker_id.split("-")[0],)) for w in (P0, P1, D0, D1)))
    places = [dispatched(submit(flow, f"r{n}")) for n in range(4)]
    assert places == [(P0, D0), (P1, D1), (P0, D0), (P1, D1)]


def test_a_seen_dispatch_is_counted_once() -> None:
    flow = flow_with(report(P0, ("prefill",)), report(P1, ("prefill",)), report(D0, ("decode",)))
    submit(flow, "r0", tokens=100)
    flow.handle(2, report(P0, ("prefill",), 2, dispatch_sequence=1, queued_prefill_tokens=40))
    flow.handle(2, report(P1, ("prefill",), 2, queued_prefill_tokens=50))
    assert dispatched(submit(flow, "r1"))[0] == P0, "40 reported, and the reservation of 100 is gone"


def test_a_worker_with_both_stages_needs_no_handoff() -> None:
    flow = flow_with(report(P0, ("prefill", "decode")))
    assert dispatched(submit(flow, "r")) == (P0, None)


def test_long_prompts_ask_for_an_early_grant() -> None:
    flow = flow_with(report(P0, ("prefill",)), report(D0, ("decode",)))
    for tokens, discipline in ((511, Discipline.LATE), (512, Discipline.EARLY)):
        (action,) = submit(flow, f"r{tokens}", tokens=tokens)
        assert isinstance(action, Dispatch)
        assert action.request.discipline is discipline


def test_stale_draining_and_missing_workers_are_named_in_the_refusal() -> None:
    flow = flow_with(report(P0, ("prefill",), draining=True), report(D0, ("decode",)))
    (action,) = submit(flow, "r")
    assert isinstance(action, Reject)
    assert action.reason == "NO_WORKERS"
    assert "1 not has_role, 1 not not_draining" in action.message
    stale = flow_with(report(P0, ("prefill",)), report(D0, ("decode",)))
    (action,) = submit(stale, "r", now=6 * S)
    assert isinstance(action, Reject), "a silent worker is never an idle one"


def output(request_id: str, index: int, finish: FinishReason | None = None, reason: str = "") -> RequestOutput:
    return RequestOutput(request_id, 1, index, (7,), finish=finish, reason=reason)


def started() -> RequestFlow:
    flow = flow_with(report(P0, ("prefill",)), report(D0, ("decode",)))
    submit(flow, "r", deadline=9 * S)
    return flow


def test_tokens_pass_and_the_end_is_forgotten() -> None:
    flow = started()
    assert flow.handle(2, Outputs(P0, (output("r", 0),))) == [Emit("r", (output("r", 0),))]
    last = output("r", 1, FinishReason.STOP)
    assert flow.handle(3, Outputs(D0, (last,))) == [Emit("r", (last,))]
    assert flow.next_wake() is None
    late = CancelRemote(D0, "r", FinishReason.CANCELLED, "stale_attempt", 1)
    assert flow.handle(4, Outputs(D0, (output("r", 2),))) == [late], "late tokens are dropped, their source is stopped"
    flow.check()


def test_the_end_may_overtake_the_first_token() -> None:
    flow = started()
    last, first = output("r", 1, FinishReason.STOP), output("r", 0)
    assert flow.handle(2, Outputs(D0, (last,))) == [Emit("r", (last,))]
    assert flow.handle(3, Outputs(P0, (first,))) == [Emit("r", (first,))]
    assert flow.next_wake() is None
    flow.check()


def test_a_failure_that_would_come_again_releases_the_other_worker() -> None:
    flow = started()
    failed = replace(output("r", 1, FinishReason.ERROR, "STEP_FAILED"), token_ids=())
    actions = flow.handle(2, Outputs(P0, (failed,)))
    assert actions == [Emit("r", (failed,)), CancelRemote(D0, "r", FinishReason.CANCELLED, "STEP_FAILED", 1)]
    flow.check()


def test_cancel_and_deadline_reach_every_worker() -> None:
    flow = started()
    cancelled = flow.handle(2, Cancel("door", "r", FinishReason.CANCELLED, "client"))
    assert [action.to for action in cancelled if isinstance(action, CancelRemote)] == [P0, D0]
    flow = started()
    flow.handle(9 * S - 5, Tick("door"))
    assert flow.next_wake() == 9 * S
    actions = flow.handle(9 * S, Tick("door"))
    assert isinstance(actions[0], Reject)
    assert actions[0].error == "DeadlineError"
    assert len(actions) == 3
    flow.check()


C0, C1 = (WorkerRef(f"both-{number}", 1) for number in (0, 1))


def test_a_worker_of_both_roles_is_weighed_by_its_decodes_too() -> None:
    busy = report(C0, ("prefill", "decode"), running_decodes=40, context_tokens=9000)
    queue = report(C1, ("prefill", "decode"), queued_prefill_tokens=3)
    for reports in ((busy, queue), (queue, busy)):
        assert dispatched(submit(flow_with(*reports), "r")) == (C1, None), "12 ms of prompts against 98 of decodes"


def test_equal_workers_take_turns_and_each_front_door_begins_elsewhere() -> None:
    pool = [WorkerRef(f"prefill-{number}", 1) for number in range(4)]
    firsts = set()
    for door in ("a", "b", "c", "d", "e", "f"):
        flow = RequestFlow(door, RouterConfig(scorer="round_robin"), BLOCK_SIZE)
        for worker in (*pool, D0):
            flow.handle(0, report(worker, (worker.worker_id.split("-")[0],)))
        places = [dispatched(submit(flow, f"r{number}"))[0] for number in range(8)]
        assert sorted(places[:4], key=lambda each: each.worker_id) == pool, "each once before anyone twice"
        assert places[:4] == places[4:]
        firsts.add(places[0])
    assert len(firsts) > 1
