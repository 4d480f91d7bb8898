"""Counts of threads and sockets follow what the process holds."""

from __future__ import annotations

import socket

from services.core.clock import NS_PER_S, VirtualClock
from services.worker.usage import Usage


def test_sockets_are_counted_once_a_second() -> None:
    clock = VirtualClock(NS_PER_S)
    usage = Usage(clock)
    before = usage.counts()
    assert before.threads >= 1
    left, right = socket.socketpair()
    assert usage.counts() == before
    clock.advance_to(2 * NS_PER_S)
    assert usage.counts().sockets == before.sockets + 2
    left.close()
    right.close()
    clock.advance_to(3 * NS_PER_S)
    assert usage.counts().sockets == before.sockets
