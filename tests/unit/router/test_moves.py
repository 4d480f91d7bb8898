"""Requests that lose a worker: retried before the first token, continued after it, moved away from stuck workers."""

from __future__ import annotations

from typing import Any

import pytest

from services.core.actions import (
    Action,
    CancelRemote,
    Dispatch,
    Emit,
    Outputs,
    Reject,
    RequestOutput,
    StreamGap,
    Submit,
    Tick,
    WorkerLost,
)
from services.core.request import FinishReason, Request, WorkerRef
from services.kvcache.block import prompt_block_hashes
from services.router.config import RouterConfig
from services.router.flow import LOOK_EVERY_NS, RequestFlow
from tests.factories import BLOCK_SIZE, ROOT, make_request
from tests.unit.router.test_flow import D0, D1, P0, P1, S, report

PROMPT = tuple(range(5))
ALL = (P0, P1, D0, D1)


def flow_of(*workers: WorkerRef, **config: Any) -> RequestFlow:
    flow = RequestFlow("door", RouterConfig(**config), BLOCK_SIZE)
    tell(flow, 0, *workers)
    return flow


def tell(flow: RequestFlow, now: int, *workers: WorkerRef) -> list[Action]:
    """A report of each worker."""
    actions = []
    for worker in workers:
        actions += flow.handle(now, report(worker, (worker.worker_id.split("-")[0],), now + 1))
        flow.check()
    return actions


def begin(flow: RequestFlow, **fields: Any) -> Request:
    fields = {"max_tokens": 20, **fields}
    (action,) = flow.handle(1, Submit("door", make_request("r", PROMPT, hash_root=ROOT, **fields), 60 * S))
    assert isinstance(action, Dispatch)
    return action.request


def token(request: Request, index: int, worker: WorkerRef, finish: FinishReason | None = None) -> Outputs:
    return Outputs(worker, (RequestOutput("r", request.attempt, index, (100 + index,), finish),))


def bad(request: Request, worker: WorkerRef, reason: str) -> Outputs:
    end = RequestOutput("r", request.attempt, 0, (), FinishReason.ERROR, reason, "it broke")
    return Outputs(worker, (end,))


def moved(actions: list[Action]) -> tuple[list[WorkerRef], Dispatch]:
    """Who was cancelled, and the one new dispatch after that."""
    *cancels, dispatch = actions
    assert isinstance(dispatch, Dispatch)
    assert all(isinstance(each, CancelRemote) for each in cancels)
    return [each.to for each in cancels if isinstance(each, CancelRemote)], dispatch


def test_a_worker_lost_before_the_first_token_means_a_retry_elsewhere() -> None:
    for lost, cancelled, places in ((P0, [D0], (P1, D1)), (D0, [P0], (P0, D1))):
        flow = flow_of(*ALL)
        first = begin(flow)
        told, dispatch = moved(flow.handle(2, WorkerLost("x", lost, "killed")))
        assert told == cancelled
        assert (dispatch.to, dispatch.request.handoff_to) == places
        assert (dispatch.request.attempt, dispatch.request.resume) == (first.attempt + 1, ())
        assert flow.moves == {"retried/worker_lost": 1}
        flow.check()


def test_after_the_first_token_the_next_worker_goes_on_from_what_the_client_has() -> None:
    flow = flow_of(*ALL)
    first = begin(flow)
    flow.handle(2, token(first, 0, P0))
    for index in (1, 2, 3):
        flow.handle(3, token(first, index, D0))
    told, dispatch = moved(flow.handle(4, WorkerLost("x", D0, "killed")))
    assert told == [P0]
    assert (dispatch.to, dispatch.request.handoff_to) == (P0, D1), "the prompt is in P0's prefix cache"
    assert dispatch.request.resume == (100, 101, 102, 103)
    assert dispatch.request.prompt == PROMPT
    known = PROMPT + dispatch.request.resume
    assert dispatch.request.block_hashes == prompt_block_hashes(ROOT, known, BLOCK_SIZE)
    assert flow.moves == {"continued/worker_lost": 1}
    (late,) = flow.handle(5, token(first, 4, D0))
    assert late == CancelRemote(D0, "r", FinishReason.CANCELLED, "stale_attempt", first.attempt), "it never reaches us"
    assert isinstance(flow.handle(6, token(dispatch.request, 4, P0))[0], Emit)
    flow.handle(7, token(dispatch.request, 5, D1, FinishReason.STOP))
    assert flow.next_wake() is None
    flow.check()


def test_tokens_beyond_a_gap_are_computed_again() -> None:
    flow = flow_of(*ALL)
    first = begin(flow)
    flow.handle(2, token(first, 1, D0))
    flow.handle(2, token(first, 2, D0, FinishReason.STOP))
    _, dispatch = moved(flow.handle(3, WorkerLost("x", P0, "killed with the first token")))
    assert dispatch.request.resume == ()
    flow.check()


def test_a_lost_prefill_worker_is_not_missed_once_decode_speaks() -> None:
    flow = flow_of(*ALL)
    first = begin(flow)
    flow.handle(2, token(first, 0, P0))
    flow.handle(2, token(first, 1, D0))
    assert flow.handle(3, WorkerLost("x", P0, "killed")) == []


def test_a_failed_handoff_avoids_both_ends_while_there_are_others() -> None:
    flow = flow_of(*ALL)
    first = begin(flow)
    told, dispatch = moved(flow.handle(2, bad(first, P0, "KV_TRANSFER_FAILED")))
    assert told == [D0]
    assert (dispatch.to, dispatch.request.handoff_to) == (P1, D1)
    alone = flow_of(P0, D0)
    first = begin(alone)
    _, dispatch = moved(alone.handle(2, bad(first, P0, "KV_TRANSFER_FAILED")))
    assert (dispatch.to, dispatch.request.handoff_to) == (P0, D0), "there are no others"


@pytest.mark.parametrize(("reason", "error"), [("OVERLOADED", "OverloadedError"), ("DRAINING", "UnavailableError")])
def test_a_refusal_is_asked_of_each_worker_once(reason: str, error: str) -> None:
    flow = flow_of(P0, P1, D0)
    first = begin(flow)
    _, dispatch = moved(flow.handle(2, bad(first, P0, reason)))
    assert dispatch.to == P1
    reject, cancel = flow.handle(3, bad(dispatch.request, P1, reason))
    assert isinstance(reject, Reject)
    assert (reject.error, reject.reason, reject.retry_after_ms) == (error, reason, 1000)
    assert isinstance(cancel, CancelRemote)
    assert cancel.to == D0
    flow.check()


def test_the_number_of_attempts_is_bounded_and_the_end_may_be_retried() -> None:
    for num_tokens, limit in ((0, {"max_retries": 2}), (1, {"max_continuations": 2})):
        flow = flow_of(P0, D0, **limit)
        request = begin(flow)
        if num_tokens:
            flow.handle(2, token(request, 0, P0))
        for _ in range(2):
            _, dispatch = moved(flow.handle(2, bad(request, P0, "KV_TRANSFER_FAILED")))
            request = dispatch.request
        reject, cancel = flow.handle(3, bad(request, P0, "KV_TRANSFER_FAILED"))
        assert isinstance(reject, Reject)
        assert (reject.error, reject.reason, reject.retry_after_ms) == (
            "UnavailableError",
            "KV_TRANSFER_FAILED",
            1000,
        )
        assert isinstance(cancel, CancelRemote)
        assert flow.next_wake() is None
        flow.check()


def test_a_request_without_a_worker_waits_for_one_and_not_for_ever() -> None:
    flow = flow_of(P0, D0, wait_for_worker_s=15)
    begin(flow)
    assert flow.handle(2, WorkerLost("x", D0, "killed")) == [
        CancelRemote(P0, "r", FinishReason.CANCELLED, "worker_lost", 1)
    ]
    (dispatch,) = tell(flow, 3, WorkerRef("decode-0", 2))
    assert isinstance(dispatch, Dispatch)
    assert dispatch.request.handoff_to == WorkerRef("decode-0", 2)
    flow.handle(4, WorkerLost("x", WorkerRef("decode-0", 2), "killed"))
    (reject,) = flow.handle(16 * S, Tick("door"))
    assert isinstance(reject, Reject)
    assert (reject.error, reject.reason, reject.retry_after_ms) == ("UnavailableError", "NO_WORKERS", 1000)
    assert flow.next_wake() is None


def test_a_deadline_passes_while_no_worker_is_there() -> None:
    flow = flow_of(P0, D0, wait_for_worker_s=100)
    begin(flow)
    flow.handle(2, WorkerLost("x", D0, "killed"))
    (reject,) = flow.handle(60 * S, Tick("door"))
    assert isinstance(reject, Reject)
    assert reject.error == "DeadlineError"
    assert "in queue" in reject.message


def test_a_gap_in_a_stream_is_filled_by_the_same_workers() -> None:
    flow = flow_of(P0, D0)
    first = begin(flow)
    flow.handle(2, token(first, 0, P0))
    told, dispatch = moved(flow.handle(3, StreamGap("door", D0)))
    assert told == [P0, D0]
    assert (dispatch.to, dispatch.request.handoff_to, dispatch.request.resume) == (P0, D0, (100,))


def ticks(flow: RequestFlow, start: int, end: int, *speaking: WorkerRef) -> list[Action]:
    """Time passes; these workers report."""
    actions: list[Action] = []
    for now in range(start, end, LOOK_EVERY_NS):
        tell(flow, now, *speaking)
        actions += flow.handle(now, Tick("door"))
        flow.check()
    return actions


def test_a_stuck_worker_loses_its_requests_when_another_can_take_them() -> None:
    flow = flow_of(*ALL)
    first = begin(flow)
    flow.handle(2, token(first, 0, P0))
    told, dispatch = moved(ticks(flow, 0, 3 * S, P0, P1, D1))
    assert told == [P0, D0], "the stuck one finds the cancel when it wakes"
    assert (dispatch.to, dispatch.request.handoff_to) == (P0, D1)
    assert flow.moves == {"continued/worker_silent": 1}
    (other,) = flow.handle(3 * S, Submit("door", make_request("s", PROMPT), None))
    assert isinstance(other, Dispatch)
    assert other.request.handoff_to == D1, "nobody is placed on a stuck worker while there is another"


def test_a_stuck_worker_without_a_substitute_keeps_its_requests() -> None:
    flow = flow_of(P0, D0)
    begin(flow)
    assert ticks(flow, 0, 4 * S, P0) == []


def test_a_front_door_that_slept_takes_nobody_for_stuck() -> None:
    flow = flow_of(*ALL)
    begin(flow)
    assert flow.handle(4 * S, Tick("door")) == []
    assert ticks(flow, 4 * S, 5 * S, *ALL) == []


def test_attempts_are_numbered_over_all_requests() -> None:
    flow = flow_of(*ALL)
    first = begin(flow)
    flow.handle(2, token(first, 0, P0, FinishReason.STOP))
    assert begin(flow).attempt == first.attempt + 1, "an id that is used again is another request"
