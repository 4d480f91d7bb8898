"""What one front door sends is told to the others soon, and to each the news of the prefix cache that it lacks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.core.actions import WorkerReport
from services.core.block_news import BlockNews
from services.core.clock import WallClock
from services.core.door import Call, Dispatched, StreamItem, Subscribe
from services.core.frames import LENGTH, unpack_frame
from services.core.request import WorkerRef
from services.worker import subscriptions
from services.worker.config import WorkerConfig
from services.worker.subscriptions import Subscriptions
from tests.factories import make_request

ME = WorkerRef("prefill-0", 7)


class Door:
    """The worker's end of one connection, and what was written on it."""

    def __init__(self) -> None:
        self.items: list[StreamItem] = []

    def write(self, frame: bytes) -> None:
        message = unpack_frame(frame[LENGTH.size :])
        if isinstance(message, StreamItem):
            self.items.append(message)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        pass

    abort = close


async def test_a_dispatch_is_told_to_the_other_front_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "OTHERS_TOLD_S", 0.0)
    queued, blocks = [0], {-1: BlockNews(0, 4, b"a" * 16, b"", snapshot=True), 3: BlockNews(3, 4, b"b" * 16, b"")}

    def report(dispatches: int) -> WorkerReport:
        base = (ME, 1, "prefill", ("prefill",), False, 1, 100, 0, 0, queued[0], 0, 0, dispatches, "h:1", 0, 0, 0)
        return WorkerReport(*base)

    def feed(_event: Any) -> None:
        queued[0] += 50

    config = WorkerConfig(report_every_s=3600.0)
    owner = Subscriptions(ME, config, WallClock(), report, feed, blocks.get)
    doors = {name: Door() for name in ("a", "b", "c")}
    lines = {name: owner.open(Subscribe(ME, name, 1, 1), door) for name, door in doors.items()}  # type: ignore[arg-type]
    assert [len(door.items) for door in doors.values()] == [1, 1, 1]
    for number in (1, 2, 3):
        lines["a"].take(Call(number, Dispatched(number, make_request(f"r{number}"), None)))
    for _ in range(5):
        await asyncio.sleep(0)
    for name in ("b", "c"):
        assert len(doors[name].items) == 2, "three dispatches, one report"
        last = doors[name].items[-1].report
        assert last is not None and (last.queued_prefill_tokens, last.dispatch_sequence) == (150, 0)
    assert len(doors["a"].items) == 1
    first, second = (item.report.blocks for item in doors["b"].items if item.report is not None)
    assert first is not None and first.snapshot
    assert second is None, "it knows everything up to event 4"
    owner.close()
