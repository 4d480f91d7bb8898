"""What the HTTP target makes of answers that other servers give, from their bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from loadgen.reading import Ask, Ending, Reading
from loadgen.targets import HttpTarget, TargetSpec
from services.core.clock import VirtualClock
from services.core.slo import Outcome


def event(text: str, finish: str | None = None, **fields: Any) -> bytes:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **fields}).encode() + b"\n\n"


async def read(*chunks: bytes) -> tuple[Ending, Reading]:
    clock = VirtualClock()

    async def iter_any() -> AsyncIterator[bytes]:
        for chunk in chunks:
            clock.advance_to(clock.now_ns() + 1_000_000)
            yield chunk

    reading = Reading(clock)
    response: Any = SimpleNamespace(content=SimpleNamespace(iter_any=iter_any), close=lambda: None)
    target = HttpTarget(TargetSpec("http://127.0.0.1:9"), clock)
    return await target._read(response, Ask("r", (1,), 2), reading), reading


USAGE = {"usage": {"completion_tokens": 2, "prompt_tokens": 1}}


@pytest.mark.parametrize(
    ("chunks", "tokens", "first_ms", "gaps"),
    [
        ((event("a"), event("b", "length", **USAGE), b"data: [DONE]\n\n"), 2, 1, 1),
        ((event("a"), event("b"), event("", "length")), 2, 1, 1),  # neither usage nor [DONE]
        ((event(""), event("", "length", **USAGE)), 2, 2, 0),  # tokens without text
        ((event("", "stop", usage=None),), 0, None, 0),
    ],
    ids=["plain", "no usage", "no text", "no tokens"],
)
async def test_answers_that_differ_in_form(
    chunks: tuple[bytes, ...], tokens: int, first_ms: int | None, gaps: int
) -> None:
    ending, reading = await read(*chunks)
    assert ending.outcome is Outcome.OK
    assert (reading.tokens, len(reading.gaps_us)) == (tokens, gaps)
    assert reading.first_ns == (None if first_ms is None else first_ms * 1_000_000)


async def test_half_a_stream_is_no_success() -> None:
    ending, reading = await read(event("a"), event("b"))
    assert (ending.outcome, ending.reason, reading.tokens) == (Outcome.TRUNCATED, "NO_FINISH", 2)
