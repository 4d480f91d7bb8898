"""Streams of every shape: cut anywhere, errors inside, nonsense, and phases from marks."""

import json

import pytest

from loadgen.reading import EventStream, http_ending, phases_of
from services.core.slo import Outcome


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\r\n\r\n"


STREAM = (
    event(choices=[{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    + event(choices=[{"delta": {"content": "a"}, "finish_reason": None}])
    + b": a comment\n\n"
    + event(choices=[{"delta": {"content": "bc"}, "finish_reason": "length"}])
    + event(choices=[], usage={"completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 16}})
    + b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
def test_events_are_the_same_however_the_bytes_are_cut(size: int) -> None:
    stream = EventStream()
    messages = sum(stream.feed(STREAM[place : place + size]) for place in range(0, len(STREAM), size))
    assert (messages, stream.output_tokens, stream.cached_tokens) == (2, 3, 16)
    assert stream.done and stream.finished and stream.problem is None


@pytest.mark.parametrize(
    ("line", "outcome", "reason"),
    [
        (b"data: {nonsense\n\n", Outcome.TRUNCATED, "BAD_EVENT"),
        (b"data: 7\n\n", Outcome.TRUNCATED, "BAD_EVENT"),
        (b'data: {"choices": 3}\n\n', Outcome.TRUNCATED, "BAD_EVENT"),
        (b"data: " + b"x" * (2 << 20), Outcome.TRUNCATED, "BAD_EVENT"),
        (event(error={"message": "no room", "code": "FULL"}), Outcome.ERROR, "FULL"),
    ],
)
def test_what_is_no_event_is_a_problem_and_not_an_exception(line: bytes, outcome: Outcome, reason: str) -> None:
    stream = EventStream()
    assert stream.feed(line) == 0
    assert stream.problem is not None
    assert (stream.problem.outcome, stream.problem.reason) == (outcome, reason)


def test_a_status_names_its_reason_and_says_what_the_server_said() -> None:
    body = json.dumps({"error": {"message": "come back", "code": "OVERLOADED"}})
    assert http_ending(429, body).outcome is Outcome.REJECTED
    assert http_ending(429, body).reason == "HTTP_429 OVERLOADED"
    ending = http_ending(500, "<html>oh</html>")
    assert (ending.outcome, ending.reason, ending.message) == (Outcome.ERROR, "HTTP_500", "<html>oh</html>")


def test_phases_lie_between_two_marks_and_need_both() -> None:
    marks = [
        ("received", 0),
        ("prefill_start", 2000),
        ("prefill_end", 5000),
        ("decode_start", 6000),
        ("finished", 9500),
    ]
    assert phases_of(marks) == {"queue": 2.0, "prefill": 3.0, "decode": 3.5}
    assert phases_of([("prefill_start", 1)]) == {}
