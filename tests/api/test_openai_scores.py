"""Log-probabilities and repeated prompts, and the served OpenAPI document against real answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from services.core.actions import RequestOutput
from services.core.batch import TokenLogprob
from services.core.request import FinishReason
from tests.api.harness import Served, client_of
from tests.api.test_openai import CHAT
from tests.unit.frontdoor.fakes import DECODE, PREFILL

H, E, HE, SPACE_C3, END = 3 + ord("h"), 3 + ord("e"), 260, 259, 2
PROMPT = (TokenLogprob(E, -0.5, ((H, -0.25),)),)
FIRST = TokenLogprob(SPACE_C3, -1.0, ((E, float("-inf")), (SPACE_C3, -1.0)))
SECOND = TokenLogprob(END, -2.0, ((END, -2.0),))


async def scored(served: Served, path: str, body: dict[str, Any]) -> httpx.Response:
    """The answer to a request whose two tokens have log-probabilities."""
    name = "silent.1"
    url = f"http://127.0.0.1:{served.servers.http_port}{path}"
    async with httpx.AsyncClient() as client:
        asked = asyncio.create_task(client.post(url, json={"model": "tiny", **body}, headers={"x-request-id": name}))
        while not served.performer.num_running:
            await asyncio.sleep(0.002)
        wants_prompt = bool(body.get("echo"))
        ids = (SPACE_C3,)
        said = RequestOutput(name, 1, 0, ids, logprobs=(FIRST,), prompt_logprobs=PROMPT if wants_prompt else ())
        served.workers.say(PREFILL, said)
        served.workers.say(DECODE, RequestOutput(name, 1, 1, (END,), FinishReason.STOP, logprobs=(SECOND,)))
        return await asked


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in answer.text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


CHAT_SCORES = [
    {
        "token": " \ufffd",
        "logprob": -1.0,
        "bytes": [32, 0xC3],
        "top_logprobs": [
            {"token": "e", "logprob": -9999.0, "bytes": [101]},
            {"token": " \ufffd", "logprob": -1.0, "bytes": [32, 0xC3]},
        ],
    },
    {
        "token": "<|im_end|>",
        "logprob": -2.0,
        "bytes": None,
        "top_logprobs": [{"token": "<|im_end|>", "logprob": -2.0, "bytes": None}],
    },
]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chats_log_probabilities(served: Served, stream: bool) -> None:
    body = {"messages": CHAT, "logprobs": True, "top_logprobs": 2, "stream": stream}
    answer = await scored(served, "/v1/chat/completions", body)
    if stream:
        found = [event["choices"][0]["logprobs"] for event in events_of(answer)]
        scores = [each for part in found if part is not None for each in part["content"]]
    else:
        scores = answer.json()["choices"][0]["logprobs"]["content"]
    assert scores == CHAT_SCORES


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_completions_log_probabilities(served: Served, stream: bool, echo: bool) -> None:
    body = {"prompt": [H, E], "logprobs": 2, "stream": stream, "echo": echo}
    answer = await scored(served, "/v1/completions", body)
    choices = [event["choices"][0] for event in events_of(answer)] if stream else [answer.json()["choices"][0]]
    text = "".join(choice["text"] for choice in choices)
    scores = [choice["logprobs"] for choice in choices if choice["logprobs"] is not None]
    joined = {name: [each for part in scores for each in part[name]] for name in scores[0]}
    before = 1 if echo else 0
    prompt: dict[str, list[Any]] = {
        "tokens": ["h", "e"],
        "token_logprobs": [None, -0.5],
        "top_logprobs": [None, {"h": -0.25}],
        "text_offset": [0, 1],
    }
    output: dict[str, list[Any]] = {
        "tokens": ["bytes:\\x20\\xc3", "<|im_end|>"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": [{"e": -9999.0, "bytes:\\x20\\xc3": -1.0}, {"<|im_end|>": -2.0}],
        "text_offset": [2 * before, 2 * before + 1],
    }
    assert text == ("he" if echo else "") + " \ufffd"
    assert joined == {name: (prompt[name] if echo else []) + values for name, values in output.items()}


async def test_an_echo_without_log_probabilities(served: Served) -> None:
    async with client_of(served) as client:
        answer = await client.completions.create(model="tiny", prompt=["ab", "c"], echo=True, n=2, temperature=1)
        assert [choice.text for choice in answer.choices] == ["abab", "abab", "cc", "cc"]
        stream = await client.completions.create(model="tiny", prompt="ab", echo=True, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "abab"


async def test_the_served_document_is_true(served: Served) -> None:
    base = f"http://127.0.0.1:{served.servers.http_port}"
    async with httpx.AsyncClient(base_url=base) as client:
        document = (await client.get("/openapi.json")).json()
        assert set(document["paths"]) == {
            *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model_id}"),
            *("/health", "/livez", "/readyz", "/version"),
        }
        assert not any("422" in each["responses"] for path in document["paths"].values() for each in path.values())

        def check(found: Any, path: str, method: str, status: str) -> None:
            schema = document["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"]
            jsonschema.validate(found, {**schema, "components": document["components"]})

        def check_chunk(found: Any, name: str) -> None:
            schema = {"$ref": f"#/components/schemas/{name}"}
            jsonschema.validate(found, {**schema, "components": document["components"]})

        for path in ("/health", "/livez", "/readyz", "/version", "/v1/models"):
            check((await client.get(path)).json(), path, "get", "200")
        check((await client.get("/v1/models/tiny")).json(), "/v1/models/{model_id}", "get", "200")
        check((await client.get("/v1/models/other")).json(), "/v1/models/{model_id}", "get", "4XX")
        for path, body, chunk in (
            ("/v1/chat/completions", {"messages": CHAT}, "ChatCompletionChunk"),
            ("/v1/completions", {"prompt": "ab", "echo": True}, "CompletionChunk"),
        ):
            schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            jsonschema.validate({"model": "tiny", **body}, {**schema, "components": document["components"]})
            check((await client.post(path, json={"model": "tiny", **body})).json(), path, "post", "200")
            check((await client.post(path, json={"model": 1})).json(), path, "post", "4XX")
            options = {"stream": True, "stream_options": {"include_usage": True}}
            for event in events_of(await client.post(path, json={"model": "tiny", **body, **options})):
                check_chunk(event, chunk)


async def test_the_client_sees_tokens_as_they_come(served: Served) -> None:
    async with client_of(served) as client:
        assert isinstance(client, openai.AsyncOpenAI)
        stream = await client.chat.completions.create(
            model="tiny", messages=CHAT, stream=True, extra_headers={"x-request-id": "hang.1"}
        )
        chunks = aiter(stream)
        assert (await anext(chunks)).choices[0].delta.role == "assistant"
        served.workers.say(DECODE, RequestOutput("hang.1", 1, 1, (H, E)))
        texts = []
        while not texts or texts[-1] != "he":
            texts.append((await anext(chunks)).choices[0].delta.content)
        await stream.close()
