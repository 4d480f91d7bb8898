"""The official client against the HTTP door, over real sockets: every feature, streamed and not."""

from __future__ import annotations

import openai
import pytest

from services.core.actions import Cancel
from services.core.request import FinishReason
from tests.api.harness import Served

CHAT = [{"role": "user", "content": "Say Hi"}]
RENDERED = "system\nBe helpful\nuser\nSay Hi\nassistant\n"
"""What the echo of a rendered chat says: special tokens have no text."""


async def test_a_chat(client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="tiny", messages=CHAT, extra_headers={"x-request-id": "mine-1", "x-debug": "route"}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert (raw.headers["x-cache"], raw.headers["x-route"]) == ("miss", "prefill-0")
    answer = raw.parse()
    assert (answer.id, answer.object, answer.model) == ("chatcmpl-mine-1", "chat.completion", "tiny")
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", RENDERED)
    assert answer.usage.prompt_tokens == answer.usage.completion_tokens > 40
    assert answer.usage.total_tokens == 2 * answer.usage.prompt_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 16
    assert answer.system_fingerprint.startswith("fp_")


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_streamed_chat(client: openai.AsyncOpenAI, include_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    stream = await client.chat.completions.create(model="tiny", messages=CHAT, stream=True, **options)
    chunks = [chunk async for chunk in stream]
    assert (
        len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint, chunk.object) for chunk in chunks}) == 1
    )
    told = chunks[:-1] if include_usage else chunks
    deltas = [chunk.choices[0].delta for chunk in told]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join(delta.content or "" for delta in deltas) == RENDERED
    assert [chunk.choices[0].finish_reason for chunk in told][-2:] == [None, "stop"]
    assert all(chunk.usage is None for chunk in told)
    if include_usage:
        assert chunks[-1].choices == []
        assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 16


async def test_models(client: openai.AsyncOpenAI) -> None:
    (model,) = (await client.models.list()).data
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "triptych")
    assert (await client.models.retrieve("tiny")).max_model_len == 128
    with pytest.raises(openai.NotFoundError) as found:
        await client.models.retrieve("org/other")
    assert (found.value.code, found.value.param, found.value.type) == ("model_not_found", "model", "not_found_error")


async def test_completions_of_text_and_ids_of_one_and_several_prompts(client: openai.AsyncOpenAI) -> None:
    ids = [ord(letter) for letter in "xyz"]
    for prompt in ("hello", ["hello"], ["one", "two"], ids, [ids, ids[:1]]):
        answer = await client.completions.create(model="tiny", prompt=prompt, max_tokens=4)
        texts = [choice.text for choice in answer.choices]
        assert [choice.index for choice in answer.choices] == list(range(len(texts)))
        if isinstance(prompt, str) or isinstance(prompt[0], str):
            assert texts == ([prompt] if isinstance(prompt, str) else prompt)
        assert len(texts) == (2 if prompt in (["one", "two"], [ids, ids[:1]]) else 1)
        assert answer.usage.prompt_tokens == answer.usage.completion_tokens


async def test_streams_of_several_outputs_of_several_prompts(client: openai.AsyncOpenAI, served: Served) -> None:
    stream = await client.completions.create(
        model="tiny", prompt=["one", "two"], n=2, temperature=1, stream=True, stream_options={"include_usage": True}
    )
    texts, ends = dict.fromkeys(range(4), ""), {}
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == {0: "one", 1: "one", 2: "two", 3: "two"}
    assert ends == dict.fromkeys(range(4), "stop")
    assert (chunk.usage.prompt_tokens, chunk.usage.completion_tokens) == (6, 12)
    assert len({request.request_id for _, _, request, _ in served.workers.submitted}) == 4
    assert len({request.sampling.seed for _, _, request, _ in served.workers.submitted}) > 1


async def test_every_field_reaches_the_workers(client: openai.AsyncOpenAI, served: Served) -> None:
    await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "developer", "content": [{"type": "text", "text": "Hi"}]}, *CHAT],
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=11,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"5": -100, "7": 3.5},
        logprobs=True,
        top_logprobs=3,
        user="someone",
        extra_body={
            "top_k": 4,
            "min_p": 0.1,
            "repetition_penalty": 1.5,
            "ignore_eos": True,
            "min_tokens": 2,
            "stop_token_ids": [9],
            "priority": 3,
            "some_new_field": {"a": 1},
            "tools": [],
            "response_format": {"type": "text"},
        },
    )
    (_, _, request, _), *_ = served.workers.submitted
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (7, 0.5, 0.9, 11)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.5, -0.5, 1.5)
    assert (sampling.top_k, sampling.min_p, sampling.min_tokens) == (4, 0.1, 2)
    assert (sampling.logit_bias, sampling.stop_token_ids, sampling.logprobs) == (((5, -100.0), (7, 3.5)), (9,), 3)
    assert request.priority == 3


async def test_defaults_are_openais(client: openai.AsyncOpenAI, served: Served) -> None:
    await client.completions.create(model="tiny", prompt="a")
    sampling = served.workers.submitted[0][2].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.stop_token_ids) == (1.0, 1.0, 16, (2,))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_across_tokens_ends_the_output_and_its_request(
    client: openai.AsyncOpenAI, served: Served, stream: bool
) -> None:
    for stop, text, reason in ((["lp"], "Be he", "lp"), (["nothing", "pful\nus"], "Be hel", "pful\nus")):
        answer = await client.chat.completions.create(
            model="tiny", messages=CHAT, stop=stop, stream=stream, extra_headers={"x-request-id": f"step.{len(reason)}"}
        )
        if stream:
            chunks = [chunk async for chunk in answer]
            got = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            last = chunks[-1].choices[0]
        else:
            last = answer.choices[0]
            got = last.message.content
            assert answer.usage.completion_tokens < answer.usage.prompt_tokens
        assert got == "system\n" + text
        assert (last.finish_reason, last.stop_reason) == ("stop", reason)
    assert served.performer.num_running == 0
    assert {event.finish for event in served.flow.of(Cancel)} <= {FinishReason.STOP}
