"""Where a request is checked and tokenized: a short one on the event loop, one that may take long beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from services.pb import inference_pb2 as pb

T = TypeVar("T")
SHORT_BYTES = 1024
"""Of a request that is tokenized in about the time that waking a thread takes, a quarter of a millisecond."""


async def beside(messages: Iterable[pb.GenerateRequest], work: Callable[[], T]) -> T:
    """The result of work on these requests; that on long ones, or on grammars, delays nobody else's tokens."""
    messages = list(messages)
    if sum(each.ByteSize() for each in messages) <= SHORT_BYTES and not any(map(is_structured, messages)):
        return work()
    return await asyncio.to_thread(work)


def is_structured(message: pb.GenerateRequest) -> bool:
    """Whether its output must be of some form, which has to be compiled."""
    return message.sampling.HasField("structured")
