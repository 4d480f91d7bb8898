"""The gRPC service that clients generate with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from services.core.clock import NS_PER_S, Clock
from services.frontdoor.client_stream import ClientStream
from services.frontdoor.convert import FINISH_REASONS, Converter, ServedModel, check_request_id, timeline_events
from services.frontdoor.interceptor import REQUEST_ID_KEY, Context
from services.frontdoor.performer import Performer
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
        """Started, deltas, finished, usage; whatever ends the call early cancels the request."""
        received_ns = self._clock.now_ns()
        remaining_s = context.time_remaining()
        budget_s = self._default_deadline_s if remaining_s is None else max(remaining_s, 0.0)
        deadline_unix_ms = self._clock.unix_ms() + int(budget_s * MS_PER_S)
        # A long prompt is tokenized beside the loop, so that it delays nobody else's tokens.
        checked = await asyncio.to_thread(self._converter.request, request, deadline_unix_ms)
        stream = self._performer.submit(checked, received_ns, received_ns + int(budget_s * NS_PER_S))
        try:
            await stream.dispatched()  # a rejection stays a plain status, which clients may retry
            await context.send_initial_metadata(((REQUEST_ID_KEY, checked.request_id),))
            sequence = 0
            async for response in self._responses(stream, request.include_timeline):
                sequence += 1
                response.sequence = sequence
                yield response
        finally:
            stream.close()

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

    async def _responses(self, stream: ClientStream, include_timeline: bool) -> AsyncIterator[pb.GenerateResponse]:
        """One request's messages in order, without sequence numbers."""
        request = stream.request
        started = pb.Started(request_id=request.request_id, model=self._model.name, prompt_tokens=len(request.prompt))
        yield pb.GenerateResponse(started=started)
        detokenizer = self._model.tokenizer.detokenizer()
        finish = None
        while finish is None:
            chunk = await stream.next()
            finish = chunk.finish
            text = detokenizer.push(chunk.token_ids) + ("" if finish is None else detokenizer.flush())
            if chunk.token_ids or text:
                delta = pb.Delta(text=text, token_ids=chunk.token_ids, token_index=chunk.index)
                yield pb.GenerateResponse(delta=delta)
        timeline = timeline_events(stream.timeline) if include_timeline else []
        yield pb.GenerateResponse(finished=pb.Finished(finish_reason=FINISH_REASONS[finish], timeline=timeline))
        usage = pb.Usage(
            prompt_tokens=len(request.prompt),
            cached_tokens=stream.tokens.cached_tokens,
            output_tokens=stream.tokens.next_index,
        )
        yield pb.GenerateResponse(usage=usage)
