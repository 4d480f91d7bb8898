"""Outputs of the OpenAI API: as events of a stream, made by hand because every token passes here, or as one answer."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.core.batch import TokenLogprob
from services.frontdoor import openai_schema as schema
from services.frontdoor.client_stream import Chunk, ClientStream
from services.frontdoor.output_text import OutputText, Piece
from services.frontdoor.tokenizer import Tokenizer
from services.pb import inference_pb2 as pb

LEAST_LOGPROB = -9999.0
"""Written for minus infinity, which JSON does not have."""
LINE_ENDS = str.maketrans({"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""Characters at which some clients split lines, and so would cut an event."""
DONE = "data: [DONE]\n\n"
KEEP_ALIVE = ": keep-alive\n\n"
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def to_json(value: object) -> str:
    """One line for every client."""
    text = encode(value)
    return text if text.isascii() else text.translate(LINE_ENDS)


def event(value: object) -> str:
    """A server-sent event."""
    return f"data: {to_json(value)}\n\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """What all events of a stream, or the one answer, begin with.

    Attributes:
        chat: whether it answers a chat.
        include_usage: whether events tell the usage, which only the last one knows.
    """

    id: str
    created: int
    model: str
    fingerprint: str
    chat: bool
    include_usage: bool = False

    @property
    def head(self) -> dict[str, object]:
        """Fields of an event."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        names = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**names, "system_fingerprint": self.fingerprint}

    def usage_event(self, usage: schema.Usage) -> str:
        """The event after the last of every output."""
        return event({**self.head, "choices": [], "usage": schema.dump(usage)})

    def answer(self, choices: Sequence[schema.Answer], usage: schema.Usage) -> str:
        """The body of an answer that is not streamed."""
        kind = {"object": "chat.completion" if self.chat else "text_completion"}
        body = {**self.head, **kind, "choices": [schema.dump(choice) for choice in choices]}
        return to_json({**body, "usage": schema.dump(usage)})


@dataclass(slots=True)
class Prompt:
    """A prompt that is repeated before its outputs.

    Attributes:
        text: as the client gave it, or what its ids say.
        token_ids: of the prompt.
        logprobs: of the ids from the second on, when they were asked for, once they came.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(slots=True)
class TokenTexts:
    """Log-probabilities of a completion, as its four lists."""

    top: bool
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def dump(self) -> dict[str, object]:
        """As JSON has it."""
        return schema.dump(self.answer())

    def answer(self) -> schema.TextLogprobs:
        """As the schema has it."""
        return schema.TextLogprobs(
            tokens=self.tokens,
            token_logprobs=self.token_logprobs,
            top_logprobs=self.top_logprobs if self.top else None,
            text_offset=self.text_offset,
        )

    def extend(self, other: TokenTexts) -> None:
        """Add later tokens."""
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            getattr(self, name).extend(getattr(other, name))


class Writer(ABC):
    """One output, as a client of the OpenAI API sees it.

    Args:
        index: of the output in the whole call.
        message: what its prompt asks for.
        echo: the prompt, when it is to be repeated; outputs of one prompt share it.

    Attributes:
        stopped: a stop string ended the output, so that its request need not run on.
        num_tokens: of the output so far.
    """

    def __init__(
        self,
        reply: Reply,
        index: int,
        stream: ClientStream,
        tokenizer: Tokenizer,
        message: pb.GenerateRequest,
        echo: Prompt | None = None,
    ) -> None:
        self.stopped = False
        self.num_tokens = 0
        self.stream = stream
        self._index = index
        self._tokenizer = tokenizer
        self._echo = echo
        self._sampling = message.sampling
        self._text = OutputText(tokenizer, message.sampling.stop, message.sampling.min_tokens)
        self._begun = False
        self._texts: list[str] = []
        self._finish: Piece | None = None
        head = to_json(reply.head)[:-1]
        self._before = f'data: {head},"choices":[{{"index":{index},'
        self._after = '}],"usage":null}\n\n' if reply.include_usage else "}]}\n\n"

    def _take(self, chunk: Chunk) -> Piece:
        piece = self._text.take(chunk)
        self.num_tokens += len(piece.token_ids)
        self.stopped = piece.stop_text is not None
        if self._echo is not None and chunk.prompt_logprobs:
            self._echo.logprobs = chunk.prompt_logprobs
        return piece

    def _event(self, news: str, logprobs: object = None, piece: Piece | None = None) -> str:
        """An event; `news` is the JSON of what is new, `piece` the one that ended the output."""
        scores = "null" if logprobs is None else to_json(logprobs)
        end = '"finish_reason":null'
        if piece is not None:
            assert piece.finish is not None
            end = f'"finish_reason":"{piece.finish.value}","stop_reason":{to_json(stop_reason(piece))}'
        return f'{self._before}{news},"logprobs":{scores},{end}{self._after}'

    @abstractmethod
    def events(self, chunk: Chunk) -> str:
        """The events that a chunk becomes; may be none."""

    @abstractmethod
    def add(self, chunk: Chunk) -> None:
        """Keep a chunk for `choice`."""

    @abstractmethod
    def choice(self) -> schema.Answer:
        """The whole output, once it ended."""


class ChatWriter(Writer):
    """An output of a chat."""

    _scores: list[schema.ChatTokenLogprob] | None = None

    def events(self, chunk: Chunk) -> str:
        """A role first, then text, then the end."""
        piece = self._take(chunk)
        found = ""
        if not self._begun:
            self._begun = True
            found = self._event('"delta":{"role":"assistant","content":""}')
        if piece.text or piece.logprobs:
            scores = {"content": [schema.dump(each) for each in self._entries(piece)], "refusal": None}
            found += self._event(f'"delta":{{"content":{to_json(piece.text)}}}', scores if piece.logprobs else None)
        return found + self._event('"delta":{}', None, piece) if piece.finish is not None else found

    def add(self, chunk: Chunk) -> None:
        """Keep text and log-probabilities."""
        piece = self._take(chunk)
        self._texts.append(piece.text)
        if self._sampling.HasField("logprobs"):
            self._scores = (self._scores or []) + self._entries(piece)
        self._finish = piece

    def choice(self) -> schema.ChatChoice:
        """The answer."""
        assert self._finish is not None and self._finish.finish is not None
        return schema.ChatChoice(
            index=self._index,
            message=schema.AssistantMessage(role="assistant", content="".join(self._texts)),
            logprobs=None if self._scores is None else schema.ChatLogprobs(content=self._scores),
            finish_reason=self._finish.finish.value,
            stop_reason=stop_reason(self._finish),
        )

    def _entries(self, piece: Piece) -> list[schema.ChatTokenLogprob]:
        return [
            schema.ChatTokenLogprob(
                **self._spelled(each.token_id, each.logprob),
                top_logprobs=[schema.TopLogprob(**self._spelled(*likely)) for likely in each.top],
            )
            for each in piece.logprobs
        ]

    def _spelled(self, token_id: int, logprob: float) -> dict[str, object]:
        text, utf8 = self._tokenizer.spell(token_id)
        return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(utf8) or None}


class TextWriter(Writer):
    """An output of a completion."""

    _scores: TokenTexts | None = None

    def events(self, chunk: Chunk) -> str:
        """The prompt first, when it is repeated, then text, then the end."""
        text, scores, piece = self._news(chunk)
        found = self._event(f'"text":{to_json(text)}', scores and scores.dump()) if text or scores else ""
        return found + self._event('"text":""', None, piece) if piece.finish is not None else found

    def add(self, chunk: Chunk) -> None:
        """Keep text and log-probabilities."""
        text, scores, self._finish = self._news(chunk)
        self._texts.append(text)
        if scores is not None and self._scores is not None:
            self._scores.extend(scores)
        else:
            self._scores = self._scores or scores

    def choice(self) -> schema.TextChoice:
        """The answer."""
        assert self._finish is not None and self._finish.finish is not None
        return schema.TextChoice(
            index=self._index,
            text="".join(self._texts),
            logprobs=None if self._scores is None else self._scores.answer(),
            finish_reason=self._finish.finish.value,
            stop_reason=stop_reason(self._finish),
        )

    def _news(self, chunk: Chunk) -> tuple[str, TokenTexts | None, Piece]:
        """(text, log-probabilities, the piece); with the first chunk come the prompt's, if it is repeated."""
        piece = self._take(chunk)
        text, scores = piece.text, None
        echo = self._echo
        if self._sampling.HasField("logprobs"):
            scores = TokenTexts(top=self._sampling.logprobs > 0)
            if echo is not None and not self._begun:
                self._score_prompt(echo, scores)
            shift = 0 if echo is None else len(echo.text)
            for offset, each in zip(piece.offsets, piece.logprobs, strict=True):
                self._score(scores, each.token_id, each.logprob, each.top, offset + shift)
            scores = scores if scores.tokens else None
        if echo is not None and not self._begun:
            text = echo.text + text
        self._begun = True
        return text, scores, piece

    def _score_prompt(self, echo: Prompt, scores: TokenTexts) -> None:
        detokenizer, offset = self._tokenizer.detokenizer(), 0
        known = (None, *echo.logprobs)
        for token_id, found in zip(echo.token_ids, known, strict=True):
            logprob, top = (None, ()) if found is None else (found.logprob, found.top)
            self._score(scores, token_id, logprob, top, offset)
            offset += len(detokenizer.push((token_id,)))

    def _score(
        self,
        scores: TokenTexts,
        token_id: int,
        logprob: float | None,
        top: Sequence[tuple[int, float]],
        offset: int,
    ) -> None:
        scores.tokens.append(self._name(token_id))
        scores.token_logprobs.append(None if logprob is None else max(logprob, LEAST_LOGPROB))
        likely = {self._name(each): max(value, LEAST_LOGPROB) for each, value in top}
        scores.top_logprobs.append(None if logprob is None else likely)
        scores.text_offset.append(offset)

    def _name(self, token_id: int) -> str:
        """A token's text; where that is no whole character its bytes, as OpenAI writes them."""
        text, utf8 = self._tokenizer.spell(token_id)
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in utf8) if "\ufffd" in text and utf8 else text


def stop_reason(piece: Piece) -> str | int | None:
    """What ended an output."""
    return piece.stop_text if piece.stop_text is not None else piece.stop_token_id


def usage_of(writers: Mapping[int, Writer], per_prompt: int) -> schema.Usage:
    """What a call cost: each prompt once, all outputs.

    Args:
        per_prompt: outputs of each prompt.
    """
    firsts = [writer.stream for index, writer in writers.items() if index % per_prompt == 0]
    prompt = sum(len(stream.request.prompt) for stream in firsts)
    output = sum(writer.num_tokens for writer in writers.values())
    cached = sum(stream.tokens.cached_tokens for stream in firsts)
    return schema.Usage(
        prompt_tokens=prompt,
        completion_tokens=output,
        total_tokens=prompt + output,
        prompt_tokens_details=schema.PromptTokensDetails(cached_tokens=cached),
    )
