"""The request flow's host: actions become calls and streams, what they cause comes back as events."""

import asyncio
from dataclasses import replace

import pytest

from services.core.actions import Cancel, Dispatch, Outputs, RequestOutput, StreamGap, Tick, WorkerLost
from services.core.clock import NS_PER_MS, NS_PER_S, VirtualClock
from services.core.errors import (
    CancelledError,
    DeadlineError,
    DuplicateRequestError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    PromptTooLongError,
    TriptychError,
    UnavailableError,
)
from services.core.request import FinishReason, Request, SamplingParams
from services.core.timeline import MarkKind
from services.frontdoor.client_stream import RETRY, ClientStream, output_error
from services.frontdoor.performer import DEADLINE_GRACE_NS, Performer
from tests.unit.frontdoor.fakes import BOTH, DECODE, PREFILL, FakeFlow, FakeWorkers

START_NS = 100 * NS_PER_S


class Bench:
    """A performer between a fake flow and fake workers, on a clock that stands still."""

    def __init__(self, max_running: int = 4) -> None:
        self.clock = VirtualClock(START_NS)
        self.flow = FakeFlow()
        self.calls = FakeWorkers()
        self.records: list[tuple[int, object, list[object]]] = []
        self.performer = Performer(self.flow, self.calls, self.clock, "frontdoor-1", max_running, log=self)
        self.calls.performer = self.performer

    def record(self, now: int, event: object, actions: list[object]) -> None:
        self.records.append((now, event, actions))

    def submit(self, name: str, length: int = 4, budget_s: float = 60.0) -> ClientStream:
        unix_ms = self.clock.unix_ms() + int(budget_s * 1000)
        request = Request(
            name, 1, tuple(range(10, 10 + length)), (), SamplingParams(8), "frontdoor-1", unix_ms, handoff_to=DECODE
        )
        now = self.clock.now_ns()
        return self.performer.submit(request, now, now + int(budget_s * NS_PER_S))


async def read(stream: ClientStream) -> list[int]:
    """All tokens up to a good end."""
    await stream.dispatched()
    ids: list[int] = []
    while True:
        chunk = await stream.next()
        assert chunk.index == len(ids)
        ids += chunk.token_ids
        if chunk.finish is not None:
            return ids


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_tokens_of_two_workers_come_in_order() -> None:
    bench = Bench()
    stream = bench.submit("echo.1")
    assert await read(stream) == [10, 11, 12, 13]
    assert stream.tokens.cached_tokens == 16
    assert bench.performer.num_running == 0
    stream.close()
    await settle()
    assert not bench.flow.of(Cancel)
    assert bench.calls.cancelled == []


async def test_a_dispatch_carries_its_number_and_what_is_left_of_the_deadline() -> None:
    bench = Bench()
    for name in ("echo.1", "echo.2"):
        await read(bench.submit(name, budget_s=2.5))
    assert [(to, number, budget) for to, number, _, budget in bench.calls.submitted] == [
        (PREFILL, 1, 2500),
        (PREFILL, 2, 2500),
    ]
    assert (bench.performer.dispatches(PREFILL), bench.performer.dispatches(DECODE)) == (2, 0)


async def test_the_timeline_has_workers_marks_on_our_clock() -> None:
    bench = Bench()
    bench.calls.age_ns = 2 * NS_PER_MS
    stream = bench.submit("echo.1")
    bench.clock.advance_to(START_NS + 5 * NS_PER_MS)
    await read(stream)
    entries = [(entry.kind, entry.at_ns - START_NS, entry.where) for entry in stream.timeline.entries]
    assert entries == [
        (MarkKind.RECEIVED, 0, "frontdoor-1"),
        (MarkKind.DISPATCHED, 0, "frontdoor-1"),
        (MarkKind.FIRST_TOKEN, 3 * NS_PER_MS, "prefill-0"),
        (MarkKind.FINISHED, 5 * NS_PER_MS, "frontdoor-1"),
    ]
    assert stream.timeline.entries[2].pid == PREFILL.incarnation
    assert stream.timeline.ttft_ns == 5 * NS_PER_MS


@pytest.mark.parametrize(
    ("name", "error", "reason", "metadata"),
    [
        ("reject.OverloadedError", OverloadedError, "SOME_REASON", {"retry_after_ms": "1500"}),
        ("reject.InvalidRequestError", InvalidRequestError, "SOME_REASON", {"field": "messages"}),
        ("reject.DeadlineError", DeadlineError, "SOME_REASON", {"retry_after_ms": "1500"}),
        ("reject.NoSuchError", InternalError, "INTERNAL", {}),
        ("reject.ConfigError", InternalError, "INTERNAL", {}),
        ("bug.1", InternalError, "INTERNAL", {}),
        ("gone.1", UnavailableError, "WORKER_LOST", {"retry_after_ms": "500"}),
        ("refuse.1", UnavailableError, "SUBMIT_FAILED", RETRY),
        ("error.1", UnavailableError, "HANDOFF_FAILED", RETRY),
        ("late.1", DeadlineError, "DEADLINE", {}),
        ("flood.1", OverloadedError, "SLOW_CLIENT", {}),
    ],
)
async def test_each_failure_is_an_error_of_the_tree(
    name: str, error: type[TriptychError], reason: str, metadata: dict[str, str]
) -> None:
    bench = Bench()
    stream = bench.submit(name)
    await settle()
    with pytest.raises(error) as caught:
        await read(stream)
    assert (caught.value.reason, caught.value.metadata) == (reason, metadata)
    assert bench.performer.num_running == 0


@pytest.mark.parametrize(
    ("finish", "reason", "error"),
    [
        (FinishReason.ERROR, "CONTEXT_LENGTH_EXCEEDED", PromptTooLongError),
        (FinishReason.ERROR, "DUPLICATE_REQUEST", DuplicateRequestError),
        (FinishReason.ERROR, "OVERLOADED", OverloadedError),
        (FinishReason.ERROR, "STEP_FAILED", InternalError),
        (FinishReason.ERROR, "KV_TRANSFER_FAILED", UnavailableError),
        (FinishReason.DEADLINE, "DEADLINE", DeadlineError),
        (FinishReason.CANCELLED, "FRONT_DOOR_LOST", CancelledError),
    ],
)
def test_a_workers_bad_end_has_its_class(finish: FinishReason, reason: str, error: type[TriptychError]) -> None:
    found = output_error(RequestOutput("r1", 1, 0, (), finish, reason, "inside story"))
    assert type(found) is error
    if error is InternalError:
        assert "inside story" not in found.message
    else:
        assert found.reason == reason


async def test_tokens_before_an_error_are_given_first() -> None:
    stream = Bench().submit("error.1")
    await settle()
    assert (await stream.next()).token_ids == (10,)
    with pytest.raises(UnavailableError, match="the link broke"):
        await stream.next()


async def test_failed_calls_come_back_as_events() -> None:
    bench = Bench()
    bench.submit("gone.1")
    bench.submit("refuse.1")
    await settle()
    assert bench.flow.of(WorkerLost) == [WorkerLost("frontdoor-1", PREFILL, "prefill-0 died")]
    (failed,) = bench.flow.of(Outputs)
    assert isinstance(failed, Outputs)
    assert failed.outputs[0].finish is FinishReason.ERROR


async def test_a_client_that_goes_away_cancels_its_request() -> None:
    bench = Bench()
    stream = bench.submit("hang.1")
    await stream.next()
    stream.close()
    stream.close()
    await settle()
    assert bench.flow.of(Cancel) == [Cancel("frontdoor-1", "hang.1", FinishReason.CANCELLED, "CLIENT_GONE")]
    assert bench.calls.cancelled == [(PREFILL, "hang.1", FinishReason.CANCELLED, "CLIENT_GONE")]
    bench.calls.say(DECODE, RequestOutput("hang.1", 1, 1, (5,)))  # what was under way is dropped
    assert bench.performer.num_running == 0


async def test_a_client_that_goes_at_its_deadline_is_a_deadline() -> None:
    bench = Bench()
    stream = bench.submit("hang.1", budget_s=1.0)
    bench.clock.advance_to(START_NS + NS_PER_S)
    stream.close()
    assert bench.flow.of(Cancel) == [Cancel("frontdoor-1", "hang.1", FinishReason.DEADLINE, "DEADLINE")]


async def test_a_stream_ends_itself_when_its_deadline_is_long_over() -> None:
    bench = Bench()
    stream = bench.submit("hang.1", budget_s=-DEADLINE_GRACE_NS / NS_PER_S)
    with pytest.raises(DeadlineError, match="after dispatched") as caught:
        await read(stream)
    assert caught.value.metadata == {"stage": "dispatched"}
    assert [event.finish for event in bench.flow.of(Cancel)] == [FinishReason.DEADLINE]


async def test_cancel_by_id_ends_the_stream_once() -> None:
    bench = Bench()
    stream = bench.submit("hang.1")
    assert bench.performer.cancel("hang.1")
    assert not bench.performer.cancel("hang.1")
    with pytest.raises(CancelledError):
        await read(stream)
    assert len(bench.flow.of(Cancel)) == 1


async def test_limits_are_kept_at_the_door() -> None:
    bench = Bench(max_running=2)
    bench.submit("hang.1")
    with pytest.raises(DuplicateRequestError):
        bench.submit("hang.1")
    bench.submit("queue.1")
    with pytest.raises(OverloadedError) as caught:
        bench.submit("hang.2")
    assert caught.value.metadata == {"retry_after_ms": "1000"}
    bench.performer.draining = True
    with pytest.raises(UnavailableError, match="stopping"):
        bench.submit("hang.3")
    assert bench.performer.num_running == 2


async def test_an_id_can_be_used_again_and_the_old_stream_cannot_harm_it() -> None:
    bench = Bench()
    first = bench.submit("hang.1")
    bench.performer.cancel("hang.1")
    bench.submit("hang.1")
    first.close()
    assert bench.performer.num_running == 1


async def test_lost_items_and_workers_are_told_to_the_flow() -> None:
    bench = Bench()
    bench.performer.items_lost(DECODE)
    bench.performer.worker_lost(PREFILL, "killed")
    assert bench.flow.events == [StreamGap("frontdoor-1", DECODE), WorkerLost("frontdoor-1", PREFILL, "killed")]


async def test_another_dispatch_is_a_retry_or_a_continuation_in_the_timeline() -> None:
    bench = Bench()
    stream = bench.submit("queue.1")
    for attempt, resume in ((1, ()), (2, ()), (3, (7,))):
        bench.flow.scripted = [Dispatch(PREFILL, replace(stream.request, attempt=attempt, resume=resume))]
        bench.performer.items_lost(DECODE)
    kinds = [entry.kind for entry in stream.timeline.entries]
    assert kinds == [MarkKind.RECEIVED, MarkKind.DISPATCHED, MarkKind.RETRIED, MarkKind.CONTINUED]


async def test_the_flow_gets_its_tick_and_every_decision_is_recorded() -> None:
    bench = Bench()
    bench.flow.wake = START_NS
    bench.calls.report(*BOTH)
    while not bench.flow.of(Tick):
        await asyncio.sleep(0)
    assert [event for _, event, _ in bench.records] == bench.flow.events
    assert bench.flow.wake is None


async def test_closing_ends_what_runs() -> None:
    bench = Bench()
    stream = bench.submit("hang.1")
    await bench.performer.close()
    with pytest.raises(UnavailableError) as caught:
        while True:
            await stream.next()
    assert caught.value.reason == "DRAINING"
    assert bench.calls.cancelled
