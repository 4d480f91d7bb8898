"""Both ends of the connection between front door and worker: leases, order, bounds, and calls said twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from services.core.actions import Cancel, FrontDoorLost, Submit, WorkerReport
from services.core.clock import WallClock
from services.core.door import Acknowledge, Answer, Call, Dispatched, StreamItem, Subscribe
from services.core.frames import LENGTH, MAX_FRAME_BYTES, frame_length, pack_frame, unpack_frame
from services.core.output import RequestOutput, StepTokens
from services.core.request import FinishReason, Request, SamplingParams, WorkerRef
from services.core.wire import PeerAddress
from services.frontdoor.worker_channel import WorkerChannel
from services.worker import subscriptions
from services.worker.config import WorkerConfig
from services.worker.peer_server import PeerServer
from services.worker.subscriptions import Subscriptions
from tests.unit.frontdoor.reports import report_of

ME = WorkerRef("prefill-0", 1 << 62)
DOOR = "frontdoor-1"
CANCEL = Cancel(DOOR, "r1", FinishReason.CANCELLED, "CLIENT_GONE", 1)


def dispatched(name: str, sequence: int) -> Dispatched:
    request = Request(name, sequence, tuple(range(40)), (b"h" * 16, b"i" * 16), SamplingParams(4), DOOR, 1 << 41)
    return Dispatched(sequence, request, 250)


EXPIRY_S = 1.0
"""Longer than a busy machine stands still."""


class Worker:
    """A worker's sockets and subscriptions, with this object in place of its core."""

    def __init__(self, **settings: Any) -> None:
        self.fed: list[Submit | Cancel | FrontDoorLost] = []
        self.reports = 0
        config = WorkerConfig(**{"report_every_s": 0.05, **settings})
        self.subscriptions = Subscriptions(ME, config, WallClock(), self.report, self.feed)
        self.server = PeerServer(ME, lambda message: None, self.subscriptions)
        self.channels: list[WorkerChannel] = []
        self.failing = ""

    def report(self, dispatches: int) -> WorkerReport:
        self.reports += 1
        return report_of(ME, self.reports)

    def feed(self, event: Submit | Cancel | FrontDoorLost) -> None:
        if isinstance(event, Submit) and event.request.request_id == self.failing:
            raise RuntimeError("a bug")
        self.fed.append(event)

    async def connect(self, from_sequence: int = 1, incarnation: int = 7, to: WorkerRef = ME) -> WorkerChannel:
        at = PeerAddress(ME, self.server.address, self.server.secret)
        channel = await WorkerChannel.connect(at, Subscribe(to, DOOR, incarnation, from_sequence))
        self.channels.append(channel)
        return channel

    def say(self, index: int) -> None:
        self.subscriptions.push(DOOR, (RequestOutput("r1", 1, index, (index,)),))


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker(subscription_expiry_s=EXPIRY_S)
    await made.server.start("127.0.0.1", (0, 0))
    yield made
    for channel in made.channels:
        channel.close()
    made.subscriptions.close()
    made.server.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def indices(channel: WorkerChannel, count: int) -> tuple[list[int], int]:
    """Output indices of the next items until there are so many, and the last item's sequence."""
    found: list[int] = []
    sequence = 0
    while len(found) < count:
        item = await channel.read()
        if isinstance(item, StreamItem):
            found += [output.index for output in item.outputs if isinstance(output, RequestOutput)]
            sequence = item.sequence
    return found, sequence


async def answer(channel: WorkerChannel) -> Answer:
    while not isinstance(message := await channel.read(), Answer):
        pass
    return message


async def test_a_step_is_one_item_and_reports_come_when_nothing_else_does(worker: Worker) -> None:
    channel = await worker.connect()
    first = await channel.read()
    assert isinstance(first, StreamItem) and first.sequence == 1 and first.report is not None and first.outputs == ()
    for index in range(3):
        worker.say(index)
    second = await channel.read()
    assert isinstance(second, StreamItem) and second.sequence == 2 and len(second.outputs) == 3
    third = await channel.read()
    assert isinstance(third, StreamItem) and (third.sequence, third.outputs) == (3, ())


async def test_a_stream_goes_on_where_a_broken_connection_left_it(worker: Worker) -> None:
    channel = await worker.connect()
    await channel.read()
    worker.say(0)
    _, sequence = await indices(channel, 1)
    channel.close()
    worker.say(1)  # on its way, or kept: the front door has not read it
    worker.say(2)
    again = await worker.connect(from_sequence=sequence + 1)
    worker.say(3)
    assert (await indices(again, 3))[0] == [1, 2, 3]
    item = await again.read()
    assert isinstance(item, StreamItem) and item.subscription == f"{DOOR}#2"
    assert worker.fed == []


async def test_a_newer_connection_ends_the_older_one(worker: Worker) -> None:
    old = await worker.connect()
    await old.read()
    new = await worker.connect(from_sequence=2)
    await new.read()
    with pytest.raises(ConnectionError):
        while True:
            old.write(pack_frame(Call(9, CANCEL)))
            await old.read()
    worker.say(0)
    assert (await indices(new, 1))[0] == [0]
    assert worker.fed == []  # what was said on the old one after the new one stood is not taken from there


async def test_a_call_that_is_said_again_is_taken_once_and_answered_again(worker: Worker) -> None:
    channel = await worker.connect()
    submit, cancel = pack_frame(Call(1, dispatched("r1", 1))), pack_frame(Call(2, CANCEL))
    channel.write(submit)
    await until(lambda: len(worker.fed) == 1)
    channel.close()  # its answer is lost
    again = await worker.connect()
    again.write(submit)
    again.write(cancel)
    assert [await answer(again), await answer(again)] == [Answer(1, ""), Answer(2, "")]
    assert worker.fed == [Submit(DOOR, dispatched("r1", 1).request), CANCEL]


async def test_what_the_worker_fails_on_is_that_calls_error_alone(worker: Worker) -> None:
    worker.failing = "bad"
    channel = await worker.connect()
    channel.write(pack_frame(Call(1, dispatched("bad", 1))))
    channel.write(pack_frame(Call(2, dispatched("good", 2))))
    assert [await answer(channel), await answer(channel)] == [Answer(1, "RuntimeError: a bug"), Answer(2, "")]
    channel.close()  # the answers are lost all the same: the failure is told again, and not tried again
    worker.failing = ""
    again = await worker.connect()
    again.write(pack_frame(Call(1, dispatched("bad", 1))))
    assert await answer(again) == Answer(1, "RuntimeError: a bug")
    assert [event.request.request_id for event in worker.fed if isinstance(event, Submit)] == ["good"]


async def test_a_lease_outlives_its_connection_and_ends_with_silence(worker: Worker) -> None:
    channel = await worker.connect()
    await channel.read()
    channel.close()
    await asyncio.sleep(0.1)
    worker.subscriptions.expire()
    assert worker.fed == [] and len(worker.subscriptions) == 1
    again = await worker.connect()
    for _ in range(24):  # heartbeats keep it, for longer than the expiry
        again.write(pack_frame(Acknowledge(0)))
        await asyncio.sleep(0.05)
        worker.subscriptions.expire()
    assert worker.fed == []
    await asyncio.sleep(EXPIRY_S + 0.05)
    worker.subscriptions.expire()
    assert worker.fed == [FrontDoorLost("prefill-0", DOOR)]
    with pytest.raises(ConnectionError):
        while True:
            await again.read()
    anew = await worker.connect(from_sequence=50)
    item = await anew.read()
    assert isinstance(item, StreamItem) and item.sequence == 1  # the front door sees the gap


async def test_a_new_process_of_a_front_door_takes_its_place(worker: Worker) -> None:
    await (await worker.connect()).read()
    await (await worker.connect(incarnation=8)).read()
    assert worker.fed == [FrontDoorLost("prefill-0", DOOR)]


async def test_a_front_door_that_does_not_acknowledge_is_lost_at_the_bound() -> None:
    worker = Worker(max_unacknowledged_items=16)
    await worker.server.start("127.0.0.1", (0, 0))
    channel = await worker.connect()
    await channel.read()
    _, sequence = await indices_of_ten(worker, channel)
    channel.write(pack_frame(Acknowledge(sequence)))
    await asyncio.sleep(0.05)
    assert (await indices_of_ten(worker, channel))[0] == list(range(10))
    for index in range(20):
        worker.say(index)
    assert worker.fed[0] == FrontDoorLost("prefill-0", DOOR)
    channel.close()
    worker.server.close()


async def indices_of_ten(worker: Worker, channel: WorkerChannel) -> tuple[list[int], int]:
    """Ten items, read at once."""
    found: list[int] = []
    sequence = 0
    for index in range(10):
        worker.say(index)
        got, sequence = await indices(channel, 1)
        found += got
    return found, sequence


async def test_a_front_door_that_does_not_read_gets_no_more_than_the_buffer_holds(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MAX_BUFFERED_BYTES", 1 << 16)
    channel = await worker.connect()
    await channel.read()
    channel._reader._transport.pause_reading()  # type: ignore[attr-defined]
    many = 20_000
    for index in range(400):
        tokens = StepTokens(("r1",) * many, (1,) * many, (index,) * many, (1,) * many)
        worker.subscriptions.push(DOOR, (tokens,))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if worker.subscriptions._subscriptions[DOOR].pending:
            break
    else:
        raise AssertionError("nothing waited")
    connection = worker.subscriptions._subscriptions[DOOR].connection
    assert connection is not None and connection.get_write_buffer_size() < 4 << 20
    channel._reader._transport.resume_reading()  # type: ignore[attr-defined]
    last = -1
    while last < index:  # nothing is missing once it reads again
        item = await channel.read()
        assert isinstance(item, StreamItem)
        for output in item.outputs:
            assert isinstance(output, StepTokens)
            assert output.indices[0] == last + 1
            last += 1
    assert worker.fed == []


@pytest.mark.parametrize("message", [StepTokens((), (), (), ()), Answer(1, ""), (ME, ME, 1, ())])
async def test_what_no_front_door_says_ends_its_connection(worker: Worker, message: object) -> None:
    channel = await worker.connect()
    channel.write(pack_frame(message))
    with pytest.raises(ConnectionError):
        while True:
            await channel.read()
    assert worker.fed == []


async def test_a_front_door_that_means_an_earlier_process_is_refused(worker: Worker) -> None:
    channel = await worker.connect(to=WorkerRef("prefill-0", 2))
    with pytest.raises(ConnectionError):
        await channel.read()
    assert len(worker.subscriptions) == 0


def test_messages_come_back_as_they_went() -> None:
    for message in (Call(3, dispatched("r1", 2)), Call(4, CANCEL), Acknowledge(7), Answer(3, "")):
        frame = pack_frame(message)
        assert frame_length(frame[: LENGTH.size]) == len(frame) - LENGTH.size
        assert unpack_frame(frame[LENGTH.size :]) == message
    with pytest.raises(ValueError, match="a frame of"):
        frame_length(LENGTH.pack(MAX_FRAME_BYTES + 1))
