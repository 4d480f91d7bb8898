"""Where a request is checked and tokenized: a short one on the event loop, a long one beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from services.pb import inference_pb2 as pb

T = TypeVar("T")
SHORT_BYTES = 1024
"""Of a request that is tokenized in about the time that waking a thread takes, a quarter of a millisecond."""


async def beside(messages: Iterable[pb.GenerateRequest], work: Callable[[], T]) -> T:
    """The result of work on these requests; that on long ones delays nobody else's tokens."""
    if sum(each.ByteSize() for each in messages) <= SHORT_BYTES:
        return work()
    return await asyncio.to_thread(work)
