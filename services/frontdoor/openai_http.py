"""The OpenAI API: chat completions, completions and models, over the same path as gRPC's Generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import fastapi
from fastapi import Response
from pydantic.json_schema import models_json_schema

from services.core.clock import Clock
from services.core.errors import InvalidRequestError, ModelNotFoundError
from services.frontdoor import openai_schema as schema
from services.frontdoor.beside import beside
from services.frontdoor.call import Call, current_call
from services.frontdoor.categories import Categories
from services.frontdoor.config import HttpConfig
from services.frontdoor.convert import Converter, ServedModel
from services.frontdoor.openai_convert import chat_message, completion_messages, in_clients_words
from services.frontdoor.openai_output import Prompt, Reply
from services.frontdoor.openai_stream import Answer, Work
from services.frontdoor.openai_structured import structured_of
from services.frontdoor.performer import Performer
from services.frontdoor.response_cache import ResponseCache
from services.frontdoor.sampling import choices as choice_requests
from services.frontdoor.servicer import apply_headers
from services.frontdoor.structured import StructuredError
from services.kvcache.block import NO_AUTH_SALT
from services.pb import inference_pb2 as pb
from services.semcache.gate import Asked

MS_PER_S = 1000
FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": schema.ErrorBody, "description": "The request is wrong, or must wait (429, with Retry-After)."},
    "5XX": {"model": schema.ErrorBody, "description": "The server could not answer; 503 and 504 may be sent again."},
}


class OpenAiApi:
    """The routes.

    Args:
        performer: runs requests.
        converter: checks them.
        cache: answers to requests that came before, or None.
        categories: names what requests are about; None: by the built-in names.
    """

    def __init__(
        self,
        performer: Performer,
        converter: Converter,
        model: ServedModel,
        clock: Clock,
        limits: HttpConfig,
        cache: ResponseCache | None = None,
        categories: Categories | None = None,
    ) -> None:
        self._performer = performer
        self._converter = converter
        self._model = model
        self._clock = clock
        self._limits = limits
        self._cache = cache
        self._categories = categories or Categories()
        self._created = clock.unix_ms() // MS_PER_S
        self._fingerprint = f"fp_{model.root_of(NO_AUTH_SALT).hex()[:10]}"  # what makes outputs differ is in the root

    def add_to(self, app: fastapi.FastAPI) -> None:
        """Mount every route."""

        async def chat(body: schema.ChatCompletionRequest) -> Response:
            """The next turn of a conversation."""
            return await self._chat(body)

        async def complete(body: schema.CompletionRequest) -> Response:
            """What comes after a text, or after token ids."""
            return await self._complete(body)

        async def models() -> schema.ModelList:
            """The models that are served."""
            return schema.ModelList(object="list", data=[self._card()])

        async def model(model_id: str) -> schema.Model:
            """One model."""
            if model_id != self._model.name:
                text = f"model: {model_id[:200]!r} is not served here; use {self._model.name!r}"
                raise ModelNotFoundError(text, model=model_id)
            return self._card()

        add = app.add_api_route
        add(
            "/v1/chat/completions",
            chat,
            methods=["POST"],
            response_model=schema.ChatCompletion,
            responses={**FAILURES, **streamed(schema.ChatCompletionChunk)},
        )
        add(
            "/v1/completions",
            complete,
            methods=["POST"],
            response_model=schema.Completion,
            responses={**FAILURES, **streamed(schema.CompletionChunk)},
        )
        add("/v1/models", models, methods=["GET"], responses=FAILURES)
        add("/v1/models/{model_id:path}", model, methods=["GET"], responses=FAILURES)

    def _card(self) -> schema.Model:
        name = self._model.name
        return schema.Model(
            id=name,
            object="model",
            created=self._created,
            owned_by="triptych",
            root=name,
            max_model_len=self._model.max_len_tokens,
        )

    async def _chat(self, body: schema.ChatCompletionRequest) -> Response:
        names = {"logprobs": "top_logprobs"}
        if body.max_completion_tokens is not None:
            names["max_tokens"] = "max_completion_tokens"
        return await self._answer(body, [chat_message(body)], [names])

    async def _complete(self, body: schema.CompletionRequest) -> Response:
        messages = completion_messages(body)
        many = len(messages) > 1
        names = []
        for place in range(len(messages)):
            prompt = f"prompt[{place}]" if many else "prompt"
            names.append({**dict.fromkeys(("prompt_token_ids", "messages"), prompt), "prompt_logprobs": "logprobs"})
        return await self._answer(body, messages, names, bool(body.echo))

    async def _answer(
        self,
        body: schema.Generation,
        messages: Sequence[pb.GenerateRequest],
        names: Sequence[Mapping[str, str]],
        echo: bool = False,
    ) -> Response:
        call, is_chat = current_call.get(), isinstance(body, schema.ChatCompletionRequest)
        call.operation = "chat" if is_chat else "text_completion"
        structured, words = self._structured(body, echo)
        for message in messages:
            message.request_id = call.request_id
            apply_headers(message, call.metadata)
            if structured is not None:
                message.sampling.structured.CopyFrom(structured)
        names = [{**each, **words} for each in names]
        work = await beside(messages, lambda: self._check(call, messages, names, echo))
        call.charge([request for each in work for request in each.requests])
        asked = await self._asked(call, work) if self._cache is not None and not echo else None
        work = about(work, self._categories.of(call.metadata, asked))
        reply = Reply(
            id=f"{'chatcmpl' if is_chat else 'cmpl'}-{call.request_id}",
            created=self._clock.unix_ms() // MS_PER_S,
            model=self._model.name,
            fingerprint=self._fingerprint,
            chat=is_chat,
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
        )
        return Answer(
            reply,
            work,
            lambda each, news: self._performer.submit(each, call.received_ns, call.deadline_ns, news, asked, call),
            self._model.tokenizer,
            call,
            self._limits,
            stream=bool(body.stream),
            show_route=call.metadata.get("x-debug", "").strip().lower() == "route",
        )

    def _structured(self, body: schema.Generation, echo: bool) -> tuple[pb.Structured | None, Mapping[str, str]]:
        """What the output must be; a refusal is counted."""
        try:
            return structured_of(body, echo)
        except StructuredError as error:
            self._model.grammars.count(error)
            raise

    def _check(
        self, call: Call, messages: Sequence[pb.GenerateRequest], names: Sequence[Mapping[str, str]], echo: bool
    ) -> list[Work]:
        """Every prompt's requests, checked and tokenized."""
        work = []
        for place, (message, words) in enumerate(zip(messages, names, strict=True)):
            try:
                request = self._converter.request(message, call.deadline_unix_ms, call.identity)
            except InvalidRequestError as error:
                raise in_clients_words(error, words) from error
            if place:
                request = replace(request, request_id=f"{request.request_id}/{place}")  # no client can send a slash
            requests = choice_requests(request, message.sampling.n or 1)
            work.append(Work(message, requests, self._echo(message, request.prompt) if echo else None))
        call.tokenized_ns = self._clock.now_ns()
        return work

    async def _asked(self, call: Call, work: Sequence[Work]) -> Asked | None:
        """What to ask the cache; several prompts in one call are not cached."""
        if self._cache is None or len(work) != 1:
            return None
        cache, message, request = self._cache, work[0].message, work[0].requests[0]
        return await beside([message], lambda: cache.asked(message, request, call.metadata, call.identity))

    def _echo(self, message: pb.GenerateRequest, ids: tuple[int, ...]) -> Prompt:
        detokenizer = self._model.tokenizer.detokenizer()
        return Prompt(message.prompt or detokenizer.push(ids) + detokenizer.flush(), ids)


def about(work: Sequence[Work], category: str) -> list[Work]:
    """The same prompts, their requests of a category."""
    return [
        replace(each, requests=tuple(replace(request, category=category) for request in each.requests)) for each in work
    ]


def streamed(chunk: type[schema.Answer]) -> dict[int | str, dict[str, Any]]:
    """What the document says of an answer that may be a stream."""
    item = {"$ref": f"#/components/schemas/{chunk.__name__}"}
    text = "Lines of `data: ` and a chunk (x-item-schema), each followed by an empty line; then `data: [DONE]`."
    events = {"schema": {"type": "string"}, "x-item-schema": item, "description": text}
    return {200: {"content": {"text/event-stream": events}, "description": "Whole, or as events with `stream`."}}


def add_chunks(document: dict[str, Any]) -> None:
    """Put the chunks of streams into an OpenAPI document; no route answers with one as a whole body."""
    kinds = [(kind, "serialization") for kind in (schema.ChatCompletionChunk, schema.CompletionChunk)]
    _, found = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    document["components"]["schemas"] |= found["$defs"]
