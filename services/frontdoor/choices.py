"""The outputs of one Generate call: their requests, their tokens as they come, and the messages that these become."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from services.core.batch import TokenLogprob
from services.core.request import Request
from services.frontdoor.client_stream import Chunk, ClientStream
from services.frontdoor.convert import FINISH_REASONS, timeline_events
from services.frontdoor.tokenizer import Tokenizer
from services.pb import inference_pb2 as pb

PROMPT_LOGPROBS_PER_MESSAGE = 128
"""Positions in one message; with 20 tokens each that is about 100 KB."""

Submit = Callable[[Request, asyncio.Event], ClientStream]
"""Gives a request to the performer, which sets the event when there is news of it."""


class Choices:
    """The running outputs of one call.

    The first is submitted at once. The others follow when it has its first token: then the prompt's blocks are in the
    prefix cache, and the prompt is computed once and not n times. A prompt without a full block has nothing to share.

    Args:
        requests: one for each output.
        submit: may raise what `Performer.submit` raises, here or while chunks are read.
    """

    def __init__(self, requests: Sequence[Request], submit: Submit) -> None:
        self._news = asyncio.Event()
        self._submit = submit
        self._later = list(requests[1:])
        self.streams = [submit(requests[0], self._news)]

    def _start_others(self) -> None:
        while self._later:
            self.streams.append(self._submit(self._later.pop(0), self._news))

    async def chunks(self) -> AsyncIterator[tuple[int, Chunk]]:
        """(index of the output, what came), until every output has its end.

        Raises:
            TriptychError: one of them failed.
        """
        if not self.streams[0].request.block_hashes:
            self._start_others()
        ended: set[int] = set()
        while self._later or len(ended) < len(self.streams):
            ready = [(i, stream) for i, stream in enumerate(self.streams) if i not in ended and stream.ready]
            if not ready:
                await self._news.wait()
                self._news.clear()
            for index, stream in ready:
                chunk = stream.take()
                if chunk.finish is not None:
                    ended.add(index)
                yield index, chunk
            if ready and self._later:
                self._start_others()

    def close(self) -> None:
        """The client's call is over; what still runs is cancelled."""
        for stream in self.streams:
            stream.close()


class ChoiceWriter:
    """Messages of one output.

    Args:
        index: of the output.
        include_timeline: whether `finished` carries it.
    """

    def __init__(self, index: int, stream: ClientStream, tokenizer: Tokenizer, include_timeline: bool) -> None:
        self._index = index
        self._stream = stream
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer()
        self._include_timeline = include_timeline
        self._last_id: int | None = None

    @property
    def usage(self) -> pb.Usage:
        """What the output cost so far."""
        tokens = self._stream.tokens
        return pb.Usage(
            prompt_tokens=len(self._stream.request.prompt),
            cached_tokens=tokens.cached_tokens,
            output_tokens=tokens.next_index,
        )

    def write(self, chunk: Chunk) -> Iterator[pb.GenerateResponse]:
        """Messages for what came, without sequence numbers."""
        for first in range(0, len(chunk.prompt_logprobs), PROMPT_LOGPROBS_PER_MESSAGE):
            piece = chunk.prompt_logprobs[first : first + PROMPT_LOGPROBS_PER_MESSAGE]
            positions = [self._position(each) for each in piece]
            yield pb.GenerateResponse(prompt_logprobs=pb.PromptLogprobs(first_position=first + 1, positions=positions))
        text = self._detokenizer.push(chunk.token_ids)
        text += "" if chunk.finish is None else self._detokenizer.flush()
        if chunk.token_ids or text:
            self._last_id = chunk.token_ids[-1] if chunk.token_ids else self._last_id
            delta = pb.Delta(
                index=self._index,
                text=text,
                token_ids=chunk.token_ids,
                token_index=chunk.index,
                logprobs=[self._position(each) for each in chunk.logprobs],
            )
            yield pb.GenerateResponse(delta=delta)
        if chunk.finish is not None:
            yield pb.GenerateResponse(finished=self._finished(FINISH_REASONS[chunk.finish]))

    def _finished(self, reason: pb.FinishReason) -> pb.Finished:
        return pb.Finished(
            index=self._index,
            finish_reason=reason,
            timeline=timeline_events(self._stream.timeline) if self._include_timeline else [],
            stop_token_id=self._last_id if reason == pb.FINISH_REASON_STOP else None,
            usage=self.usage,
        )

    def _position(self, found: TokenLogprob) -> pb.PositionLogprobs:
        top = [self._token(token_id, logprob) for token_id, logprob in found.top]
        return pb.PositionLogprobs(token=self._token(found.token_id, found.logprob), top=top)

    def _token(self, token_id: int, logprob: float) -> pb.TokenLogprob:
        text, utf8_bytes = self._tokenizer.spell(token_id)
        return pb.TokenLogprob(token_id=token_id, logprob=logprob, text=text, utf8_bytes=utf8_bytes)


def total_usage(writers: Sequence[ChoiceWriter]) -> pb.Usage:
    """The prompt counted once, the outputs added up."""
    usages = [writer.usage for writer in writers]
    total = usages[0]
    total.output_tokens = sum(usage.output_tokens for usage in usages)
    return total
