"""The gRPC service that clients generate with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from services.core.clock import NS_PER_S, Clock
from services.frontdoor.choices import Choices, ChoiceWriter, total_usage
from services.frontdoor.convert import Converter, ServedModel, check_request_id
from services.frontdoor.interceptor import REQUEST_ID_KEY, Context
from services.frontdoor.performer import Performer
from services.frontdoor.sampling import choices as choice_requests
from services.pb import inference_pb2 as pb
from services.pb import inference_pb2_grpc

MS_PER_S = 1000


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """InferenceService over one performer; errors leave as exceptions of the one tree (see interceptor.py).

    Args:
        default_deadline_s: budget of calls that bring no deadline.
    """

    def __init__(
        self, performer: Performer, converter: Converter, model: ServedModel, clock: Clock, default_deadline_s: float
    ) -> None:
        self._performer = performer
        self._converter = converter
        self._model = model
        self._clock = clock
        self._default_deadline_s = default_deadline_s

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:
        """Started, deltas and finished of each output, usage; whatever ends the call early cancels the request."""
        received_ns = self._clock.now_ns()
        remaining_s = context.time_remaining()
        budget_s = self._default_deadline_s if remaining_s is None else max(remaining_s, 0.0)
        deadline_unix_ms = self._clock.unix_ms() + int(budget_s * MS_PER_S)
        # A long prompt is tokenized beside the loop, so that it delays nobody else's tokens.
        checked = await asyncio.to_thread(self._converter.request, request, deadline_unix_ms)
        deadline_ns = received_ns + int(budget_s * NS_PER_S)
        choices = Choices(
            choice_requests(checked, request.sampling.n or 1),
            lambda each, news: self._performer.submit(each, received_ns, deadline_ns, news),
        )
        try:
            await choices.streams[0].dispatched()  # a rejection stays a plain status, which clients may retry
            await context.send_initial_metadata(((REQUEST_ID_KEY, checked.request_id),))
            sequence = 0
            async for response in self._responses(choices, request.include_timeline):
                sequence += 1
                response.sequence = sequence
                yield response
        finally:
            choices.close()

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
        """End a request by id."""
        check_request_id("request_id", request.request_id)
        return pb.CancelGenerationResponse(cancelled=self._performer.cancel(request.request_id))

    async def _responses(self, choices: Choices, include_timeline: bool) -> AsyncIterator[pb.GenerateResponse]:
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
        async for index, chunk in choices.chunks():
            if index not in writers:
                stream = choices.streams[index]
                writers[index] = ChoiceWriter(index, stream, self._model.tokenizer, include_timeline)
            for response in writers[index].write(chunk):
                yield response
        yield pb.GenerateResponse(usage=total_usage([writers[index] for index in sorted(writers)]))
