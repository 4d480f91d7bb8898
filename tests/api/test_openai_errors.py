"""What HTTP clients see of failures: the error map, every wrong field by its name, limits, and keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from services.frontdoor.convert import Converter
from tests.api.error_map import ROWS, Row
from tests.api.harness import Served, client_of, serving
from tests.api.test_openai import CHAT
from tests.api.test_secure_door import ALICE, BOB, write_keys

CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RIGHT = {"model": "tiny", "messages": CHAT}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, http={"max_body_bytes": 4096, "max_header_bytes": 2048}) as found:
        yield found


@pytest.fixture
async def http(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.servers.http_port}") as found:
        yield found


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, whose form is checked."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}, body
    return body["error"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("stream", [False, True])
async def test_every_error_has_its_status_and_body(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    failing: list[Row] = []

    def fail(self: Converter, *arguments: object) -> None:
        raise failing[0].error

    monkeypatch.setattr(Converter, "request", fail)
    for row in ROWS:
        failing[:] = [row]
        answer = await http.post(CHATS, json={**RIGHT, "stream": stream}, headers={"x-request-id": "r.1"})
        error = error_of(answer)
        assert (answer.status_code, error["type"], error["code"]) == (row.http, row.type, row.code), row
        assert (error["message"], error["param"]) == (row.error.message, row.error.param), row
        assert answer.headers["x-request-id"] == "r.1"
        waits = "RetryInfo" in row.details
        assert answer.headers.get("retry-after") == ("2" if waits else None)
        assert answer.headers.get("retry-after-ms") == ("1500" if waits else None)


async def test_rejections_and_failures_before_a_token_keep_their_status(http: httpx.AsyncClient) -> None:
    for name, status, code in (
        ("reject.OverloadedError", 429, "some_reason"),
        ("reject.DeadlineError", 504, "some_reason"),
        ("bug.1", 500, "internal"),
        ("gone.1", 503, "worker_lost"),
        ("late.1", 504, "deadline"),
    ):
        for stream in (False, True):
            answer = await http.post(CHATS, json={**RIGHT, "stream": stream}, headers={"x-request-id": name})
            assert (answer.status_code, error_of(answer)["code"]) == (status, code), name


async def test_an_error_after_tokens_is_the_streams_last_event(served: Served, http: httpx.AsyncClient) -> None:
    answer = await http.post(CHATS, json={**RIGHT, "stream": True}, headers={"x-request-id": "error.1"})
    events = answer.text.strip().split("\n\n")
    assert answer.status_code == 200
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "handoff_failed"
    assert "[DONE]" not in answer.text
    async with client_of(served) as client:
        with pytest.raises(openai.APIError, match="link broke"):
            async for _ in await client.chat.completions.create(
                **RIGHT, stream=True, extra_headers={"x-request-id": "error.2"}
            ):
                pass


WRONG_CHATS: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 3}, "temperature", "invalid_argument"),
    ({"temperature": "warm"}, "temperature", "invalid_argument"),
    ({"top_p": 0}, "top_p", "invalid_argument"),
    ({"n": 0}, "n", "invalid_argument"),
    ({"n": 2, "temperature": 0}, "n", "invalid_argument"),
    ({"n": True}, "n", "invalid_argument"),
    ({"seed": -1}, "seed", "invalid_argument"),
    ({"max_tokens": 0}, "max_tokens", "invalid_argument"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_argument"),
    ({"max_completion_tokens": -5}, "max_completion_tokens", "invalid_argument"),
    ({"max_tokens": 120}, "max_tokens", "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": "x" * 300}]}, "messages", "context_length_exceeded"),
    ({"messages": []}, "messages", "invalid_argument"),
    ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role", "invalid_argument"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_argument"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_argument"),
    ({"messages": [{"content": "a"}]}, "messages[0].role", "invalid_argument"),
    ({"stop": ""}, "stop[0]", "invalid_argument"),
    ({"stop": ["a"] * 17}, "stop", "invalid_argument"),
    ({"stop": [1]}, "stop[0]", "invalid_argument"),
    ({"logit_bias": {"a": 1}}, "logit_bias['a']", "invalid_argument"),
    ({"logit_bias": {"9999": 1}}, "logit_bias[9999]", "invalid_argument"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_argument"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_argument"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_argument"),
    ({"model": "gpt"}, "model", "model_not_found"),
    ({"model": None}, "model", "invalid_argument"),
    ({"priority": 101}, "priority", "invalid_argument"),
    ({"priority": 2**40}, "priority", "invalid_argument"),
    ({"tools": [{"type": "function"}]}, "tools", "unsupported"),
    ({"tool_choice": "required"}, "tool_choice", "unsupported"),
    ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_argument"),
    ({"response_format": "json"}, "response_format", "invalid_argument"),
    ({"audio": {"voice": "a"}}, "audio", "unsupported"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported"),
    ({"messages": [{"role": "tool", "content": "1"}]}, "messages[0].role", "unsupported"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a"}}]}]},
        *("messages[0].content[0]", "unsupported"),
    ),
]
WRONG_COMPLETIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ""}, "prompt", "invalid_argument"),
    ({"prompt": []}, "prompt", "invalid_argument"),
    ({"prompt": [[1], []]}, "prompt[1]", "invalid_argument"),
    ({"prompt": [[1], [2, 9999]]}, "prompt[1][1]", "invalid_argument"),
    ({"prompt": [-1]}, "prompt", "invalid_argument"),
    ({"prompt": ["a"] * 65}, "prompt", "invalid_argument"),
    ({"prompt": "x" * 300}, "prompt", "context_length_exceeded"),
    ({"prompt": {"a": 1}}, "prompt", "invalid_argument"),
    ({"suffix": "end"}, "suffix", "unsupported"),
    ({"best_of": 3}, "best_of", "unsupported"),
    ({"logprobs": True}, "logprobs", "invalid_argument"),
]


async def test_a_wrong_field_is_named(http: httpx.AsyncClient) -> None:
    for path, right, rows in (
        (CHATS, RIGHT, WRONG_CHATS),
        (COMPLETIONS, {"model": "tiny", "prompt": "a", "max_tokens": 2}, WRONG_COMPLETIONS),
    ):
        for fields, param, code in rows:
            answer = await http.post(path, json={**right, **fields})
            error = error_of(answer)
            assert (error["param"], error["code"]) == (param, code), (fields, error)
            assert answer.status_code == (404 if code == "model_not_found" else 400)
            assert error["message"].startswith(param) or code == "model_not_found"


async def test_bodies_that_are_no_json(http: httpx.AsyncClient) -> None:
    json_type = {"content-type": "application/json"}
    for body, headers, status, code in (
        (b"{", json_type, 400, "invalid_json"),
        (b"", json_type, 400, "invalid_argument"),
        (b'"text"', json_type, 400, "invalid_argument"),
        (b'{"a": "\xff"}', json_type, 400, "invalid_json"),
        (b"[" * 3000, json_type, 400, "invalid_json"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {}, 415, "unsupported_media_type"),
        (b" " * 5000, json_type, 413, "too_large"),
    ):
        answer = await http.post(CHATS, content=body, headers=headers)
        assert (answer.status_code, error_of(answer)["code"]) == (status, code), body[:20]
    half = b'{"model": "tiny", "messages": [{"role": "user", "content": "a\\ud800"}]}'
    answer = await http.post(CHATS, content=half, headers=json_type)
    assert (answer.status_code, error_of(answer)["param"]) == (400, "messages[0].content")
    for number in (b"NaN", b"Infinity", b"1e999", b"-1e-999", b"1" * 400):
        body = b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "top_p": ' + number + b"}"
        answer = await http.post(CHATS, content=body, headers=json_type)
        assert (answer.status_code, error_of(answer)["param"]) == (400, "top_p"), number


async def test_a_body_without_a_length_is_bounded(http: httpx.AsyncClient) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    answer = await http.post(CHATS, content=parts(), headers={"content-type": "application/json"})
    assert (answer.status_code, error_of(answer)["code"]) == (413, "too_large")
    assert (await http.get("/livez")).status_code == 200


async def test_headers(served: Served, http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/models", headers={"x-big": "y" * 3000})
    assert (answer.status_code, error_of(answer)["code"]) == (431, "headers_too_large")
    for name, value in (("x-request-timeout-ms", "soon"), ("x-slo-ttft-ms", "soon"), ("x-priority", "101")):
        answer = await http.post(CHATS, json=RIGHT, headers={name: value})
        assert answer.status_code == 400 and name in error_of(answer)["message"]
    good = {"x-sgl-tps-slo": "50", "x-llm-d-slo-ttft-ms": "300", "x-priority": "7", "x-request-id": "not an id"}
    answer = await http.post(CHATS, json=RIGHT, headers=good)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"].startswith("req-")
    assert served.workers.submitted[-1][2].priority == 7


async def test_overload_is_told_with_a_time_to_wait(tmp_path: Path) -> None:
    async with serving(tmp_path, max_running_requests=1) as served, client_of(served) as client:
        held = asyncio.create_task(client.chat.completions.create(**RIGHT, extra_headers={"x-request-id": "hang.1"}))
        while not served.performer.num_running:
            await asyncio.sleep(0.01)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(**RIGHT)
        assert refused.value.response.headers["retry-after"] == "1"
        assert refused.value.type == "overloaded_error"
        held.cancel()
        served.performer.draining = True
        with pytest.raises(openai.InternalServerError) as draining:
            await client.chat.completions.create(**RIGHT)
        assert (draining.value.status_code, draining.value.code) == (503, "draining")


async def test_keys_and_limits_of_tenants(tmp_path: Path) -> None:
    auth = write_keys(tmp_path, ALICE, BOB, alice={"requests_per_s": 0.001, "burst_requests": 1})
    async with serving(tmp_path, auth=auth) as served:
        for key in ("none", "Basic x"):
            async with client_of(served, api_key=key) as client:
                with pytest.raises(openai.AuthenticationError) as refused:
                    await client.models.list()
                assert refused.value.code == "invalid_api_key"
                assert refused.value.response.headers["www-authenticate"] == "Bearer"
        async with client_of(served, api_key="alice-key") as client:
            await client.models.list()
            await client.chat.completions.create(**RIGHT)
            with pytest.raises(openai.RateLimitError) as limited:
                await client.chat.completions.create(**RIGHT)
            assert limited.value.type == "rate_limit_error"
            assert int(limited.value.response.headers["retry-after"]) > 900
        async with client_of(served, api_key="bob-key") as client:
            await client.chat.completions.create(**RIGHT)
        requests = [request for _, _, request, _ in served.workers.submitted]
        assert [request.tenant for request in requests] == ["alice", "bob"]
        assert requests[0].block_hashes[0] != requests[1].block_hashes[0]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.servers.http_port}") as http:
            for path in ("/livez", "/readyz", "/version", "/openapi.json", "/metrics"):
                assert (await http.get(path)).status_code == 200
            assert (await http.get("/nothing")).status_code == 401
            text = (await http.get("/metrics")).text
            assert 'door="http"' in text and "/nothing" not in text
