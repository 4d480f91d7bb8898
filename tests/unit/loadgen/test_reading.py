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


RECORDED = """data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],\
"created":1,"id":"chatcmpl-K0","model":"m.gguf","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}

data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Hello"}}],"created":1,"id":"chatcmpl-K0",\
"model":"m.gguf","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}

:

data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"!"}}],"created":1,"id":"chatcmpl-K0",\
"model":"m.gguf","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}

data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"created":1,"id":"chatcmpl-K0","model":"m.gguf",\
"system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}

data: {"choices":[],"created":1,"id":"chatcmpl-K0","model":"m.gguf","system_fingerprint":"b0-unknown",\
"object":"chat.completion.chunk","usage":{"completion_tokens":2,"prompt_tokens":31,"total_tokens":33,\
"prompt_tokens_details":{"cached_tokens":7}},"timings":{"cache_n":7,"prompt_n":24,"prompt_ms":4013.451,\
"prompt_per_token_ms":129.46,"prompt_per_second":7.72,"predicted_n":2,"predicted_ms":1175.809,\
"predicted_per_token_ms":391.9,"predicted_per_second":2.55}}

data: [DONE]

"""
"""Recorded of llama.cpp's server; of its `/v1/completions` usage and timings come in the last message with a choice."""
RECORDED_TEXT = """data: {"choices":[{"text":".","index":0,"logprobs":null,"finish_reason":null}],"created":1,\
"model":"m.gguf","system_fingerprint":"b0-unknown","object":"text_completion","id":"chatcmpl-lu"}

data: {"choices":[{"text":"\\n","index":0,"logprobs":null,"finish_reason":null}],"created":1,"model":"m.gguf",\
"system_fingerprint":"b0-unknown","object":"text_completion","id":"chatcmpl-lu"}

data: {"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],"created":1,"model":"m.gguf",\
"system_fingerprint":"b0-unknown","object":"text_completion","usage":{"completion_tokens":2,"prompt_tokens":31,\
"total_tokens":33,"prompt_tokens_details":{"cached_tokens":7}},"id":"chatcmpl-lu","timings":{"cache_n":7,\
"prompt_n":24,"prompt_ms":4013.451,"predicted_n":2,"predicted_ms":1175.809}}

data: [DONE]

"""


@pytest.mark.parametrize("recorded", [RECORDED, RECORDED_TEXT], ids=["chat", "completions"])
@pytest.mark.parametrize("size", [1, 13, 10_000])
def test_streams_of_llama_cpp_are_read_with_their_timings(recorded: str, size: int) -> None:
    stream, data = EventStream(), recorded.encode()
    messages = sum(stream.feed(data[place : place + size]) for place in range(0, len(data), size))
    assert (messages, stream.output_tokens, stream.cached_tokens) == (2, 2, 7)
    assert stream.done and stream.finished and stream.problem is None
    assert stream.phases_ms == {"prefill": 4013.451, "decode": 1175.809}


def test_an_error_whose_code_is_the_status_is_named_by_its_type() -> None:
    """Recorded of llama.cpp's server."""
    said = "request (9000 tokens) exceeds the available context size (2048 tokens), try increasing it"
    error = {"code": 400, "message": said, "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 2048}
    ending = http_ending(400, json.dumps({"error": error}))
    assert (ending.reason, ending.message) == ("HTTP_400 exceed_context_size_error", said)
    stream = EventStream()
    stream.feed(event(error=error))
    assert stream.problem is not None and stream.problem.reason == "exceed_context_size_error"
    assert http_ending(500, '{"error": {"code": 500, "message": "oh"}}').reason == "HTTP_500 500"


def test_phases_lie_between_two_marks_and_need_both() -> None:
    marks = [
        ("received", 0),
        ("prefill_start", 2000),
        ("prefill_end", 5000),
        ("decode_start", 6000),
        ("finished", 9500),
    ]
    lengths, starts = phases_of(marks)
    assert lengths == {"queue": 2.0, "prefill": 3.0, "decode": 3.5}
    assert starts == {"queue": 0.0, "prefill": 2.0, "decode": 6.0}
    assert phases_of([("prefill_start", 1)]) == phases_of([]) == ({}, {})
