"""Measures the way to another worker: a link of its own on the receiver's store, a few messages, and gone again."""

from __future__ import annotations

import asyncio
import statistics
import threading
from datetime import timedelta
from typing import Any

import torch

from services.core.actions import LinkRole
from services.core.clock import NS_PER_MS, NS_PER_S, WallClock
from services.core.ports import LinkError
from services.core.wire import LinkProbe
from services.engine.gloo import Deadline, gloo_errors, join_group
from services.engine.kv_link import RANK, FaultHook

PROBE_TIMEOUT_S = 6.0
ROUNDS = 20
REPEATS = 3
TAG = 1


async def probe_link(
    role: LinkRole, name: str, store_address: str, host: str, payload_bytes: int, hit: FaultHook
) -> LinkProbe:
    """Take one end of a probe; the other end does the same at the same time.

    Args:
        name: of the group, never reused.
        store_address: of the receiver's store.
        host: local address.
        hit: passes the fault point `probing`, 0 before the link is made and 1 before the large messages.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[LinkProbe] = loop.create_future()

    def done(result: LinkProbe) -> None:
        if not outcome.done():
            outcome.set_result(result)

    def run() -> None:
        try:
            result = measure(role, name, store_address, host, payload_bytes, hit)
        except LinkError as error:
            result = LinkProbe(error=str(error))
        loop.call_soon_threadsafe(done, result)

    # A thread that can be left behind: a store whose process hangs lets its clients wait without any limit.
    threading.Thread(target=run, name=f"probe {name}", daemon=True).start()
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S + 1.0):
            return await outcome
    except TimeoutError:
        return LinkProbe(error=f"no answer within {PROBE_TIMEOUT_S:.0f} s")


def measure(role: LinkRole, name: str, store_address: str, host: str, payload_bytes: int, hit: FaultHook) -> LinkProbe:
    """One end of a probe, blocking.

    Returns:
        The time to open, half the median round trip of 8 bytes, and the mean rate of `payload_bytes` three times, each
        acknowledged; the sender's numbers are those that count.

    Raises:
        LinkError: the other end did not come, or went.
    """
    clock, deadline = WallClock(), Deadline(PROBE_TIMEOUT_S)
    begun_ns = clock.now_ns()
    hit("probing", 0)
    group = join_group(store_address, name, RANK[role], 2, host, deadline.left_s())
    opened_ns = clock.now_ns()
    word, payload = torch.zeros(8, dtype=torch.uint8), torch.zeros(payload_bytes, dtype=torch.uint8)

    def move(what: str, tensor: torch.Tensor) -> None:
        with gloo_errors():
            work: Any = getattr(group, what)([tensor], 1 - RANK[role], TAG)
            work.wait(timedelta(seconds=deadline.left_s()))

    first, second = ("send", "recv") if role is LinkRole.SENDER else ("recv", "send")
    trips_ns = []
    for _ in range(ROUNDS):
        sent_ns = clock.now_ns()
        move(first, word)
        move(second, word)
        trips_ns.append(clock.now_ns() - sent_ns)
    loaded_ns = clock.now_ns()
    hit("probing", 1)
    for _ in range(REPEATS):
        move(first, payload)
        move(second, word)
    seconds = (clock.now_ns() - loaded_ns) / NS_PER_S
    return LinkProbe(
        open_ms=(opened_ns - begun_ns) / NS_PER_MS,
        latency_us=statistics.median(trips_ns) / 2 / 1000,
        bytes_per_s=REPEATS * payload_bytes / seconds,
    )
