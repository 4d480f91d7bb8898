"""The outputs of one call: their requests, and their tokens as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from services.core.request import Request
from services.frontdoor.client_stream import Chunk, ClientStream

Submit = Callable[[Request, asyncio.Event], ClientStream]
"""Gives a request to the performer, which sets the event when there is news of it."""


class Choices:
    """The running outputs of one call, numbered prompt by prompt.

    The first output of each prompt is submitted at once. The others follow when it has its first token: then the
    prompt's blocks are in the prefix cache, and the prompt is computed once and not n times. A prompt without a full
    block has nothing to share.

    Args:
        prompts: for each prompt the requests of its outputs.
        submit: may raise what `Performer.submit` raises, here or while chunks are read.

    Attributes:
        streams: by number of the output; those that are not submitted yet are missing.
    """

    def __init__(self, prompts: Sequence[Sequence[Request]], submit: Submit) -> None:
        self.streams: dict[int, ClientStream] = {}
        self._news = asyncio.Event()
        self._submit = submit
        self._live: dict[int, ClientStream] = {}
        self._later: dict[int, list[tuple[int, Request]]] = {}
        self._num_outputs = 0
        try:
            for requests in prompts:
                self._add(requests)
        except BaseException:
            self.close()
            raise

    def _add(self, requests: Sequence[Request]) -> None:
        first = self._num_outputs
        self._num_outputs += len(requests)
        self._start(first, requests[0])
        if len(requests) > 1:
            self._later[first] = list(enumerate(requests[1:], start=first + 1))
        if not requests[0].block_hashes:
            self._start_others(first)

    def _start(self, index: int, request: Request) -> None:
        self.streams[index] = self._live[index] = self._submit(request, self._news)

    def _start_others(self, first: int) -> None:
        for index, request in self._later.pop(first, ()):
            self._start(index, request)

    @property
    def done(self) -> bool:
        """Whether every output has its end."""
        return not self._live and not self._later

    async def chunks(self, at_most_s: float | None = None) -> list[tuple[int, Chunk]]:
        """(number of the output, what came): all that is there now, or what comes first.

        Args:
            at_most_s: return with nothing after this time.

        Raises:
            TriptychError: one of them failed.
        """
        found = self._take()
        if found or self.done:
            return found
        if at_most_s is None:
            return await self._next()
        try:
            async with asyncio.timeout(at_most_s):
                return await self._next()
        except TimeoutError:
            return []

    async def _next(self) -> list[tuple[int, Chunk]]:
        while True:
            await self._news.wait()
            self._news.clear()
            if found := self._take():
                return found

    def _take(self) -> list[tuple[int, Chunk]]:
        found: list[tuple[int, Chunk]] = []
        for index, stream in list(self._live.items()):
            if not stream.ready:
                continue
            try:
                chunk = stream.take()
            except Exception:
                if found:
                    break  # what came before the failure is given first
                raise
            if chunk.finish is not None:
                del self._live[index]
            found.append((index, chunk))
            self._start_others(index)
        return found

    def stop(self, index: int) -> None:
        """End an output well: a stop string appeared in it."""
        self._live.pop(index, None)
        self.streams[index].stop()
        self._start_others(index)

    def close(self) -> None:
        """The client's call is over; what still runs is cancelled."""
        for stream in self.streams.values():
            stream.close()
