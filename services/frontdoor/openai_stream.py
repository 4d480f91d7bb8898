"""Answers a call of the OpenAI API: submits its requests, writes what comes, and cancels them when the client goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from services.core.errors import CancelledError, InternalError, OverloadedError, TriptychError
from services.core.request import Request
from services.frontdoor.call import Call
from services.frontdoor.choices import Choices, Submit
from services.frontdoor.client_stream import Chunk
from services.frontdoor.config import HttpConfig
from services.frontdoor.http_connection import ABORT, Receive, Send
from services.frontdoor.http_errors import error_body
from services.frontdoor.openai_output import (
    DONE,
    KEEP_ALIVE,
    ChatWriter,
    Prompt,
    Reply,
    TextWriter,
    Writer,
    event,
    usage_of,
)
from services.frontdoor.tokenizer import Tokenizer
from services.pb import inference_pb2 as pb

logger = logging.getLogger(__name__)

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # proxies would hold tokens back
}
JSON_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Work:
    """One prompt of a call.

    Attributes:
        message: what the client asks for.
        requests: one for each output.
        echo: the prompt, when it is to be repeated.
    """

    message: pb.GenerateRequest
    requests: tuple[Request, ...]
    echo: Prompt | None = None


class Answer(Response):
    """The answer to one call, streamed or whole.

    A stream begins when there is something to say, so that a failure before has its own status; or after
    `keep_alive_comment_s`, so that nobody between takes the connection for dead.

    Args:
        work: the prompts.
        submit: gives a request to the performer.
        stream: whether tokens are told as they come.
        show_route: tell in headers which workers have the request.
    """

    def __init__(
        self,
        reply: Reply,
        work: Sequence[Work],
        submit: Submit,
        tokenizer: Tokenizer,
        call: Call,
        limits: HttpConfig,
        stream: bool,
        show_route: bool,
    ) -> None:
        super().__init__()
        self._reply = reply
        self._work = work
        self._submit = submit
        self._tokenizer = tokenizer
        self._call = call
        self._limits = limits
        self._stream = stream
        self._show_route = show_route
        self._per_prompt = len(work[0].requests)
        self._writers: dict[int, Writer] = {}

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve until every output ended or the client went away.

        Raises:
            TriptychError: it failed before anything was sent.
        """
        choices = Choices([each.requests for each in self._work], self._submit)
        serve = self._serve_stream if self._stream else self._serve_whole
        abort = scope.get("extensions", {}).get(ABORT, lambda: None)
        work = asyncio.ensure_future(serve(choices, send, abort))
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            else:
                self._call.failure = CancelledError("the client went away", reason="CLIENT_GONE")
        finally:
            choices.close()
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    # --- whole ------------------------------------------------------------------------------------------------

    async def _serve_whole(self, choices: Choices, send: Send, abort: Callable[[], None]) -> None:
        while not choices.done:
            for index, chunk in await choices.chunks():
                writer = self._writer(choices, index)
                writer.add(chunk)
                if writer.stopped:
                    choices.stop(index)
        outputs = [self._writers[index].choice() for index in sorted(self._writers)]
        body = self._reply.answer(outputs, usage_of(self._writers, self._per_prompt)).encode()
        headers = {**JSON_HEADERS, "content-length": str(len(body)), **self._route(choices)}
        await send(start_of(headers))
        await send({"type": "http.response.body", "body": body})

    # --- stream -----------------------------------------------------------------------------------------------

    async def _serve_stream(self, choices: Choices, send: Send, abort: Callable[[], None]) -> None:
        found = await choices.chunks(self._limits.keep_alive_comment_s)
        await send(start_of({**STREAM_HEADERS, **self._route(choices)}))
        try:
            while True:
                text = self._events(choices, found)
                if text:
                    await self._send(send, text)
                if choices.done:
                    break
                found = await choices.chunks(self._limits.keep_alive_comment_s)
            last = (
                self._reply.usage_event(usage_of(self._writers, self._per_prompt)) if self._reply.include_usage else ""
            )
            await self._send(send, last + DONE, more=False)
        except TimeoutError:
            self._call.failure = OverloadedError("the client did not read its stream", reason="SLOW_CLIENT")
            abort()
        except TriptychError as error:
            await self._fail(send, error, abort)
        except Exception as error:
            logger.error("request %s failed", self._call.request_id, exc_info=error)
            message = f"request {self._call.request_id} failed inside the server; its log has the details"
            await self._fail(send, InternalError(message), abort)

    def _events(self, choices: Choices, found: Sequence[tuple[int, Chunk]]) -> str:
        if not found:
            return KEEP_ALIVE
        texts = []
        for index, chunk in found:
            writer = self._writer(choices, index)
            texts.append(writer.events(chunk))
            if writer.stopped:
                choices.stop(index)
        return "".join(texts)

    async def _fail(self, send: Send, error: TriptychError, abort: Callable[[], None]) -> None:
        """The status is sent already: the failure is the last event, without the usual end."""
        self._call.failure = error
        try:
            await self._send(send, event(error_body(error)), more=False)
        except TimeoutError:
            abort()

    async def _send(self, send: Send, text: str, more: bool = True) -> None:
        async with asyncio.timeout(self._limits.stalled_reader_s):
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

    # --- both -------------------------------------------------------------------------------------------------

    def _writer(self, choices: Choices, index: int) -> Writer:
        writer = self._writers.get(index)
        if writer is None:
            work = self._work[index // self._per_prompt]
            kind = ChatWriter if self._reply.chat else TextWriter
            stream = choices.streams[index]
            writer = kind(self._reply, index, stream, self._tokenizer, work.message, work.echo)
            self._writers[index] = writer
        return writer

    def _route(self, choices: Choices) -> dict[str, str]:
        if not self._show_route:
            return {}
        workers = [worker.worker_id for worker in choices.streams[0].workers]
        found = {"x-cache": choices.streams[0].cache, "x-route": ",".join(dict.fromkeys(workers))}
        decision = choices.streams[0].decision
        return found if decision is None else {**found, "x-route-decision": decision.explanation()}


def start_of(headers: dict[str, str]) -> dict[str, Any]:
    """The message that begins an answer."""
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": 200, "headers": pairs}


async def until_gone(receive: Receive) -> None:
    """Wait until the client's connection is closed."""
    while (await receive())["type"] != "http.disconnect":
        pass
