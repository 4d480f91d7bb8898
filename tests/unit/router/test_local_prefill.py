"""When a decode worker computes a prompt itself, and that the reason is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.core.actions import Dispatch, Reject, Submit, WorkerReport
from services.core.config import CostConfig
from services.core.errors import ConfigError
from services.core.request import WorkerRef
from services.router.config import RouterConfig
from services.router.flow import RequestFlow
from tests.factories import make_request

P0, D0 = WorkerRef("prefill-0", 1), WorkerRef("decode-0", 1)
COST = CostConfig(prefill_ms=0, prefill_token_ms=1, prefill_pair_ms=0, transfer_ms=20, transfer_token_ms=0)


def report(worker: WorkerRef, roles: tuple[str, ...], stages: tuple[str, ...], **fields: object) -> WorkerReport:
    base = WorkerReport(worker, 1, roles[0], roles, False, 1, 100, 0, 0, 0, 0, 0, 0, "h:1", 0, 0, 0, stages)
    return replace(base, **fields)  # type: ignore[arg-type]


PREFILL = report(P0, ("prefill",), ("prefill",))
DECODE = report(D0, ("decode",), ("prefill", "decode"))


def place(policy: str, tokens: int, *reports: WorkerReport) -> Dispatch | Reject:
    config = RouterConfig(local_prefill=policy, local_prefill_max_tokens=64, cost=COST)
    flow = RequestFlow("door", config, 4)
    for each in reports:
        flow.handle(0, each)
    (action,) = flow.handle(1, Submit("door", make_request("r", tuple(range(tokens)))))
    flow.check()
    if isinstance(action, Dispatch):
        assert flow.placements == {action.placement: 1}
    assert isinstance(action, Dispatch | Reject)
    return action


def local(action: Dispatch | Reject) -> str:
    """The reason for which the decode worker computes the prompt, "" when it does not."""
    assert isinstance(action, Dispatch)
    is_local = action.to == D0
    assert (action.request.handoff_to is None) == is_local
    assert action.placement.startswith("local_prefill/") == is_local
    return action.placement.removeprefix("local_prefill/") if is_local else ""


def test_a_decode_worker_that_could_is_no_prefill_worker_by_default() -> None:
    assert local(place("never", 1, PREFILL, DECODE)) == ""
    assert isinstance(place("never", 1, DECODE), Reject)


def test_without_a_prefill_worker_a_decode_worker_steps_in() -> None:
    for policy in ("fallback", "cheaper"):
        assert local(place(policy, 500, DECODE)) == "no_prefill_worker"
        assert local(place(policy, 500, PREFILL, DECODE)) == ""
    cannot = replace(DECODE, stages=("decode",))
    assert isinstance(place("fallback", 1, cannot), Reject)


def test_cheaper_weighs_the_handoff_against_the_decodes_that_wait() -> None:
    assert local(place("cheaper", 10, PREFILL, DECODE)) == "cheaper", "nobody decodes: 0 ms against 20"
    assert local(place("cheaper", 10, PREFILL, replace(DECODE, running_decodes=1))) == "cheaper", "10 ms against 20"
    assert local(place("cheaper", 10, PREFILL, replace(DECODE, running_decodes=2))) == "", "20 ms against 20"
    busy = replace(PREFILL, queued_prefill_tokens=100)
    assert local(place("cheaper", 10, busy, replace(DECODE, running_decodes=2))) == "cheaper", "20 ms against 120"
    queue = replace(DECODE, queued_prefill_tokens=25)
    assert local(place("cheaper", 10, PREFILL, queue)) == "", "25 ms against 20"
    assert local(place("cheaper", 65, busy, DECODE)) == "", "too long to stand before decodes"


def test_an_unknown_policy_is_a_bad_configuration() -> None:
    with pytest.raises(ConfigError, match=r"never, fallback, cheaper"):
        RequestFlow("door", RouterConfig(local_prefill="always"), 4)
