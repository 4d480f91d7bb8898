"""Structured outputs behind both doors: every spelling reaches the workers, every mistake is told by its field."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import httpx
import openai
import pydantic
import pytest

from services.core.actions import RequestOutput
from services.core.request import FinishReason
from services.pb import inference_pb2 as pb
from tests.api.harness import Served, ask, details_of
from tests.api.test_openai import CHAT
from tests.unit.frontdoor.fakes import PREFILL

END, FIRST_BYTE = 2, 3
"""Ids of the test vocabulary: its end token, and the token of byte 0."""


class Person(pydantic.BaseModel):
    """What the client wants."""

    name: str
    age: int


SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "schema": Person.model_json_schema()}}


async def answer(served: Served, text: str) -> None:
    """A worker's answer to the next request."""
    while not served.workers.submitted:
        await asyncio.sleep(0.005)
    request = served.workers.submitted[-1][2]
    ids = tuple(FIRST_BYTE + byte for byte in text.encode())
    served.workers.say(PREFILL, RequestOutput(request.request_id, request.attempt, 0, (*ids, END), FinishReason.STOP))


async def test_the_clients_own_types_become_a_grammar_and_its_answers_those_types(
    served: Served, client: openai.AsyncOpenAI
) -> None:
    asked = asyncio.create_task(
        client.chat.completions.parse(
            model="tiny", messages=CHAT, response_format=Person, extra_headers={"x-request-id": "silent.1"}
        )
    )
    await answer(served, '{"name": "Zoë", "age": 3}')
    (choice,) = (await asked).choices
    assert choice.message.parsed == Person(name="Zoë", age=3)
    sampling = served.workers.submitted[-1][2].sampling
    assert '"age"' in sampling.grammar and sampling.stop_token_ids == (END,)


async def test_every_spelling_reaches_the_workers_from_both_doors(served: Served, client: openai.AsyncOpenAI) -> None:
    schema = Person.model_json_schema()
    same: list[list[dict[str, Any]]] = [
        [SCHEMA_FIELDS, {"structured_outputs": {"json": schema}}, {"guided_json": schema}],
        [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}],
        [{"structured_outputs": {"regex": "a+"}}, {"guided_regex": "a+"}],
        [{"structured_outputs": {"choice": ["a", "b c"]}}, {"guided_choice": ["a", "b c"]}],
        [{"structured_outputs": {"grammar": 'start: "a"'}}, {"guided_grammar": 'start: "a"'}],
        [{"response_format": {"type": "text"}}, {}],
    ]
    grammars = []
    for spellings in same:
        for place, fields in enumerate(spellings):
            if place % 2:
                await client.completions.create(model="tiny", prompt="hi", extra_body=fields)
            else:
                await client.chat.completions.create(model="tiny", messages=CHAT, extra_body=fields)
        found = {request.sampling.grammar for _, _, request, _ in served.workers.submitted[-len(spellings) :]}
        assert len(found) == 1, spellings
        grammars += found
    assert len(set(grammars)) == 6 and grammars[-1] == ""
    wanted = pb.Sampling(structured=pb.Structured(regex="a+"), n=2, temperature=1.0)
    async for _ in served.inference.Generate(ask("echo.1", sampling=wanted)):
        pass
    assert [each[2].sampling.grammar for each in served.workers.submitted[-2:]] == [grammars[2]] * 2


SCHEMA_FIELDS = {"response_format": SCHEMA}
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "give a JSON Schema"),
    ({"response_format": {"type": "yaml"}}, "response_format.type", "json_schema"),
    ({"response_format": {}}, "response_format.type", "required"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "king"}}}},
     "response_format.json_schema.schema", "king"),
    ({"guided_choice": [1]}, "guided_choice[0]", "string"),
    ({"guided_choice": []}, "guided_choice", "one text or more"),
    ({"guided_regex": "("}, "guided_regex", "correct it"),
    ({"guided_grammar": "start: missing"}, "guided_grammar", "correct it"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "not JSON"),
    ({"structured_outputs": {"json": {"description": "x" * 70_000}}}, "structured_outputs.json", "at most 65536"),
    ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "together with guided_json; give one of them"),
    ({"guided_regex": "a", "ignore_eos": True, "stop_token_ids": [5]}, "ignore_eos", "leave one of them out"),
    ({"tools": [{"type": "function"}], **SCHEMA_FIELDS}, "tools", "not supported"),
]  # fmt: skip


async def test_every_mistake_is_refused_by_its_field_and_counted(served: Served, client: openai.AsyncOpenAI) -> None:
    for fields, param, says in WRONG:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="tiny", messages=CHAT, extra_body=fields)
        assert (caught.value.param, says in caught.value.message) == (param, True), (fields, caught.value)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="tiny", prompt="hi", echo=True, extra_body={"guided_regex": "a"})
    assert caught.value.param == "echo"
    for wanted, field in (
        (pb.Structured(), "sampling.structured"),
        (pb.Structured(json_schema="[]"), "sampling.structured.json_schema"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            async for _ in served.inference.Generate(ask("echo.1", sampling=pb.Sampling(structured=wanted))):
                pass
        assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        (violation,) = details_of(failed.value)["BadRequest"].field_violations  # type: ignore[attr-defined]
        assert violation.field == field
    assert served.workers.submitted == []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.servers.http_port}") as http:
        text = (await http.get("/metrics")).text
    name = "triptych_structured_requests_total"
    for kind, outcome, count in (
        ("regex", "invalid", 1),
        ("regex", "contradictory", 3),
        ("json_schema", "invalid", 4),
        ("json_schema", "too_large", 1),
        ("none", "invalid", 2),
    ):
        assert f'{name}{{kind="{kind}",outcome="{outcome}"}} {count}.0' in text, (kind, outcome, text)


async def test_a_worker_that_cannot_follow_a_grammar_says_so(served: Served, client: openai.AsyncOpenAI) -> None:
    asked = asyncio.create_task(
        client.chat.completions.create(
            model="tiny", messages=CHAT, response_format=SCHEMA, extra_headers={"x-request-id": "silent.1"}
        )
    )
    while not served.workers.submitted:
        await asyncio.sleep(0.005)
    end = RequestOutput("silent.1", 1, 0, (), FinishReason.ERROR, "GRAMMAR_FAILED", "the parser is too complex")
    served.workers.say(PREFILL, end)
    with pytest.raises(openai.BadRequestError, match="too complex") as caught:
        await asked
    assert (caught.value.param, caught.value.code) == ("sampling.structured", "grammar_failed")
