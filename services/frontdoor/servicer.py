"""The gRPC service that clients generate with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from services.core.clock import Clock
from services.core.errors import InvalidRequestError
from services.core.request import Request
from services.frontdoor.beside import beside
from services.frontdoor.call import REQUEST_ID_KEY, Call, current_call
from services.frontdoor.categories import Categories
from services.frontdoor.choice_writer import ChoiceWriter, total_usage
from services.frontdoor.choices import Choices
from services.frontdoor.config import Role
from services.frontdoor.convert import MAX_PRIORITY, Converter, ServedModel, check_request_id
from services.frontdoor.interceptor import Context
from services.frontdoor.performer import Performer
from services.frontdoor.response_cache import ResponseCache
from services.frontdoor.sampling import choices as choice_requests
from services.frontdoor.slo_headers import slo_headers
from services.pb import inference_pb2 as pb
from services.pb import inference_pb2_grpc
from services.semcache.gate import Asked
from services.telemetry.tracing import TRACEPARENT


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """InferenceService over one performer; errors leave as exceptions of the one tree (see interceptor.py)."""

    def __init__(
        self,
        performer: Performer,
        converter: Converter,
        model: ServedModel,
        clock: Clock,
        cache: ResponseCache | None = None,
        categories: Categories | None = None,
    ) -> None:
        self._performer = performer
        self._converter = converter
        self._model = model
        self._clock = clock
        self._cache = cache
        self._categories = categories or Categories()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:
        """Started, deltas and finished of each output, usage; whatever ends the call early cancels the request."""
        call = current_call.get()
        call.operation = "chat" if request.messages else "text_completion"
        apply_headers(request, call.metadata)
        checked, asked = await beside([request], lambda: self._check(request, call))
        requests = choice_requests(checked, request.sampling.n or 1)
        call.charge(requests)
        choices = Choices(
            [requests],
            lambda each, news: self._performer.submit(each, call.received_ns, call.deadline_ns, news, asked, call),
        )
        try:
            await choices.streams[0].dispatched()  # a rejection stays a plain status, which clients may retry
            told = [(REQUEST_ID_KEY, checked.request_id), (TRACEPARENT, call.trace.header)]
            if call.metadata.get("x-debug", "").strip().lower() == "route":
                await choices.streams[0].looked_up()
                told.append(("x-cache", choices.streams[0].cache))
                if (decision := choices.streams[0].decision) is not None:
                    told.append(("x-route-decision", decision.explanation()))
            await context.send_initial_metadata(tuple(told))
            sequence = 0
            async for response in self._responses(choices, request):
                sequence += 1
                response.sequence = sequence
                yield response
        finally:
            choices.close()

    def _check(self, message: pb.GenerateRequest, call: Call) -> tuple[Request, Asked | None]:
        checked = self._converter.request(message, call.deadline_unix_ms, call.identity)
        call.tokenized_ns = self._clock.now_ns()
        asked = None if self._cache is None else self._cache.asked(message, checked, call.metadata, call.identity)
        return replace(checked, category=self._categories.of(call.metadata, asked)), asked

    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:
        """Size of a prompt."""
        prompt = await asyncio.to_thread(self._converter.prompt, request)
        return pb.CountTokensResponse(prompt_tokens=len(prompt))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """The one model."""
        model = pb.Model(id=self._model.name, max_model_len_tokens=self._model.max_len_tokens, dtype=self._model.dtype)
        return pb.ListModelsResponse(models=[model])

    async def CancelGeneration(
        self, request: pb.CancelGenerationRequest, context: Context
    ) -> pb.CancelGenerationResponse:
        """End a request by id; one of another tenant is not there for whoever asks, unless that is an admin."""
        check_request_id("request_id", request.request_id)
        identity = current_call.get().identity
        tenant = None if identity.role is Role.ADMIN else identity.tenant
        return pb.CancelGenerationResponse(cancelled=self._performer.cancel(request.request_id, tenant))

    async def _responses(self, choices: Choices, message: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
        """One call's messages in order, without sequence numbers."""
        request = choices.streams[0].request
        started = pb.Started(
            request_id=request.request_id,
            model=self._model.name,
            prompt_tokens=len(request.prompt),
            seed=request.sampling.seed,
        )
        yield pb.GenerateResponse(started=started)
        writers: dict[int, ChoiceWriter] = {}
        while not choices.done:
            for index, chunk in await choices.chunks():
                if index not in writers:
                    writers[index] = ChoiceWriter(index, choices.streams[index], self._model.tokenizer, message)
                for response in writers[index].write(chunk):
                    yield response
                if writers[index].stopped:
                    choices.stop(index)
        yield pb.GenerateResponse(usage=total_usage([writers[index] for index in sorted(writers)]))


def apply_headers(request: pb.GenerateRequest, metadata: Mapping[str, str]) -> None:
    """Put what proxies say in the metadata into the request's fields."""
    found = slo_headers(metadata)
    for name, value in (("ttft_slo_ms", found.ttft_ms), ("tpot_slo_ms", found.tpot_ms)):
        if value is not None:
            setattr(request, name, value)
    if found.priority is not None:
        if abs(found.priority) > MAX_PRIORITY:
            raise InvalidRequestError(
                "x-priority", f"{found.priority} is not between -{MAX_PRIORITY} and {MAX_PRIORITY}"
            )
        request.priority = found.priority
